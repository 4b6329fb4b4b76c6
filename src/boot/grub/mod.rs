//! GRUB as Debian sets it up: a file in /etc/default/grub.d, `update-grub`, and then a look at the grub.cfg that came out.
//!
//! A setting and not grubenv, because grubenv's saved entry counts only with GRUB_DEFAULT=saved, and GRUB itself may
//! overwrite it (or, on LVM, RAID and btrfs, not be able to take a one-shot entry out again): it is only read here. A
//! setting is kept by every `update-grub` that a package runs while the pin is there. With UEFI firmware the same grub.cfg
//! counts: the one on the EFI system partition only leads to it.

pub(crate) mod env;
pub mod menu;
mod script;
mod settings;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{BootLoader, read, waits};
use crate::command;
use crate::kernel;
use crate::paths::Paths;
use crate::preflight::Finding;
use crate::sys::atomic;
use crate::update::Pin;

use menu::Menu;

/// Sorts behind everything else that packages and clouds put there.
const SETTING: &str = "/etc/default/grub.d/zz-kup.cfg";
const CONFIG: &str = "/boot/grub/grub.cfg";
const GRUBENV: &str = "/boot/grub/grubenv";
/// The first line of [`SETTING`].
const HEADER: &str = "# Written by kup; see kup(1).";

/// GRUB with Debian's `update-grub`, or with a plain `grub-mkconfig`.
#[derive(Debug, Clone)]
pub struct Grub {
    paths: Paths,
    /// The program that makes grub.cfg, and its arguments.
    generator: (PathBuf, Vec<String>),
}

impl Grub {
    /// # Errors
    /// When grub.cfg or the program that makes it is not there.
    pub fn new(paths: &Paths) -> Result<Self> {
        let config = paths.at(CONFIG);
        ensure!(config.is_file(), "{} is not there; is GRUB installed?", config.display());
        let update = paths.at("/usr/sbin/update-grub");
        let mkconfig = paths.at("/usr/sbin/grub-mkconfig");
        let generator = if update.is_file() {
            (update, Vec::new())
        } else if mkconfig.is_file() {
            (mkconfig, vec!["-o".into(), config.display().to_string()])
        } else {
            bail!("neither update-grub nor grub-mkconfig is there; install the package grub2-common");
        };
        Ok(Self { paths: paths.clone(), generator })
    }

    fn setting(&self) -> PathBuf {
        self.paths.at(SETTING)
    }

    fn grubenv(&self) -> Result<BTreeMap<String, String>> {
        Ok(read(&self.paths.at(GRUBENV))?.map(|text| env::parse(&text)).unwrap_or_default())
    }

    /// The menu as it would be shown at the next boot.
    fn menu(&self) -> Result<Menu> {
        let path = self.paths.at(CONFIG);
        let text = read(&path)?.with_context(|| format!("{} is not there; run update-grub", path.display()))?;
        menu::read(&text, &self.grubenv()?).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// Makes grub.cfg anew and brings it to the disk.
    fn generate(&self) -> Result<()> {
        let (program, arguments) = &self.generator;
        command::run(program, &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.sync()
    }

    /// update-grub does not sync, and a kexec that ends in a reset would not either.
    fn sync(&self) -> Result<()> {
        let boot = self.paths.at("/boot/grub");
        let directory = File::open(&boot).with_context(|| format!("cannot open {}", boot.display()))?;
        nix::unistd::syncfs(&directory).with_context(|| format!("cannot sync {}", boot.display()))
    }

    /// Writes the setting that makes `entry` the default.
    fn write_setting(&self, entry: &str, why: &str) -> Result<()> {
        // It goes through the shell into double quotes, and through GRUB's own double quotes after that.
        let plain = |c: char| (c.is_ascii_graphic() || c == ' ') && !"\"'`$\\".contains(c);
        ensure!(
            entry.chars().all(plain),
            "GRUB's entry id '{entry}' has a character that cannot be written as a setting"
        );
        self.put_setting(Some(&format!("{HEADER}\n# {why}\n{}\n", assignment(entry))))
    }

    /// Writes `content`, or removes the setting where it is `None`.
    fn put_setting(&self, content: Option<&str>) -> Result<()> {
        let path = self.setting();
        let done = match content {
            Some(text) => atomic::write(&path, text.as_bytes(), 0o644),
            None => {
                fs::remove_file(&path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
            }
        };
        done.with_context(|| format!("cannot change {}", path.display()))
    }

    /// Makes `entry`, which boots `release`, the default, and looks whether it is.
    fn set_default(&self, entry: &str, release: &str, why: &str) -> Result<()> {
        self.write_setting(entry, why)?;
        self.generate()?;
        let menu = self.menu()?;
        let booted = menu.release();
        if menu.default.as_deref() == Some(entry) && booted.as_deref() == Some(release) {
            return Ok(());
        }
        let instead = booted.map_or("something else".into(), |r| format!("kernel {r}"));
        Err(anyhow!(
            "after {SETTING} and update-grub GRUB would still boot {instead} by default (default=\"{}\"); look for \
             another GRUB_DEFAULT in a file that is read later, and for 'set default' in /etc/grub.d",
            menu.default.as_deref().unwrap_or("?")
        ))
    }

    /// Release of what would boot by default if `setting` were in the place of ours; without any, if it is `None`.
    /// GRUB_DEFAULT decides about nothing but the default: the menu is the one that is there.
    fn booted_with(&self, setting: Option<&str>) -> Result<Option<String>> {
        let default = settings::default_with(&self.paths, &self.setting(), setting)?;
        let default = match default.as_str() {
            "saved" => self.grubenv()?.remove("saved_entry").unwrap_or_default(),
            _ => default,
        };
        Ok(Menu { default: Some(default), ..self.menu()? }.release())
    }

    /// What a failure is undone with.
    fn backup(&self) -> Result<Backup> {
        let path = self.paths.at(CONFIG);
        let context = || format!("cannot read {}", path.display());
        let mode = fs::metadata(&path).with_context(context)?.permissions().mode() & 0o7777;
        Ok(Backup { config: fs::read(&path).with_context(context)?, mode, setting: read(&self.setting())? })
    }

    /// Runs `step`; where it fails both files become what they were before.
    fn all_or_nothing(&self, step: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.backup()?;
        step().map_err(|error| {
            let config = atomic::write(&self.paths.at(CONFIG), &before.config, before.mode);
            let restored =
                self.put_setting(before.setting.as_deref()).and(config.map_err(Into::into)).and_then(|()| self.sync());
            match restored {
                Ok(()) => error,
                Err(e) => {
                    error.context(format!("and what was there before could not be put back ({e:#}): run update-grub"))
                }
            }
        })
    }

    fn entry_of(&self, menu: &Menu, release: &str) -> Result<String> {
        let missing =
            || format!("GRUB's menu has no entry for kernel {release}; install its package again or run update-grub");
        menu.entry_of(release).with_context(missing)
    }

    /// Findings that need the menu.
    fn menu_findings(&self, menu: &Menu, found: &mut Vec<Finding>) -> Result<()> {
        let running = kernel::running(&self.paths)?;
        match menu.entry_of(&running) {
            None => found.push(no_entry(format!(
                "GRUB's menu has no entry for the running kernel {running}, so there is no way back to it"
            ))),
            Some(_) if !kernel::discover(&self.paths)?.iter().any(|k| k.release == running) => {
                found.push(no_entry(format!(
                    "the files of the running kernel {running} are gone from /boot or /lib/modules"
                )));
            }
            Some(_) => {}
        }
        if let Some(entry) = self.grubenv()?.get("next_entry").filter(|e| !e.is_empty()) {
            let message = format!("GRUB is told to boot '{entry}' once, at the next boot, whatever the default is");
            found.push(
                Finding::blocker("boot.one-shot", message).fix("grub-editenv /boot/grub/grubenv unset next_entry"),
            );
        }
        if menu.timeout.as_deref() == Some("-1") {
            found.push(waits("GRUB").fix("set GRUB_TIMEOUT in /etc/default/grub to some seconds, and run update-grub"));
        }
        if menu.saves_default() {
            let message = "GRUB_SAVEDEFAULT is on: a fall back to the old kernel makes that one the saved default";
            found.push(
                Finding::warning("boot.savedefault", message)
                    .fix("remove GRUB_SAVEDEFAULT=true from /etc/default/grub"),
            );
        }
        Ok(())
    }

    /// Settings that are read after ours, and the menu that no setting reaches.
    fn override_findings(&self, found: &mut Vec<Finding>) {
        let ours = self.setting();
        let later =
            fs::read_dir(self.paths.at("/etc/default/grub.d")).into_iter().flatten().flatten().map(|e| e.path());
        for path in later.filter(|p| p.extension().is_some_and(|e| e == "cfg") && *p > ours) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.lines().any(|l| l.trim_start().trim_start_matches("export ").starts_with("GRUB_DEFAULT=")) {
                let message = format!("{} sets GRUB_DEFAULT after {SETTING} does", path.display());
                found.push(
                    Finding::blocker("boot.overridden", message).fix("rename it so that it sorts before zz-kup.cfg"),
                );
            }
        }
        let custom = fs::read_to_string(self.paths.at("/boot/grub/custom.cfg")).unwrap_or_default();
        if custom.lines().any(|l| l.trim_start().trim_start_matches("set ").starts_with("default=")) {
            let message = "/boot/grub/custom.cfg sets the default entry itself";
            found.push(
                Finding::blocker("boot.overridden", message).fix("remove 'set default' from /boot/grub/custom.cfg"),
            );
        }
    }
}

struct Backup {
    config: Vec<u8>,
    mode: u32,
    setting: Option<String>,
}

/// The line of a setting that makes `entry` the default.
fn assignment(entry: &str) -> String {
    format!("GRUB_DEFAULT=\"{entry}\"")
}

/// Did kup write this setting?
fn is_ours(setting: &str) -> bool {
    setting.starts_with(HEADER)
}

/// Is this setting what a pin of `entry` puts there?
pub(super) fn sets(setting: &str, entry: &str) -> bool {
    is_ours(setting) && setting.lines().any(|line| line == assignment(entry))
}

fn no_entry(message: String) -> Finding {
    Finding::blocker("boot.no-entry", message).fix("install the running kernel's package again, or reboot once")
}

impl BootLoader for Grub {
    fn name(&self) -> &'static str {
        super::GRUB
    }

    fn plan(&self, release: &str) -> Result<Pin> {
        let entry = self.entry_of(&self.menu()?, release)?;
        Ok(Pin { loader: self.name().into(), entry, before: read(&self.setting())? })
    }

    fn pin(&self, pin: &Pin, release: &str) -> Result<()> {
        if let Some(once) = self.grubenv()?.get("next_entry").filter(|e| !e.is_empty()) {
            bail!("GRUB is told to boot '{once}' once; run: grub-editenv {GRUBENV} unset next_entry");
        }
        let why =
            "Until an update goes well, or 'kup abort' ends that, a reset must boot the kernel that ran before it.";
        self.all_or_nothing(|| self.set_default(&pin.entry, release, why))
            .context("cannot pin GRUB to the running kernel")
    }

    fn unpin(&self, pin: &Pin) -> Result<()> {
        // What somebody has set since is not ours to take away.
        if read(&self.setting())?.is_some_and(|text| sets(&text, &pin.entry)) {
            self.put_setting(pin.before.as_deref())?;
        }
        // Also where the setting is gone already: an interrupted unpin may have left the old grub.cfg.
        self.generate().context("cannot unpin GRUB")?;
        self.menu().map(drop)
    }

    fn bless(&self, pin: &Pin, release: &str) -> Result<()> {
        // What kup has put there is not needed any more where GRUB's own choice will do.
        let theirs = pin.before.as_deref().filter(|text| !is_ours(text));
        self.all_or_nothing(|| {
            let does = |booted: Option<String>| booted.as_deref() == Some(release);
            for setting in theirs.map(Some).into_iter().chain([None]) {
                // Reckoned, not tried: on the way back never, not for a moment, may the other kernel be the default.
                if does(self.booted_with(setting)?) {
                    self.put_setting(setting)?;
                    self.generate()?;
                    if does(self.default_release()?) {
                        return Ok(());
                    }
                }
            }
            let entry = self.entry_of(&self.menu()?, release)?;
            tracing::warn!(
                "kernel {release} boots by default because {SETTING} makes it so; remove that file and run update-grub to \
                 change it"
            );
            self.set_default(&entry, release, "The last update went to this kernel, and GRUB may prefer another one.")
        })
        .with_context(|| format!("cannot make kernel {release} GRUB's default"))
    }

    fn default_release(&self) -> Result<Option<String>> {
        Ok(self.menu()?.release())
    }

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Err(e) = self.menu().and_then(|menu| self.menu_findings(&menu, &mut found)) {
            found.push(Finding::blocker("boot.unreadable", format!("{e:#}")).fix("run update-grub"));
        }
        self.override_findings(&mut found);
        found
    }
}

#[cfg(test)]
mod tests;
