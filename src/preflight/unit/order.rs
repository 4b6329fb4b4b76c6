//! Does it start only once another unit is there that is restored with it?

use super::{Finding, View};

/// systemd refuses to start it while that one is not active, and all units become active together.
const TIES: [&str; 2] = ["BindsTo", "Requisite"];

pub fn ask(view: &View) -> Vec<Finding> {
    let named = |key: &str| view.unit.all("Unit", key).into_iter().flat_map(str::split_ascii_whitespace).collect();
    let after: Vec<&str> = named("After");
    let tied = TIES.iter().flat_map(|key| {
        let units: Vec<&str> = named(key);
        units.into_iter().map(move |unit| (key, unit))
    });
    let together = |unit: &str| view.host.marked.iter().any(|marked| marked.as_str() == unit);
    tied.filter(|(_, unit)| after.contains(unit) && together(unit))
        .map(|(key, unit)| {
            let message = format!(
                "{key}={unit} and After={unit} let it start only once {unit} is active, and both are restored together"
            );
            let fix = format!("set Requires={unit} in the place of {key}={unit}, or 'kup release {unit}'");
            Finding::blocker("unit.order", message).fix(fix)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;

    #[test]
    fn ties() {
        for (lines, want) in [
            ("[Unit]\nBindsTo=other.service\nAfter=network.target other.service\n", &["unit.order"][..]),
            ("[Unit]\nRequisite=other.service\nAfter=other.service\n", &["unit.order"]),
            ("[Unit]\nBindsTo=other.service\n", &[]),
            ("[Unit]\nRequires=other.service\nAfter=other.service\n", &[]),
            ("[Unit]\nBindsTo=ordinary.service\nAfter=ordinary.service\n", &[]),
        ] {
            let mut unit = Unit::new().lines(lines);
            unit.host.marked.insert("other".parse().unwrap());
            assert_eq!(unit.ids(ask), want, "{lines}");
        }
    }
}
