//! The watchdog drivers that are known, and what each does around a kexec (Linux 6.12; tried: i6300esb and iTCO_wdt in
//! QEMU, both with a hang and with a good boot; the others read in source).

/// What loading a driver does to a timer that runs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It stops it.
    Stops,
    /// It lets it run, and the kernel pings it until the device is opened (WDOG_HW_RUNNING). Opening and closing stops it.
    Adopts,
}

/// A driver whose timer can run on over a kexec, and be stopped after it.
#[derive(Debug, PartialEq, Eq)]
pub struct Driver {
    /// Its module.
    pub module: &'static str,
    /// What loading it in the new boot does. Either way it must not happen by itself, so the target's command line keeps
    /// it from being loaded.
    pub probe: Probe,
    /// Whether a restart stops the timer (watchdog_stop_on_reboot()), which a kexec is to the kernel, unless
    /// `watchdog.stop_on_reboot=0` was in force when the driver was loaded.
    pub stops_on_reboot: bool,
    /// How many times the timer runs down before the machine is reset.
    pub rounds: u32,
    /// The longest time of one round in seconds, for drivers that do not tell the kernel.
    pub max: Option<u32>,
}

static DRIVERS: [Driver; 6] = [
    Driver { module: "i6300esb", probe: Probe::Stops, stops_on_reboot: true, rounds: 1, max: Some(2046) },
    // Since TCO version 2 (2005) the hardware counts down twice. 1023 ticks of 0.6 s.
    Driver { module: "iTCO_wdt", probe: Probe::Adopts, stops_on_reboot: true, rounds: 2, max: Some(613) },
    Driver { module: "wdat_wdt", probe: Probe::Adopts, stops_on_reboot: true, rounds: 1, max: None },
    // 65535 ticks of 128 ms. Its max_timeout is 0: what is longer is pinged by the kernel, which ends with the kexec.
    Driver { module: "hpwdt", probe: Probe::Adopts, stops_on_reboot: false, rounds: 1, max: Some(8388) },
    Driver { module: "sp5100_tco", probe: Probe::Stops, stops_on_reboot: true, rounds: 1, max: Some(65535) },
    Driver { module: "intel_oc_wdt", probe: Probe::Adopts, stops_on_reboot: true, rounds: 1, max: Some(1024) },
];

/// Drivers that are no use, and why: `the driver … `.
const USELESS: [(&str, &str); 2] = [
    ("softdog", "counts in the running kernel, and ends with it"),
    // It is no device of the watchdog class, and resets by the management controller's rules.
    ("ipmi_watchdog", "is not supported by kup: it has not been tried how its timer is stopped in the new boot"),
];

/// The driver in module `name`.
///
/// # Errors
/// Why it cannot be used.
pub fn find(name: &str) -> Result<&'static Driver, &'static str> {
    if let Some(driver) = DRIVERS.iter().find(|d| d.module == name) {
        return Ok(driver);
    }
    let useless = USELESS.iter().find(|(module, _)| *module == name).map(|(_, why)| *why);
    Err(useless.unwrap_or("is not one that kup knows: its timer might not be stopped after a good boot"))
}

impl Driver {
    /// What to set the timer to, in seconds, so that the reset comes after `seconds`.
    pub fn round(&self, seconds: u32) -> u32 {
        seconds.div_ceil(self.rounds)
    }

    /// The longest time to a reset; `told` is what the kernel says of the device.
    pub fn longest(&self, told: Option<u32>) -> Option<u32> {
        let round = told.into_iter().chain(self.max).min()?;
        Some(round.saturating_mul(self.rounds))
    }

    /// The words for the target's command line. The driver must not be loaded before the new kernel is blessed: it would
    /// stop the timer, or have it pinged for good.
    pub fn words(&self) -> Vec<String> {
        vec![format!("modprobe.blacklist={}", self.module)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_useless_and_unknown() {
        assert_eq!(find("i6300esb").unwrap().words(), ["modprobe.blacklist=i6300esb"]);
        assert!(find("softdog").unwrap_err().contains("ends with it"));
        assert!(find("ipmi_watchdog").unwrap_err().contains("not supported"));
        assert!(find("mei_wdt").unwrap_err().contains("knows"));
    }

    #[test]
    fn rounds_and_limits() {
        let tco = find("iTCO_wdt").unwrap();
        assert_eq!((tco.round(300), tco.round(301), tco.longest(None)), (150, 151, Some(1226)));
        let esb = find("i6300esb").unwrap();
        assert_eq!((esb.round(300), esb.longest(None), esb.longest(Some(60))), (300, Some(2046), Some(60)));
        let wdat = find("wdat_wdt").unwrap();
        assert_eq!((wdat.longest(None), wdat.longest(Some(613))), (None, Some(613)));
    }
}
