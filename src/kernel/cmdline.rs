//! The target kernel's command line, made from the running one.

use std::borrow::Cow;
use std::path::Path;

use crate::update::UpdateId;

use super::PID_MAX;

/// The longest command line that kernels take: COMMAND_LINE_SIZE is 2048 with its NUL on x86 and arm64.
pub const MAX: usize = 2047;

/// The kernel would cut the command line off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the target's command line would be {length} bytes long, kernels take {MAX}; shorten it where the boot loader has it \
     from (GRUB_CMDLINE_LINUX in /etc/default/grub, or options in systemd-boot's entry) and reboot once"
)]
pub struct TooLong {
    /// Its length in bytes.
    pub length: usize,
}

/// Where a kexec leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the target of an update, which learns from the line that it is the one (`kup.txn=`).
    There,
    /// Back to where an update came from (`kup.back=`): the old kernel finds the record by itself, as after a reset.
    Back,
}

/// The words that an update adds.
#[derive(Debug, Clone, Copy)]
pub struct Ours<'a> {
    /// Where it leads.
    pub direction: Direction,
    /// The update.
    pub id: &'a UpdateId,
    /// See [`super::pid_floor`].
    pub pid_floor: u32,
    /// What the administrator and the trial of a new kernel add.
    pub extra: &'a [&'a str],
}

/// So many ranges of `memmap=` a kernel remembers while it chooses its address (MAX_MEMMAP_REGIONS).
const AVOIDED: usize = 4;
/// Has a kernel stay where it was loaded.
const FIXED: &str = "nokaslr";
/// The last of the words that an update adds: they are taken away as a whole by the next one.
const END: &str = "kup.end";

/// Command line for `image`, made from the `running` one (content of /proc/cmdline).
///
/// What the boot loader and an earlier update put there is left out, so that the line does not grow from update to update.
/// Where a kernel would overlook a range of memory that it is told to leave alone, it is told not to choose its address by
/// chance. `pid_floor` becomes `sysctl.kernel.ns_last_pid`, behind `pid_max`, since a value above the default `pid_max` would be
/// refused. Our words stand before a `--`, because what follows it is init's.
///
/// # Errors
/// [`TooLong`].
pub fn make(running: &str, image: &Path, ours: &Ours) -> Result<String, TooLong> {
    // A quote that is not closed would take in our words too; the kernel reads the last word the same with it closed.
    let running = closed(running);
    let words = split(&running);
    let (words, init) = words.split_at(words.iter().position(|w| *w == "--").unwrap_or(words.len()));
    let boot_image = boot_image(words, image).map(|word| closed(&word).into_owned());
    let begin = match ours.direction {
        Direction::There => format!("kup.txn={}", ours.id),
        Direction::Back => format!("kup.back={}", ours.id),
    };
    let (pid_max, floor) =
        (format!("sysctl.kernel.pid_max={PID_MAX}"), format!("sysctl.kernel.ns_last_pid={}", ours.pid_floor));

    let kept = without_ours(words);
    let mut line: Vec<&str> = boot_image.as_deref().into_iter().collect();
    line.extend(kept.iter().filter(|w| !is_replaced(w) && !ours.extra.contains(w)));
    line.extend([begin.as_str(), &pid_max, &floor]);
    line.extend(ours.extra);
    if overlooks(&line) && !line.contains(&FIXED) {
        line.push(FIXED);
    }
    line.push(END);
    line.extend(init);

    let line = line.join(" ");
    if line.len() > MAX { Err(TooLong { length: line.len() }) } else { Ok(line) }
}

/// Would a kernel perhaps be put where a `memmap=` tells it not to go? It keeps clear of the first four ranges, and stays where
/// it was loaded where one word goes on behind the fourth; but words behind that it does not read (mem_avoid_memmap() of
/// arch/x86/boot/compressed/kaslr.c of Linux 6.12).
fn overlooks(words: &[&str]) -> bool {
    let (mut seen, mut overlooked) = (0, false);
    for word in words.iter().filter_map(|w| w.strip_prefix("memmap=")) {
        let ranges = word.split(',').filter(|range| range.contains(['!', '#', '$'])).count();
        match seen {
            AVOIDED => overlooked |= ranges > 0,
            _ if seen + ranges > AVOIDED => return false,
            _ => seen += ranges,
        }
    }
    overlooked
}

/// Those of `words` that are in `line` as well: a kernel that is gone back to is booted with what it was booted with.
pub fn common<'a>(words: &'a str, line: &str) -> Vec<&'a str> {
    let line = split(line);
    split(words).into_iter().filter(|word| line.contains(word)).collect()
}

/// The value of `kup.txn=`, where the running kernel was started by an update.
pub fn transaction(running: &str) -> Option<UpdateId> {
    split(running).into_iter().take_while(|w| *w != "--").find_map(|w| w.strip_prefix("kup.txn=")?.parse().ok())
}

/// The kernel's own words of the `running` command line, without those that an update has added.
pub fn own(running: &str) -> Vec<&str> {
    let words = split(running);
    without_ours(words.split(|w| *w == "--").next().unwrap_or_default())
}

/// Leaves out what an update has added.
fn without_ours<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let begin = words.iter().position(|w| w.starts_with("kup.txn=") || w.starts_with("kup.back="));
    let end = words.iter().position(|w| *w == END);
    match (begin, end) {
        (Some(begin), Some(end)) if begin < end => [&words[..begin], &words[end + 1..]].concat(),
        _ => words.to_vec(),
    }
}

/// The words of `KernelArguments`, as [`make`] takes them.
///
/// # Errors
/// What is wrong with them, to follow the setting's name.
pub fn extra(arguments: &str) -> Result<Vec<&str>, &'static str> {
    let words = split(arguments);
    if arguments.contains(|c: char| c.is_control()) {
        Err("must be one line without control characters")
    } else if matches!(closed(arguments), Cow::Owned(_)) {
        Err("has a quote that is not closed")
    } else if words.iter().any(|w| *w == "--" || is_replaced(w)) {
        Err("must not contain '--' or a word that kup sets itself")
    } else {
        Ok(words)
    }
}

/// The text with its last quote closed.
fn closed(text: &str) -> Cow<'_, str> {
    if text.matches('"').count().is_multiple_of(2) {
        text.into()
    } else {
        format!("{}\"", text.trim_ascii_end()).into()
    }
}

/// Whether the target gets its own word for `word`.
fn is_replaced(word: &str) -> bool {
    let name = word.trim_start_matches('"');
    ["BOOT_IMAGE=", "initrd=", "kup.", "sysctl.kernel.ns_last_pid="].iter().any(|p| name.starts_with(p))
        || name == format!("sysctl.kernel.pid_max={PID_MAX}")
}

/// GRUB names the image as seen from the partition that it lies on (`/vmlinuz-…` with a /boot of its own): stay with that.
/// Other boot loaders do not, and [`crate::boot::detect`] knows GRUB by it.
fn boot_image(words: &[&str], image: &Path) -> Option<String> {
    let file = image.file_name().unwrap_or_default().to_string_lossy();
    let running = words.iter().find_map(|w| w.strip_prefix("BOOT_IMAGE="))?;
    Some(match running.rsplit_once('/') {
        Some((directory, _)) => format!("BOOT_IMAGE={directory}/{file}"),
        None => format!("BOOT_IMAGE={}", image.display()),
    })
}

/// The words as the kernel splits them (lib/cmdline.c, next_arg): at white space outside double quotes. Quotes are kept.
pub fn split(line: &str) -> Vec<&str> {
    let mut quoted = false;
    let words = line.split(move |c: char| {
        quoted ^= c == '"';
        !quoted && c.is_ascii_whitespace()
    });
    words.filter(|w| !w.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn make_with(running: &str, image: &Path, extra: &[&str]) -> Result<String, TooLong> {
        let id = "5a".parse().unwrap();
        super::make(running, image, &Ours { direction: Direction::There, id: &id, pid_floor: 70_001, extra })
    }

    fn make(running: &str) -> String {
        let image = Path::new("/boot/vmlinuz-6.12.107+deb13-cloud-amd64");
        make_with(running, image, &["panic=10"]).unwrap()
    }

    const OURS: &str = "kup.txn=5a sysctl.kernel.pid_max=4194304 sysctl.kernel.ns_last_pid=70001 panic=10 kup.end";

    #[test]
    fn the_way_back_has_only_words_that_were_there() {
        assert_eq!(common("quiet systemd.unit=emergency.target", "ro quiet"), ["quiet"]);
        assert_eq!(common("", "ro quiet"), [""; 0]);
    }

    #[test]
    fn neither_ours_nor_inits_are_its_own() {
        assert_eq!(own("ro kup.txn=5a panic=10 kup.end quiet -- panic=0"), ["ro", "quiet"]);
    }

    #[test]
    fn no_range_of_memory_is_overlooked() {
        let fixed = |running: &str, extra: &[&str]| {
            let line = make_with(running, Path::new("/boot/vmlinuz"), extra).unwrap();
            assert!(!line.contains("nokaslr nokaslr"), "{line}");
            line.contains("nokaslr")
        };
        let (one, four, five) =
            ("memmap=2M!4M", "memmap=1M!1M,1M!3M,1M#5M,1M$7M", "memmap=1M!1M,1M!3M,1M!5M,1M!7M,1M!9M");
        let words = [one; 5];
        assert!(!fixed("ro", &[four]) && !fixed("ro", &words[..4]), "it keeps clear of four");
        assert!(!fixed("ro", &[five]) && !fixed("ro", &[one, one, one, four]), "it notices a fifth in the same word");
        assert!(!fixed("ro", &[one, one, one, four, one]) && !fixed(five, &words), "and stays where it is");
        assert!(
            fixed("ro", &words) && fixed(four, &[one]) && fixed(four, &[five]),
            "behind the fourth it reads no word"
        );
        assert!(fixed("ro nokaslr", &words), "once is enough");
        assert!(!fixed("memmap=512M memmap=exactmap memmap=4G@1M", &words[..4]), "what is no range is not counted");
    }

    #[test]
    fn made_from_the_running_one() {
        let new = "BOOT_IMAGE=/boot/vmlinuz-6.12.107+deb13-cloud-amd64";
        for (running, want) in [
            ("BOOT_IMAGE=/boot/vmlinuz-6.12.94 root=UUID=1-2 ro console=ttyS0\n", "root=UUID=1-2 ro console=ttyS0"),
            (r#"BOOT_IMAGE=vmlinuz dyndbg="file a.c +p" kup.debug x"#, r#"dyndbg="file a.c +p" x"#),
            (
                r#"BOOT_IMAGE=/boot/vmlinuz-1 sysctl.kernel.pid_max=65536 "kup.a=b c" ro"#,
                "sysctl.kernel.pid_max=65536 ro",
            ),
            ("BOOT_IMAGE=vmlinuz ro kup.txn=49 modprobe.blacklist=i6300esb panic=5 kup.end panic=7", "ro panic=7"),
            ("BOOT_IMAGE=vmlinuz ro kup.txn=49 panic=5 kup.begin", "ro panic=5"),
        ] {
            assert_eq!(make(running), format!("{new} {want} {OURS}"));
        }
        assert_eq!(make(""), OURS);
        assert_eq!(make("ro -- single"), format!("ro {OURS} -- single"));
        assert_eq!(make("ro -- kup.x panic=10"), format!("ro {OURS} -- kup.x panic=10"), "that is init's");
        assert!(make("BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.1 ro").starts_with("BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.12.107"));
    }

    #[test]
    fn a_quote_that_is_not_closed_keeps_our_words_out() {
        for (running, want) in
            [("ro a=\"b c\n", "ro a=\"b c\" kup.txn="), ("BOOT_IMAGE=\"x y/z\" ro", "\"x y/vmlinuz-6.12.")]
        {
            let line = make(running);
            assert!(line.contains(want), "{line}");
            assert_eq!((transaction(&line).unwrap().as_str(), &make(&line)), ("5a", &line));
        }
    }

    #[test]
    fn words_of_the_setting() {
        assert_eq!(extra("quiet  dyndbg=\"file a +p\""), Ok(vec!["quiet", "dyndbg=\"file a +p\""]));
        for bad in ["a\tb", "a=\"b", "a -- b", "kup.txn=1", "sysctl.kernel.ns_last_pid=1"] {
            assert!(extra(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn too_long_is_an_error() {
        let image = Path::new("/boot/vmlinuz-1");
        let fits = MAX - make_with("", image, &[]).unwrap().len() - 1;
        assert_eq!(make_with(&"x".repeat(fits), image, &[]).unwrap().len(), MAX);
        assert_eq!(make_with(&"x".repeat(fits + 1), image, &[]), Err(TooLong { length: MAX + 1 }));
    }

    #[test]
    fn the_transaction_is_found_again() {
        assert_eq!(transaction(&make("ro")).unwrap().as_str(), "5a");
        for none in ["ro", "kup.txn=", "kup.txn=X", "-- kup.txn=5a", r#"a="b kup.txn=5a""#] {
            assert_eq!(transaction(none), None, "{none}");
        }
    }

    /// What was on trial with one kernel is not carried on to the next.
    #[test]
    fn the_words_of_an_update_go_with_it() {
        let image = Path::new("/boot/vmlinuz-1");
        let first =
            make_with("BOOT_IMAGE=/boot/vmlinuz-0 ro -- x", image, &["panic=10", "modprobe.blacklist=i6300esb"])
                .unwrap();
        assert!(first.contains("blacklist"));
        let id = "5b".parse().unwrap();
        let back = Ours { direction: Direction::Back, id: &id, pid_floor: 400, extra: &[] };
        let back = super::make(&first, image, &back).unwrap();
        let ours = "kup.back=5b sysctl.kernel.pid_max=4194304 sysctl.kernel.ns_last_pid=400 kup.end";
        assert_eq!(back, format!("BOOT_IMAGE=/boot/vmlinuz-1 ro {ours} -- x"));
        assert_eq!(transaction(&back), None);
    }

    proptest! {
        /// Update after update the line stays the same, and every word of the administrator stays.
        #[test]
        fn stable(words in prop::collection::vec(r#"[a-z.=/]{1,8}|[a-z]="[a-z ]{0,6}"|kup\.[a-z]|initrd=[a-z]"#, 0..12)) {
            let first = make(&words.join(" "));
            prop_assert_eq!(&make(&first), &first);
            let result = split(&first);
            for word in words.iter().filter(|w| !is_replaced(w)) {
                prop_assert!(result.contains(&word.as_str()), "{word} in {first}");
            }
        }
    }
}
