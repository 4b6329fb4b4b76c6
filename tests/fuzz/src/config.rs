//! `kup.toml`.

use std::path::Path;

use kup::config::{ConfigError, Settings};
use kup::kernel::cmdline;

use super::texts;

/// One file over the other; a bad one changes nothing.
pub fn config(data: &[u8]) {
    let mut settings = Settings::default();
    for text in texts(data).filter_map(|text| str::from_utf8(text).ok()) {
        let before = settings.clone();
        match settings.overlay(text, Path::new("/etc/kup/kup.toml")) {
            Ok(()) => {
                is_sound(&settings);
                let after = settings.clone();
                settings.overlay(text, Path::new("/etc/kup/kup.toml")).unwrap();
                assert_eq!(settings, after);
            }
            Err(e @ (ConfigError::Syntax { .. } | ConfigError::Value { .. })) => {
                assert!(e.to_string().starts_with("/etc/kup/kup.toml: "));
                assert_eq!(settings, before);
            }
            Err(e) => panic!("{e}"),
        }
    }
}

fn is_sound(s: &Settings) {
    let timeouts = [s.restore_timeout_sec, s.address_timeout_sec, s.health_timeout_sec, s.lock_timeout_sec];
    assert!(timeouts.iter().all(|sec| *sec <= 86400) && s.restore_timeout_sec > 0);
    assert_eq!(u64::from(s.ghost_limit_bytes()), u64::from(s.ghost_limit_mib) << 20);
    cmdline::extra(&s.kernel_arguments).unwrap();
}
