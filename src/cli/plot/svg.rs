//! The picture: a row for each phase of the machine, a row for each unit that has phases of its own, time to the right.

use std::fmt::Write;

use super::super::model::{Phase, Update, blackout};
use super::super::output::{duration, moment, took};
use super::axis::Axis;

/// Room to the left and to the right, pixels.
const MARGIN: f64 = 20.0;
/// Width of the axis.
const WIDTH: f64 = 1000.0;
/// Height of a row, and of a line of text.
const ROW: f64 = 22.0;
/// A letter is about as wide.
const LETTER: f64 = 6.5;
/// Letters in a line.
const LINE: usize = 150;

const STYLE: &str = "text { font: 12px sans-serif; fill: #222 } .title { font-size: 16px } .note { fill: #666 } \
.grid { stroke: #ddd } .cut { stroke: #999; stroke-dasharray: 3 3 } .blackout { fill: #f4c7c3; opacity: 0.5 } \
.work { fill: #8fb8de } .checkpoint { fill: #e0a030 } .switch { fill: #777 } .restore { fill: #5aa469 } \
.open { fill-opacity: 0.4; stroke: #222; stroke-dasharray: 4 2 }";

/// What the colours mean: class, words.
const LEGEND: [(&str, &str); 5] = [
    ("work", "before and after"),
    ("checkpoint", "checkpoint"),
    ("switch", "kernel and boot"),
    ("restore", "restore"),
    ("blackout", "clients get no answer"),
];

fn class(phase: &Phase) -> &'static str {
    match phase.kind() {
        "freeze" | "dump" => "checkpoint",
        "switch" | "boot" => "switch",
        "verify" | "network" | "restore" | "unlock" => "restore",
        _ => "work",
    }
}

/// Draws an update that has phases.
pub fn render(update: &Update) -> String {
    let last = update.phases.iter().map(|p| p.end_usec.unwrap_or(p.start_usec)).max().unwrap_or_default();
    let dark = blackout(&update.phases);
    let times = update.phases.iter().map(|p| (p.start_usec, p.end_usec.unwrap_or(last)));
    let axis = Axis::new(times.chain(dark).collect(), WIDTH);
    Picture { update, axis, last, body: String::new(), y: MARGIN }.draw(dark)
}

struct Picture<'a> {
    update: &'a Update,
    axis: Axis,
    /// The last moment that is known of.
    last: u64,
    body: String,
    /// Top of the next row.
    y: f64,
}

impl Picture<'_> {
    fn draw(mut self, dark: Option<(u64, u64)>) -> String {
        self.heading(dark);
        self.y += ROW;
        let (top, before) = (self.y, std::mem::take(&mut self.body));
        self.rows();
        let rows = std::mem::replace(&mut self.body, before);
        // Below the bars, so that they are seen on it.
        self.ground(top, dark);
        self.body += &rows;
        self.y += 2.0 * ROW;
        self.legend();
        self.units();
        let (width, height) = (WIDTH + 2.0 * MARGIN, self.y + MARGIN);
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" \
             height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn heading(&mut self, dark: Option<(u64, u64)>) {
        let Update { id, source, target, state, reason, phases, .. } = self.update;
        let target = if target.is_empty() { "the next kernel" } else { target };
        self.line("title", &format!("kup update {id}: {source} to {target}"));
        let begun = phases.iter().map(|p| p.start_usec).min().unwrap_or_default();
        let blackout = dark.map(|(start, end)| format!(", blackout {}", duration(end - start))).unwrap_or_default();
        self.line("", &format!("{state}{blackout}; begun {}", moment(begun)));
        for line in wrapped(reason.as_deref().unwrap_or_default()) {
            self.line("", &line);
        }
    }

    /// Phases of the machine, each a row; then units, each a row with its phases.
    fn rows(&mut self) {
        let update = self.update;
        let unit_of = |p: &Phase| {
            let of = |unit: &str| p.name.strip_suffix(unit).is_some_and(|kind| kind.ends_with(' '));
            update.units.iter().find(|u| of(&u.unit))
        };
        for phase in update.phases.iter().filter(|p| unit_of(p).is_none()) {
            self.row(&[phase], &format!("{} ({})", phase.name, self.took(phase)));
        }
        for unit in &update.units {
            let own: Vec<_> =
                update.phases.iter().filter(|p| unit_of(p).is_some_and(|u| u.unit == unit.unit)).collect();
            if !own.is_empty() {
                let each: Vec<_> = own.iter().map(|p| format!("{} {}", p.kind(), self.took(p))).collect();
                self.row(&own, &format!("{} ({})", unit.unit, each.join(", ")));
            }
        }
    }

    fn took(&self, phase: &Phase) -> String {
        // A phase that was cut short (by a crash, say) has no end.
        if phase.end_usec.is_none() && self.update.is_final() { "cut short".into() } else { took(phase) }
    }

    fn row(&mut self, phases: &[&Phase], label: &str) {
        let y = self.y;
        let mut edges = (f64::MAX, 0.0_f64);
        for phase in phases {
            let start = MARGIN + self.axis.x(phase.start_usec);
            let end = MARGIN + self.axis.x(phase.end_usec.unwrap_or(self.last));
            let open = if phase.end_usec.is_none() { " open" } else { "" };
            let says = escaped(&format!("{}: {}", phase.name, self.took(phase)));
            let (class, width, height) = (class(phase), (end - start).max(1.0), ROW - 4.0);
            let _ = writeln!(
                self.body,
                "<rect class=\"{class}{open}\" x=\"{start:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\">\
                 <title>{says}</title></rect>"
            );
            edges = (edges.0.min(start), edges.1.max(end));
        }
        // Behind the bar; where there is no room for it, before the bar or, as a last resort, on it.
        let length = label.chars().count() as f64 * LETTER;
        let (x, anchor) = match edges {
            (_, end) if end + length < WIDTH + MARGIN => (end + 5.0, "start"),
            (start, _) if start - length > MARGIN => (start - 5.0, "end"),
            (start, _) => (start + 5.0, "start"),
        };
        self.text(x, y + ROW - 8.0, "", anchor, label);
        self.y += ROW;
    }

    /// What the bars lie on: the blackout, the axis, the cuts.
    fn ground(&mut self, top: f64, dark: Option<(u64, u64)>) {
        let (bottom, zero) = (self.y, dark.map_or(self.update.phases[0].start_usec, |(start, _)| start));
        if let Some((start, end)) = dark {
            let (x, width) = (MARGIN + self.axis.x(start), self.axis.x(end) - self.axis.x(start));
            let (y, height) = (top - 4.0, bottom - top + 4.0);
            let _ = writeln!(
                self.body,
                "<rect class=\"blackout\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\"/>"
            );
            self.text(x, top - 8.0, "", "start", &format!("blackout {}", duration(end - start)));
        }
        for tick in self.axis.ticks(zero) {
            self.vertical("grid", MARGIN + tick.x, top, bottom);
            self.text(MARGIN + tick.x, bottom + 14.0, "note", "middle", &tick.label);
        }
        for (x, pause) in self.axis.cuts().collect::<Vec<_>>() {
            self.vertical("cut", MARGIN + x, top, bottom);
            self.text(MARGIN + x, bottom + 14.0 + ROW / 2.0, "note", "middle", &format!("({})", duration(pause)));
        }
    }

    fn legend(&mut self) {
        let (mut x, y) = (MARGIN, self.y);
        for (class, words) in LEGEND {
            let _ = writeln!(self.body, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\"/>");
            self.text(x + 20.0, y + 12.0, "", "start", words);
            x += 60.0 + words.len() as f64 * LETTER;
        }
        self.y += 1.5 * ROW;
    }

    /// How each unit fared.
    fn units(&mut self) {
        for unit in &self.update.units {
            let reason = unit.reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default();
            for line in wrapped(&format!("{} {}{reason}", unit.unit, unit.state)) {
                self.line("", &line);
            }
        }
    }

    fn vertical(&mut self, class: &str, x: f64, top: f64, bottom: f64) {
        let _ =
            writeln!(self.body, "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
    }

    fn line(&mut self, class: &str, text: &str) {
        self.text(MARGIN, self.y + 14.0, class, "start", text);
        self.y += ROW;
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let anchor = if anchor == "start" { String::new() } else { format!(" text-anchor=\"{anchor}\"") };
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y}\"{class}{anchor}>{}</text>", escaped(text));
    }
}

/// Text as XML has it; control characters, which it has not, are replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Lines of at most [`LINE`] letters, broken between words; none of a text that is empty.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE => *line += &format!(" {word}"),
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
