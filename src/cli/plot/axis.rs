//! Time as a place in the picture. Pauses are cut out: an armed update may wait for days.

/// Nothing happens for longer than that: a pause, microseconds.
const PAUSE: u64 = 5_000_000;
/// What stands for a pause, pixels.
const CUT: f64 = 40.0;
/// Least distance between two ticks, pixels.
const APART: f64 = 70.0;

/// A time in which something happens, and where it begins in the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    start: u64,
    end: u64,
    x: f64,
}

/// Turns microseconds since the epoch into pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    stretches: Vec<Stretch>,
    /// Pixels per microsecond.
    scale: f64,
}

/// A mark on the axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where.
    pub x: f64,
    /// What it says.
    pub label: String,
}

impl Axis {
    /// An axis of `width` pixels on which all of these times (begin, end) lie.
    pub fn new(mut times: Vec<(u64, u64)>, width: f64) -> Self {
        times.sort_unstable();
        let mut stretches: Vec<Stretch> = Vec::new();
        for (start, end) in times {
            match stretches.last_mut() {
                Some(last) if start <= last.end.saturating_add(PAUSE) => last.end = last.end.max(end),
                _ => stretches.push(Stretch { start, end: end.max(start), x: 0.0 }),
            }
        }
        let total: u64 = stretches.iter().map(|s| s.end - s.start).sum();
        let cuts = CUT * stretches.len().saturating_sub(1) as f64;
        let scale = (width - cuts).max(1.0) / total.max(1) as f64;
        let mut x = 0.0;
        for stretch in &mut stretches {
            stretch.x = x;
            x += (stretch.end - stretch.start) as f64 * scale + CUT;
        }
        Self { stretches, scale }
    }

    /// Where `usec` lies; what is not on the axis lies at its nearest point.
    pub fn x(&self, usec: u64) -> f64 {
        let begun = |s: &&Stretch| s.start <= usec;
        let Some(stretch) = self.stretches.iter().rev().find(begun).or(self.stretches.first()) else { return 0.0 };
        stretch.x + (usec.clamp(stretch.start, stretch.end) - stretch.start) as f64 * self.scale
    }

    /// The pauses that were cut out: the middle of what stands for each, and how long it was.
    pub fn cuts(&self) -> impl Iterator<Item = (f64, u64)> {
        self.stretches.windows(2).map(|w| (w[1].x - CUT / 2.0, w[1].start - w[0].end))
    }

    /// Marks at round numbers of seconds before and after `zero`.
    pub fn ticks(&self, zero: u64) -> Vec<Tick> {
        let mut steps = (3..15).flat_map(|power| [1, 2, 5].map(|n| n * 10_i64.pow(power)));
        let Some(step) = steps.find(|step| *step as f64 * self.scale >= APART) else {
            return Vec::new();
        };
        let decimals = if step >= 1_000_000 { 0 } else { 3 };
        let tick = |s: &Stretch, after: i64| Tick {
            x: s.x + (after + zero as i64 - s.start as i64) as f64 * self.scale,
            label: format!("{:.decimals$} s", after as f64 / 1e6),
        };
        let mut ticks = Vec::new();
        for s in &self.stretches {
            let (start, end) = (s.start as i64 - zero as i64, s.end as i64 - zero as i64);
            let first = start.div_euclid(step) + i64::from(start.rem_euclid(step) > 0);
            ticks.extend((first..).map(|n| n * step).take_while(|after| *after <= end).map(|after| tick(s, after)));
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn pauses_are_cut_out() {
        let axis = Axis::new(vec![(1_000 * S, 1_004 * S), (0, 10 * S), (8 * S, 12 * S)], 840.0);
        assert_eq!([0, 12, 500, 1_000, 1_004].map(|t| axis.x(t * S)), [0.0, 600.0, 600.0, 640.0, 840.0]);
        assert_eq!(axis.cuts().collect::<Vec<_>>(), [(620.0, 988 * S)]);
        let labels: Vec<_> = axis.ticks(10 * S).into_iter().map(|t| t.label).collect();
        assert_eq!(labels, ["-10 s", "-8 s", "-6 s", "-4 s", "-2 s", "0 s", "2 s", "990 s", "992 s", "994 s"]);
    }

    proptest! {
        #[test]
        fn time_never_runs_back_nor_out(
            times in prop::collection::vec((0..u64::MAX / 4, 0..u64::MAX / 4), 1..20), at in 0..u64::MAX / 4, later in 0..S)
        {
            let times: Vec<_> = times.into_iter().map(|(start, took)| (start, start + took)).collect();
            let axis = Axis::new(times.clone(), 1000.0);
            prop_assert!(axis.x(at) <= axis.x(at + later));
            prop_assert!(axis.ticks(times[0].0).len() <= 40);
            for x in times.iter().flat_map(|(start, end)| [axis.x(*start), axis.x(*end)]) {
                prop_assert!((0.0..=1000.01).contains(&x), "{x}");
            }
        }
    }
}
