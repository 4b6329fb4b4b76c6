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
    "the target's command line would be {length} bytes long, kernels take {MAX}; shorten GRUB_CMDLINE_LINUX in \
     /etc/default/grub and reboot once"
)]
pub struct TooLong {
    /// Its length in bytes.
    pub length: usize,
}

/// Command line for `image`, the kernel that update `id` goes to, made from the `running` one (content of /proc/cmdline).
///
/// What the boot loader and an earlier update put there is left out, so that the line does not grow from update to update. `pid_floor` (see [`super::pid_floor`]) becomes
/// `sysctl.kernel.ns_last_pid`, behind `pid_max`, since a value above the default `pid_max` would be refused. Our words
/// stand before a `--`, because what follows it is init's.
///
/// # Errors
/// [`TooLong`].
pub fn target(running: &str, image: &Path, id: &UpdateId, pid_floor: u32, extra: &[&str]) -> Result<String, TooLong> {
    // A quote that is not closed would take in our words too; the kernel reads the last word the same with it closed.
    let running = closed(running);
    let words = split(&running);
    let (words, init) = words.split_at(words.iter().position(|w| *w == "--").unwrap_or(words.len()));
    let boot_image = closed(&boot_image(words, image)).into_owned();
    let (pid_max, floor) =
        (format!("sysctl.kernel.pid_max={PID_MAX}"), format!("sysctl.kernel.ns_last_pid={pid_floor}"));
    let transaction = format!("kup.txn={id}");

    let mut line = vec![boot_image.as_str()];
    line.extend(words.iter().filter(|w| !is_replaced(w) && !extra.contains(w)));
    line.extend([transaction.as_str(), &pid_max, &floor]);
    line.extend(extra);
    line.extend(init);

    let line = line.join(" ");
    if line.len() > MAX { Err(TooLong { length: line.len() }) } else { Ok(line) }
}

/// The value of `kup.txn=`, where the running kernel was started by an update.
pub fn transaction(running: &str) -> Option<UpdateId> {
    split(running).into_iter().take_while(|w| *w != "--").find_map(|w| w.strip_prefix("kup.txn=")?.parse().ok())
}

/// The words of `KernelArguments`, as [`target`] takes them.
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
fn boot_image(words: &[&str], image: &Path) -> String {
    let file = image.file_name().unwrap_or_default().to_string_lossy();
    let running = words.iter().find_map(|w| w.strip_prefix("BOOT_IMAGE="));
    match running.and_then(|r| r.rsplit_once('/')) {
        Some((directory, _)) => format!("BOOT_IMAGE={directory}/{file}"),
        None => format!("BOOT_IMAGE={}", image.display()),
    }
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

    fn make(running: &str) -> String {
        let image = Path::new("/boot/vmlinuz-6.12.107+deb13-cloud-amd64");
        target(running, image, &"5a".parse().unwrap(), 70_001, &["panic=10"]).unwrap()
    }

    const OURS: &str = "kup.txn=5a sysctl.kernel.pid_max=4194304 sysctl.kernel.ns_last_pid=70001 panic=10";

    #[test]
    fn made_from_the_running_one() {
        let new = "BOOT_IMAGE=/boot/vmlinuz-6.12.107+deb13-cloud-amd64";
        for (running, want) in [
            ("BOOT_IMAGE=/boot/vmlinuz-6.12.94 root=UUID=1-2 ro console=ttyS0\n", "root=UUID=1-2 ro console=ttyS0"),
            ("root=/dev/vda1 initrd=\\initrd.img\n", "root=/dev/vda1"),
            (r#"dyndbg="file a.c +p" kup.debug x"#, r#"dyndbg="file a.c +p" x"#),
            (r#"sysctl.kernel.pid_max=65536 "kup.a=b c" ro"#, "sysctl.kernel.pid_max=65536 ro"),
        ] {
            assert_eq!(make(running), format!("{new} {want} {OURS}"));
        }
        assert_eq!(make(""), format!("{new} {OURS}"));
        assert_eq!(make("ro -- single"), format!("{new} ro {OURS} -- single"));
        assert_eq!(make("ro -- kup.x panic=10"), format!("{new} ro {OURS} -- kup.x panic=10"), "that is init's");
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
        let id = "5a".parse().unwrap();
        let fits = MAX - target("", image, &id, 300, &[]).unwrap().len() - 1;
        assert_eq!(target(&"x".repeat(fits), image, &id, 300, &[]).unwrap().len(), MAX);
        assert_eq!(target(&"x".repeat(fits + 1), image, &id, 300, &[]), Err(TooLong { length: MAX + 1 }));
    }

    #[test]
    fn the_transaction_is_found_again() {
        assert_eq!(transaction(&make("ro")).unwrap().as_str(), "5a");
        for none in ["ro", "kup.txn=", "kup.txn=X", "-- kup.txn=5a", r#"a="b kup.txn=5a""#] {
            assert_eq!(transaction(none), None, "{none}");
        }
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
