//! One entry of the menu: its file's name, and the file of a type #1 entry
//! (uapi-group.org/specifications/specs/boot_loader_specification).

use std::path::PathBuf;

use crate::kernel::check_release;

/// Boot counting: how often the entry will still be tried, and was tried in vain
/// (systemd.io/AUTOMATIC_BOOT_ASSESSMENT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// At 0 the entry counts as bad.
    pub left: u32,
    /// Boots that nobody has called good.
    pub done: u32,
}

/// An entry that systemd-boot shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The file's name without the counter: it stays the same while the file is renamed from boot to boot.
    pub id: String,
    /// The file.
    pub file: PathBuf,
    /// `None` where boots of it are not counted.
    pub tries: Option<Tries>,
    /// Groups entries; those with one come first.
    pub sort_key: Option<String>,
    /// Of the installation that it belongs to.
    pub machine_id: Option<String>,
    /// Entries of a group are sorted by it.
    pub version: Option<String>,
    /// Release of the Linux kernel that it boots.
    pub release: Option<String>,
    /// It is one file with kernel, initrd and command line (type #2).
    pub unified: bool,
    /// Files that it needs and that are not there; without the kernel the entry would not be shown at all.
    pub missing: Vec<PathBuf>,
}

/// Splits the counter off a file name: `foo+2-1.conf` becomes `foo.conf` with 2 left and 1 done. What does not end in
/// `suffix` is no entry.
///
/// As boot_entry_parse_tries() in systemd's src/boot/boot.c: only the last `+` counts, so that a release such as
/// `6.12.107+deb13-amd64` is none.
pub fn split_name(file: &str, suffix: &str) -> Option<(String, Option<Tries>)> {
    let stem = file.len().checked_sub(suffix.len()).and_then(|at| file.split_at_checked(at));
    let (stem, _) = stem.filter(|(_, end)| end.eq_ignore_ascii_case(suffix))?;
    if file.starts_with('.') || stem.get(..5).is_some_and(|s| s.eq_ignore_ascii_case("auto-")) {
        return None;
    }
    Some(match stem.rsplit_once('+').and_then(|(name, counter)| Some((name, tries(counter)?))) {
        Some((name, tries)) => (format!("{name}{}", &file[stem.len()..]), Some(tries)),
        None => (file.to_string(), None),
    })
}

/// `LEFT` or `LEFT-DONE`.
fn tries(counter: &str) -> Option<Tries> {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    Some(Tries { left: number(left)?, done: number(done)? })
}

/// A type #1 entry's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Type1 {
    /// `linux`, else `uki` or `efi`: what is started, as a path on the entry's partition.
    pub image: Option<String>,
    /// Whether it is a Linux kernel by itself.
    pub linux: bool,
    /// `initrd`, as often as it is there.
    pub initrds: Vec<String>,
    /// `version`.
    pub version: Option<String>,
    /// `sort-key`.
    pub sort_key: Option<String>,
    /// `machine-id`.
    pub machine_id: Option<String>,
    /// `architecture`.
    pub architecture: Option<String>,
}

impl Type1 {
    /// Reads the file. Each line is a key, white space and a value; what is not understood is left out, as the boot loader does.
    pub fn parse(text: &str) -> Self {
        let mut entry = Self::default();
        for (key, value) in lines(text) {
            let value = value.to_string();
            match key {
                "linux" => (entry.image, entry.linux) = (Some(value), true),
                "efi" | "uki" => (entry.image, entry.linux) = (Some(value), false),
                "initrd" => entry.initrds.push(value),
                "version" => entry.version = Some(value),
                "sort-key" => entry.sort_key = Some(value),
                "machine-id" => entry.machine_id = Some(value),
                "architecture" => entry.architecture = Some(value),
                _ => {}
            }
        }
        entry
    }

    /// The kernel's release: kernel-install names a directory after it, others the image; `version` need not be one.
    pub fn release(&self) -> Option<String> {
        if !self.linux {
            return None;
        }
        let mut path = self.image.as_deref()?.rsplit(['/', '\\']);
        let (file, directory) = (path.next()?, path.next());
        let named = ["vmlinuz-", "vmlinux-", "linux-", "kernel-"].iter().find_map(|p| file.strip_prefix(p));
        let is_release = |r: &&str| r.starts_with(|c: char| c.is_ascii_digit()) && check_release(r).is_ok();
        [named, directory, self.version.as_deref()].into_iter().flatten().find(is_release).map(str::to_string)
    }

    /// Whether it is for this machine's processor.
    pub fn fits(&self) -> bool {
        let ours = match std::env::consts::ARCH {
            "x86_64" => "x64",
            "aarch64" => "aa64",
            "x86" => "ia32",
            other => other,
        };
        self.architecture.as_ref().is_none_or(|a| a.eq_ignore_ascii_case(ours))
    }
}

/// Keys and values of loader.conf and of entries: white space between them, comments begin with `#`.
pub fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().map(str::trim).filter(|l| !l.starts_with('#')).filter_map(|line| {
        let (key, value) = line.split_once([' ', '\t'])?;
        Some((key, value.trim())).filter(|(_, value)| !value.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &str = include_str!("testdata/kernel-install.conf");

    #[test]
    fn names_and_counters() {
        let tries = |left, done| Some(Tries { left, done });
        for (file, id, want) in [
            ("foo.conf", "foo.conf", None),
            ("foo+3.conf", "foo.conf", tries(3, 0)),
            ("foo+2-1.conf", "foo.conf", tries(2, 1)),
            ("foo+0-3.CONF", "foo.CONF", tries(0, 3)),
            ("id-6.12.107+deb13-cloud-amd64.conf", "id-6.12.107+deb13-cloud-amd64.conf", None),
            ("id-6.12.107+deb13-cloud-amd64+1-2.conf", "id-6.12.107+deb13-cloud-amd64.conf", tries(1, 2)),
            ("foo+.conf", "foo+.conf", None),
            ("foo+1-.conf", "foo+1-.conf", None),
            ("foo+-1.conf", "foo+-1.conf", None),
            ("foo+99999999999.conf", "foo+99999999999.conf", None),
            (".conf", "", None),
        ] {
            let got = split_name(file, ".conf");
            assert_eq!(got, Some((id.to_string(), want)).filter(|_| !id.is_empty()), "{file}");
        }
        for none in ["foo.efi", "conf", "", ".foo.conf", "auto-windows.conf", "é"] {
            assert_eq!(split_name(none, ".conf"), None, "{none}");
        }
    }

    #[test]
    fn what_kernel_install_writes() {
        let entry = Type1::parse(REAL);
        assert_eq!(entry.release().as_deref(), Some("6.12.107+deb13-cloud-amd64"));
        assert_eq!(entry.sort_key.as_deref(), Some("debian"));
        assert_eq!(entry.machine_id.as_deref(), Some("5b5a3b0c9dd0459f9ae1c0ffee5b5a3b"));
        assert_eq!(entry.initrds.len(), 1);
        assert!(entry.fits());
    }

    #[test]
    fn where_the_release_is() {
        for (text, want) in [
            ("linux /vmlinuz-6.12.1\nversion Old", Some("6.12.1")),
            ("linux \\EFI\\token\\6.12.1\\linux", Some("6.12.1")),
            ("linux /EFI/debian/linux\nversion 6.12.1", Some("6.12.1")),
            ("linux /vmlinuz-linux\nversion rolling", None),
            ("efi /EFI/tools/6.12.1/shell.efi\nversion 6.12.1", None),
            ("version 6.12.1", None),
        ] {
            assert_eq!(Type1::parse(text).release().as_deref(), want, "{text}");
        }
        assert!(!Type1::parse("architecture riscv64").fits());
        assert!(Type1::parse("# linux /a\n linux\n\tlinux\t /b c \n").image.as_deref() == Some("/b c"));
    }

    proptest! {
        #[test]
        fn counters_come_off(name in "[a-zA-Z0-9][a-zA-Z0-9.+-]{0,12}[a-z]", left in 0..1000_u32, done in 0..1000_u32) {
            prop_assume!(!name.starts_with("auto-"));
            let want = |tries| Some((format!("{name}.conf"), tries));
            prop_assert_eq!(split_name(&format!("{name}.conf"), ".conf"), want(None));
            let counted = format!("{name}+{left}-{done}.conf");
            prop_assert_eq!(split_name(&counted, ".conf"), want(Some(Tries { left, done })));
            let fresh = format!("{name}+{left}.conf");
            prop_assert_eq!(split_name(&fresh, ".conf"), want(Some(Tries { left, done: 0 })));
        }

        #[test]
        fn any_text(text in any::<String>(), file in any::<String>()) {
            let _ = Type1::parse(&text).release();
            if let Some((id, _)) = split_name(&file, ".conf") {
                prop_assert!(id.len() <= file.len() && !id.is_empty());
            }
        }

        /// Fields are found in any order, whatever stands between them.
        #[test]
        fn order_does_not_matter(seed in any::<prop::sample::Index>(), noise in "[a-z]{1,8}(-x)? [ -~]{0,20}") {
            let known = ["linux", "efi", "uki", "initrd", "version", "sort-key", "machine-id", "architecture"];
            prop_assume!(!known.iter().any(|k| noise.starts_with(&format!("{k} "))));
            let mut lines: Vec<&str> = REAL.lines().collect();
            let at = seed.index(lines.len());
            lines.rotate_left(at);
            lines.insert(at, &noise);
            prop_assert_eq!(Type1::parse(&lines.join("\n")), Type1::parse(REAL));
        }
    }
}
