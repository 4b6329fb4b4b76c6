//! Which limits end a new kernel's trial, beside the watchdog?

use std::fs;

use crate::config::Settings;
use crate::kernel::{cmdline, panic};
use crate::paths::Paths;
use crate::preflight::{Finding, Needs};

pub fn ask(paths: &Paths, settings: &Settings, needs: &Needs) -> Vec<Finding> {
    let running = fs::read_to_string(paths.cmdline()).unwrap_or_default();
    let (own, extra) = (cmdline::own(&running), cmdline::split(&settings.kernel_arguments));
    let panic = panic::resets_after(own.into_iter().chain(extra.iter().copied()));
    let stands_still = panic.err().map(|word| disarmed(word, extra.contains(&word)));
    stands_still.into_iter().chain([limits(settings, panic, needs)]).collect()
}

fn disarmed(word: &str, is_setting: bool) -> Finding {
    let key = word.split('=').next().unwrap_or(word);
    let (place, fix) = match is_setting {
        true => ("in KernelArguments", format!("take {word} out of KernelArguments in kup.toml")),
        false => ("of the running kernel's command line", format!("add {key}=10 to KernelArguments in kup.toml")),
    };
    Finding::warning("trial.panic", format!("{word} {place}: a panic of the new kernel does not reset the machine"))
        .fix(fix)
}

/// All in one sentence: it is read at every check.
fn limits(settings: &Settings, panic: Result<u32, &str>, needs: &Needs) -> Finding {
    let panic = match panic {
        Ok(seconds) => format!("panic armed (reset after {seconds} s)"),
        Err(word) => format!("panic not armed ({word})"),
    };
    let restore = settings.restore_timeout_sec + settings.address_timeout_sec;
    let health = match needs.health_checks {
        0 => "health check not armed (no service has KUPHealthCheck=)".into(),
        n => format!("health check armed for {n} of {} services ({} s each)", needs.units, settings.health_timeout_sec),
    };
    let boot = settings.boot_timeout_sec;
    let message = format!(
        "limits of a new kernel's trial: {panic}, restore armed ({restore} s), boot armed ({boot} s), {health}"
    );
    Finding::note("trial.limits", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    fn ask(running: &str, arguments: &str, needs: &Needs) -> Vec<Finding> {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        fs::create_dir_all(paths.cmdline().parent().unwrap()).unwrap();
        fs::write(paths.cmdline(), running).unwrap();
        super::ask(&paths, &Settings { kernel_arguments: arguments.into(), ..Settings::default() }, needs)
    }

    #[test]
    fn each_limit_is_armed_or_not() {
        let found = ask("ro quiet\n", "", &Needs { units: 3, health_checks: 2, ..Needs::default() });
        let all = "limits of a new kernel's trial: panic armed (reset after 10 s), restore armed (150 s), boot armed (240 s), \
                   health check armed for 2 of 3 services (60 s each)";
        assert_eq!(found, [Finding::note("trial.limits", all)]);
        let none = &ask("ro panic=30", "", &Needs { units: 3, ..Needs::default() })[0].message;
        assert!(none.contains("after 30 s") && none.contains("health check not armed (no service has"), "{none}");
    }

    #[test]
    fn who_disarms_the_reset_is_named() {
        let needs = Needs::default();
        let found = ask("ro panic=0\n", "quiet", &needs);
        assert_eq!((found[0].id.as_str(), found[0].severity), ("trial.panic", Severity::Warning));
        assert!(found[0].message.contains("panic=0 of the running") && found[0].fix.contains("add panic=10 to"));
        assert!(found[1].message.contains("panic not armed (panic=0)"));
        assert_eq!(ask("ro panic=0\n", "panic=10", &needs).len(), 1, "the way out is one");
        let found = ask("ro\n", "panic=0", &needs);
        assert!(found[0].message.contains("in KernelArguments") && found[0].fix.contains("out of KernelArguments"));
    }
}
