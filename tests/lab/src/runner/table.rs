//! A benchmark's result as one table.

use std::fmt::Write;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// Of what. What is in `%` is a change, and shown with its sign.
    pub unit: &'static str,
}

/// Rows of measured values; a value that there is not is left blank.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<(String, Vec<Option<f64>>)>,
    notes: Vec<String>,
}

impl Table {
    /// An empty one; columns as name and unit.
    pub fn new(columns: &[(&'static str, &'static str)]) -> Self {
        let columns = columns.iter().map(|(name, unit)| Column { name, unit }).collect();
        Self { columns, ..Self::default() }
    }

    /// Adds a row.
    pub fn row(&mut self, name: &str, values: &[Option<f64>]) {
        self.rows.push((name.into(), values.to_vec()));
    }

    /// Adds a line below the table: what the values do not say.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds a line below the table that compares a value with what is aimed at.
    pub fn aim(&mut self, what: &str, value: f64, at_most: f64) {
        let reached = if value <= at_most { "reached" } else { "not reached" };
        self.note(format!("{what}: {value:.3}, aim at most {at_most}: {reached}"));
    }

    /// Every value, as row, column and value.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Column, f64)> {
        self.rows.iter().flat_map(|(name, values)| {
            let pairs = self.columns.iter().zip(values);
            pairs.filter_map(move |(column, value)| Some((name.as_str(), column, (*value)?)))
        })
    }

    /// The table as text.
    pub fn render(&self) -> String {
        let heads: Vec<String> = self.columns.iter().map(|c| format!("{} ({})", c.name, c.unit)).collect();
        let first = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut text = format!("   {:first$}  {}\n", "", heads.join("  "));
        for (name, values) in &self.rows {
            let _ = write!(text, "   {name:first$}");
            for ((value, column), head) in values.iter().zip(&self.columns).zip(&heads) {
                let width = head.chars().count();
                let cell = match value {
                    None => String::new(),
                    Some(value) if column.unit.starts_with('%') => format!("{value:+.1}"),
                    Some(value) => format!("{value:.3}"),
                };
                let _ = write!(text, "  {cell:>width$}");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        self.notes.iter().for_each(|note| {
            let _ = writeln!(text, "   {note}");
        });
        text
    }
}

/// By how many percent `value` differs from `before`: -90 is a tenth of it.
pub fn change(value: f64, before: f64) -> f64 {
    (value / before - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_headings() {
        let mut table = Table::new(&[("checkpoint", "s"), ("against plain CRIU", "%")]);
        table.row("plain CRIU", &[Some(2.0), None]);
        table.row("kup", &[Some(0.25), Some(change(0.25, 2.0))]);
        table.note("1 GiB");
        let text = "               checkpoint (s)  against plain CRIU (%)
   plain CRIU           2.000
   kup                  0.250                   -87.5
   1 GiB
";
        assert_eq!(table.render(), text);
        assert_eq!(table.values().count(), 3);
    }

    #[test]
    fn an_aim_is_reached_or_it_is_not() {
        let mut table = Table::new(&[]);
        table.aim("kup against kexec, times", 0.71, 1.0);
        table.aim("checkpoint against plain CRIU, %", -86.3, -94.0);
        table.aim("growth, times", f64::NAN, 1.15);
        let lines = table.render();
        assert!(lines.contains("   kup against kexec, times: 0.710, aim at most 1: reached\n"), "{lines}");
        assert!(lines.contains("checkpoint against plain CRIU, %: -86.300, aim at most -94: not reached\n"), "{lines}");
        assert!(lines.contains("growth, times: NaN, aim at most 1.15: not reached\n"), "{lines}");
    }
}
