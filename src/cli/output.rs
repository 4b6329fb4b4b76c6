//! Everything that `kup` prints to stdout goes through here.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::model::{Check, List, Phase, Status, Update};
use crate::update::HistoryLine;

/// Where and how to print.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
    /// Somebody watches: lines may be rewritten.
    pub terminal: bool,
}

impl Output {
    /// Prints to stdout.
    pub fn new(json: bool) -> Self {
        Self { json, terminal: !json && io::stdout().is_terminal() }
    }

    /// Prints `value` as JSON, or `text` of it. A reader that went away (`kup list | head -1`) is no error.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        match self.json {
            true => match serde_json::to_string_pretty(value) {
                Ok(json) => put(&format!("{json}\n")),
                Err(e) => eprintln!("kup: cannot print JSON: {e}"),
            },
            false => put(&text(value)),
        }
    }

    /// Prints `value` as one line of JSON, or `text` as one line.
    pub fn event<T: Serialize>(&self, value: &T, text: &str) {
        match (self.json, serde_json::to_string(value)) {
            (true, Ok(json)) => put(&format!("{json}\n")),
            (true, Err(e)) => eprintln!("kup: cannot print JSON: {e}"),
            // What a rewritten line left is cleared first.
            (false, _) if self.terminal => put(&format!("\r\x1b[K{text}\n")),
            (false, _) => put(&format!("{text}\n")),
        }
    }

    /// On a terminal, shows `text` until the next line is printed.
    pub fn passing(&self, text: &str) {
        if self.terminal {
            put(&format!("\r\x1b[K{text}"));
        }
    }
}

fn put(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Columns, each as wide as its widest cell; the last one is not padded.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).to_vec()
}

/// `1.2 s`, `45 ms`, `2 min 5 s`.
pub fn duration(usec: u64) -> String {
    match usec {
        0..1_000_000 => format!("{} ms", usec / 1000),
        1_000_000..120_000_000 => format!("{:.1} s", usec as f64 / 1e6),
        _ => format!("{} min {} s", usec / 60_000_000, usec / 1_000_000 % 60),
    }
}

/// A moment in UTC, from microseconds since the epoch. Days are turned into a date by the civil calendar's 400-year
/// cycles of 146,097 days, counted from 1 March so that the leap day comes last.
pub fn moment(usec: u64) -> String {
    let (days, seconds) = (usec / 86_400_000_000, usec / 1_000_000 % 86_400);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{date:02} {:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Text of `kup list`.
pub fn list(list: &List) -> String {
    if list.units.is_empty() {
        return "no service is marked; 'kup preserve UNIT' marks one\n".into();
    }
    let mut rows = vec![row(["UNIT", "STATE", "ADJUSTED", "MARKED BY"])];
    for u in &list.units {
        let adjusted = if u.adjustments.is_empty() { "-".into() } else { u.adjustments.join(" ") };
        rows.push(row([&u.unit, &u.active_state, &adjusted, &u.marked_by]));
    }
    table(&rows)
}

/// Text of `kup check`: the machine first, then each unit, then the verdict.
pub fn check(check: &Check) -> String {
    let mut text = String::new();
    let places = std::iter::once("").chain(check.units.iter().map(String::as_str));
    for place in places {
        let findings: Vec<_> = check.findings.iter().filter(|f| f.unit == place).collect();
        text += &match (place, findings.len()) {
            ("", 0) => String::new(),
            ("", _) => "this machine:\n".into(),
            (unit, 0) => format!("{unit}: can be preserved\n"),
            (unit, _) => format!("{unit}:\n"),
        };
        for f in findings {
            text += &format!("  {}: {} [{}]\n", f.severity, f.message, f.id);
            if !f.fix.is_empty() {
                text += &format!("    {}\n", f.fix);
            }
        }
    }
    let blockers = check.findings.iter().filter(|f| f.severity == "blocker").count();
    let target = check.target.as_ref().map(|t| format!(" to {t}")).unwrap_or_default();
    text += &match (blockers, check.units.is_empty()) {
        (0, true) => "no service is marked; 'kup preserve UNIT' marks one\n".to_string(),
        (0, false) => format!("nothing stands in the way of an update{target}\n"),
        (n, _) => format!("{n} blocker{} in the way of an update{target}\n", if n == 1 { "" } else { "s" }),
    };
    text
}

/// Text of `kup status`.
pub fn status(s: &Status) -> String {
    let mut text = format!("running kernel: {}\n", s.running_kernel);
    text += &match &s.staged_kernel {
        Some(staged) if *staged != s.running_kernel => {
            format!("staged kernel:  {staged} ('kup update' switches to it)\n")
        }
        Some(staged) => format!("staged kernel:  {staged}\n"),
        None => "staged kernel:  none\n".into(),
    };
    text += &format!("mode:           {}\n", s.mode);
    text + &s.update.as_ref().map_or_else(|| "update:         none yet\n".into(), update)
}

fn update(u: &Update) -> String {
    let target = if u.target.is_empty() { "the next kernel" } else { &u.target };
    let mut text = format!("update:         {} from {} to {target}, {}\n", u.id, u.source, u.state);
    if let Some(reason) = &u.reason {
        text += &format!("reason:         {reason}\n");
    }
    if u.state == "armed" && u.stage_only {
        text += "                'systemctl kexec' switches, 'kup abort' gives it up\n";
    }
    if let Some(blackout) = u.blackout_usec {
        text += &format!("blackout:       {}\n", duration(blackout));
    }
    if u.kept_back_bytes > 0 {
        text += &format!("memory kept back until the next boot: {} MiB\n", u.kept_back_bytes.div_ceil(1 << 20));
    }
    if !u.units.is_empty() {
        let mut rows = vec![row(["UNIT", "STATE", "NOTE"])];
        rows.extend(u.units.iter().map(|u| row([&u.unit, &u.state, u.reason.as_deref().unwrap_or("")])));
        text += &format!("\n{}", table(&rows));
    }
    for unit in u.units.iter().filter(|u| !u.outdated.is_empty()) {
        text += &format!("\n{} runs with files that were replaced on disk; a restart takes the new ones:\n", unit.unit);
        text.extend(unit.outdated.iter().map(|f| format!("  {f}\n")));
    }
    if !u.phases.is_empty() {
        let mut rows = vec![row(["PHASE", "TOOK"])];
        // A phase that was cut short (by a crash, say) has no end.
        let unended = |p: &Phase| u.is_final() && p.end_usec.is_none();
        rows.extend(u.phases.iter().map(|p| row([&p.name, &if unended(p) { "-".into() } else { took(p) }])));
        text += &format!("\n{}", table(&rows));
    }
    text
}

/// How long a phase took.
pub fn took(phase: &Phase) -> String {
    phase.took().map_or_else(|| "under way".into(), duration)
}

/// Text of `kup history`.
pub fn history(lines: &[HistoryLine]) -> String {
    if lines.is_empty() {
        return "no update yet\n".into();
    }
    let mut rows = vec![row(["ENDED", "ID", "FROM", "TO", "RESULT", "UNITS"])];
    for l in lines {
        let cold = l.units.values().filter(|s| s.starts_with("cold")).count();
        let units = match cold {
            0 => l.units.len().to_string(),
            cold => format!("{} ({cold} cold)", l.units.len()),
        };
        rows.push(row([&moment(l.ended), l.id.as_str(), &l.source, &l.target, &l.result, &units]));
    }
    let table = table(&rows);
    let mut text = String::new();
    // The first row is the header, which has no reason below it.
    for (row, line) in table.lines().zip(std::iter::once(None).chain(lines.iter().map(Some))) {
        text += &format!("{row}\n");
        if let Some(reason) = line.and_then(|l| l.reason.as_ref()) {
            text += &format!("  {reason}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests;
