//! Which kernel an update goes to.

use super::{Installed, compare_releases};
use crate::update::TargetKernel;

/// Why there is no kernel to go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// The one that was asked for is not there.
    #[error("kernel {asked} is not installed (installed: {installed}); install its package or ask for another one")]
    NotInstalled {
        /// What was asked for.
        asked: String,
        /// What there is.
        installed: String,
    },
    /// Nothing newer than what runs.
    #[error("no kernel newer than the running {running} is installed; install one, or name the kernel to switch to")]
    UpToDate {
        /// What runs.
        running: String,
    },
}

/// The kernel to switch to: the one `asked` for; else the `staged` one, as long as it is installed and does not run yet;
/// else the newest installed one, if it is newer than the `running` one. Asking for the running release is allowed.
///
/// # Errors
/// [`NoTarget`].
pub fn choose_target(
    installed: &[Installed],
    staged: Option<&str>,
    asked: Option<&str>,
    running: &str,
) -> Result<TargetKernel, NoTarget> {
    let find = |release: &str| installed.iter().find(|k| k.release == release);
    if let Some(asked) = asked {
        return find(asked).cloned().map(Into::into).ok_or_else(|| {
            let names: Vec<_> = installed.iter().map(|k| k.release.as_str()).collect();
            NoTarget::NotInstalled { asked: asked.into(), installed: names.join(", ") }
        });
    }
    let newest = || {
        let newest = installed.iter().max_by(|a, b| compare_releases(&a.release, &b.release));
        newest.filter(|k| compare_releases(&k.release, running).is_gt())
    };
    let chosen = staged.filter(|s| *s != running).and_then(find).or_else(newest);
    chosen.cloned().map(Into::into).ok_or_else(|| NoTarget::UpToDate { running: running.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_then_staged_then_newest() {
        let kernel =
            |r: &str| Installed { release: r.into(), image: format!("/boot/vmlinuz-{r}").into(), initrd: None };
        let all = [kernel("6.1"), kernel("6.9"), kernel("6.12")];
        let choose = |staged, asked, running| choose_target(&all, staged, asked, running).map(|k| k.release);
        assert_eq!(choose(Some("6.9"), Some("6.1"), "6.12").unwrap(), "6.1");
        assert_eq!(choose(None, Some("6.12"), "6.12").unwrap(), "6.12");
        assert_eq!(choose(Some("6.9"), None, "6.12").unwrap(), "6.9");
        assert_eq!(choose(Some("6.10"), None, "6.1").unwrap(), "6.12", "the staged one was removed");
        assert_eq!(choose(Some("6.9"), None, "6.9").unwrap(), "6.12", "the staged one runs already");
        assert_eq!(choose(None, None, "6.9").unwrap(), "6.12");
        assert_eq!(choose(None, None, "6.12"), Err(NoTarget::UpToDate { running: "6.12".into() }));
        let e = choose(None, Some("7.0"), "6.12").unwrap_err().to_string();
        assert!(e.contains("7.0 is not installed") && e.contains("6.1, 6.9, 6.12"), "{e}");
    }
}
