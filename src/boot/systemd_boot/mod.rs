//! systemd-boot: the EFI variable LoaderEntryDefault holds the pin.
//!
//! The variable and not loader.conf, because it goes before that file and before the order of the entries, so that neither
//! an installed kernel nor boot counting has a say; and it lies in the firmware, so that it is written once it is written.
//! It is set by `bootctl`, which knows of immutable variables and spares the NVRAM, and read back by us.

mod entry;
mod findings;
mod glob;
mod menu;
mod uki;
mod version;

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::{BootLoader, efi};
use crate::command;
use crate::paths::Paths;
use crate::preflight::Finding;
use crate::update::Pin;

use entry::Entry;
use menu::{Choice, Config, Menu};

const BOOTCTL: &str = "/usr/bin/bootctl";
const DEFAULT: &str = "LoaderEntryDefault";
/// LoaderFeatures: LoaderEntryPreferred is known.
const FEATURE_PREFERRED: u64 = 1 << 19;

/// systemd-boot with its tool.
#[derive(Debug, Clone)]
pub struct SystemdBoot {
    paths: Paths,
    bootctl: PathBuf,
}

impl SystemdBoot {
    /// # Errors
    /// When bootctl is not there.
    pub fn new(paths: &Paths) -> Result<Self> {
        let bootctl = paths.at(BOOTCTL);
        ensure!(bootctl.is_file(), "{BOOTCTL} is not there; install the package systemd-boot");
        Ok(Self { paths: paths.clone(), bootctl })
    }

    /// Roots of the partitions that hold entries, where they are mounted. bootctl asks for a path that lies on an
    /// automount, so that it is mounted then.
    fn partitions(&self) -> Result<Vec<PathBuf>> {
        let ask = |option| command::run(&self.bootctl, &[option]).map(|said| PathBuf::from(said.trim_end()));
        let mut roots = vec![ask("--print-esp-path").context("the EFI system partition cannot be found")?];
        // XBOOTLDR where there is one, else the same again.
        roots.extend(ask("--print-boot-path").ok().filter(|boot| *boot != roots[0]));
        Ok(roots)
    }

    /// The menu as it would be shown at the next boot.
    fn menu(&self) -> Result<Menu> {
        Menu::read(&self.partitions()?)
    }

    /// What chooses the default in it.
    fn choice(&self) -> Result<Choice> {
        let variable = |name| efi::loader(&self.paths, name);
        let file = self.partitions()?.swap_remove(0).join("loader/loader.conf");
        let knows_preferred = efi::loader_features(&self.paths) & FEATURE_PREFERRED != 0;
        let mut config = Config::parse(&super::read(&file)?.unwrap_or_default());
        config.preferred = config.preferred.filter(|_| knows_preferred);
        Ok(Choice {
            preferred: variable("LoaderEntryPreferred")?.filter(|_| knows_preferred),
            variable: variable(DEFAULT)?,
            saved: variable("LoaderEntryLastBooted")?,
            config,
        })
    }

    /// The entry of kernel `release`. LoaderEntrySelected speaks of the last boot through the firmware: after a kexec it
    /// is still there and names the kernel before it, so it only decides between several entries of one kernel.
    fn entry_of<'a>(&self, menu: &'a Menu, release: &str) -> Result<Option<&'a Entry>> {
        let machine_id = super::read(&self.paths.at("/etc/machine-id"))?.unwrap_or_default();
        let selected = efi::loader(&self.paths, "LoaderEntrySelected")?;
        Ok(menu.entry_of(release, machine_id.trim(), selected.as_deref()))
    }

    fn require_entry(&self, menu: &Menu, release: &str) -> Result<Entry> {
        let entry = self.entry_of(menu, release)?.cloned();
        entry.with_context(|| {
            format!(
                "systemd-boot's menu has no entry for kernel {release} with all of its files; install its package again or \
                 run kernel-install add {release} /boot/vmlinuz-{release}"
            )
        })
    }

    /// Sets the variable, or removes it, and looks whether it is so.
    fn set_default(&self, id: Option<&str>) -> Result<()> {
        if efi::loader(&self.paths, DEFAULT)?.as_deref() == id {
            return Ok(());
        }
        command::run(&self.bootctl, &["set-default", id.unwrap_or_default()])?;
        let now = efi::loader(&self.paths, DEFAULT)?;
        let show = |id: Option<&str>| id.map_or("not set".into(), |id| format!("'{id}'"));
        if now.as_deref() != id {
            bail!("after bootctl set-default {DEFAULT} is {} and not {}", show(now.as_deref()), show(id));
        }
        Ok(())
    }

    /// Sets the variable to `entry` and looks whether that makes `release` the default.
    fn choose(&self, entry: &str, release: &str) -> Result<()> {
        self.set_default(Some(entry))?;
        let booted = self.default_release()?;
        if booted.as_deref() == Some(release) {
            return Ok(());
        }
        let instead = booted.map_or("something else".into(), |r| format!("kernel {r}"));
        bail!("with {DEFAULT}={entry} systemd-boot would still boot {instead} by default; see bootctl list")
    }

    /// Release of what would boot by default if the variable were `variable`.
    fn booted_with(&self, variable: Option<&str>) -> Result<Option<String>> {
        let choice = Choice { variable: variable.map(Into::into), ..self.choice()? };
        Ok(self.menu()?.boots(&choice).and_then(|e| e.release.clone()))
    }

    /// Runs `step`; where it fails the variable becomes `otherwise`.
    fn all_or_nothing(&self, otherwise: Option<&str>, step: impl FnOnce() -> Result<()>) -> Result<()> {
        step().map_err(|error| match self.set_default(otherwise) {
            Ok(()) => error,
            Err(e) => {
                error.context(format!("and {DEFAULT} could not be set to what it was ({e:#}): see bootctl status"))
            }
        })
    }

    /// Takes the boot counter off the entry of `release`, as `systemd-bless-boot good` would.
    ///
    /// Counting is systemd-boot's: it takes one try away when it starts an entry. A kexec goes past it, so the new kernel's
    /// entry is neither charged for this boot nor can systemd-bless-boot call it good: LoaderBootCountPath still names the
    /// entry of the last boot through the firmware, which is the old kernel's. What a boot with all services up is worth,
    /// the entry gets from us. If it had no tries left, it would not even be the default.
    fn mark_good(&self, release: &str) -> Result<()> {
        let menu = self.menu()?;
        let Some(entry) = self.entry_of(&menu, release)?.filter(|e| e.tries.is_some()) else { return Ok(()) };
        let good = entry.file.with_file_name(&entry.id);
        if good.exists() {
            // Two files with one id: nobody can say which of them was booted.
            return Ok(());
        }
        let context = || format!("cannot rename {} to {}", entry.file.display(), good.display());
        fs::rename(&entry.file, &good).with_context(context)?;
        let directory = File::open(good.parent().unwrap_or(&good)).with_context(context)?;
        directory.sync_all().and_then(|()| Ok(nix::unistd::syncfs(&directory)?)).with_context(context)
    }
}

impl BootLoader for SystemdBoot {
    fn name(&self) -> &'static str {
        super::SYSTEMD_BOOT
    }

    fn plan(&self, release: &str) -> Result<Pin> {
        let entry = self.require_entry(&self.menu()?, release)?;
        let before = efi::loader(&self.paths, DEFAULT)?;
        // bootctl takes these for something else, so that they could not be put back.
        if let Some(odd) = before.as_deref().filter(|b| b.starts_with('@') && *b != "@saved") {
            bail!("{DEFAULT} is '{odd}', which systemd-boot does not know; run: bootctl set-default ''");
        }
        Ok(Pin { loader: self.name().into(), entry: entry.id, before })
    }

    fn pin(&self, pin: &Pin, release: &str) -> Result<()> {
        if let Some(once) = efi::loader(&self.paths, "LoaderEntryOneShot")? {
            bail!("systemd-boot is told to boot '{once}' once; run: bootctl set-oneshot ''");
        }
        self.all_or_nothing(pin.before.as_deref(), || self.choose(&pin.entry, release))
            .context("cannot pin systemd-boot to the running kernel")
    }

    fn unpin(&self, pin: &Pin) -> Result<()> {
        // What somebody has set since is not ours to take away.
        if efi::loader(&self.paths, DEFAULT)?.as_deref() != Some(&pin.entry) {
            return Ok(());
        }
        self.set_default(pin.before.as_deref()).context("cannot unpin systemd-boot")
    }

    fn bless(&self, pin: &Pin, release: &str) -> Result<()> {
        if let Err(e) = self.mark_good(release) {
            // systemd-boot goes on counting then, and systemd-bless-boot ends that after the next ordinary boot.
            tracing::warn!("boots of kernel {release} are still counted: {e:#}");
        }
        let before = pin.before.as_deref();
        // Reckoned, not tried: on the way back never, not for a moment, may the other kernel be the default.
        let would_do = |variable| Ok::<_, anyhow::Error>(self.booted_with(variable)?.as_deref() == Some(release));
        let bless = || {
            if would_do(before)? {
                return self.set_default(before);
            }
            let before = before.unwrap_or_default();
            if would_do(None)? {
                tracing::warn!(
                    "{DEFAULT} was '{before}' and would keep kernel {release} from being booted: it is removed"
                );
                return self.set_default(None);
            }
            let entry = self.require_entry(&self.menu()?, release)?.id;
            tracing::warn!(
                "by itself systemd-boot would not boot kernel {release} by default; {DEFAULT}={entry} makes it so, \
                 'bootctl set-default \"{before}\"' puts back what was there"
            );
            self.choose(&entry, release)
        };
        self.all_or_nothing(Some(&pin.entry), bless)
            .with_context(|| format!("cannot make kernel {release} systemd-boot's default"))
    }

    fn default_release(&self) -> Result<Option<String>> {
        Ok(self.menu()?.boots(&self.choice()?).and_then(|e| e.release.clone()))
    }

    fn findings(&self) -> Vec<Finding> {
        findings::ask(self)
    }
}

#[cfg(test)]
mod tests;
