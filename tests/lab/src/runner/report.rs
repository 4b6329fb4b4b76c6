//! What is printed while tests run, and at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::context::Figure;

/// Counts results and prints each as it comes.
#[derive(Debug, Default)]
pub struct Report {
    passed: AtomicU32,
    failed: AtomicU32,
    figures: Mutex<BTreeMap<String, Vec<Figure>>>,
}

impl Report {
    /// Something that passed.
    pub fn ok(&self, name: &str, took: Duration) {
        self.passed.fetch_add(1, Ordering::Relaxed);
        println!("ok {name} ({:.1} s)", took.as_secs_f64());
    }

    /// Something that did not, and why.
    pub fn failed(&self, name: &str, reason: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        println!("FAILED {name}: {reason}");
    }

    /// Shows what a machine said that something failed on.
    pub fn said(&self, words: &str) {
        words.lines().for_each(|line| println!("   | {line}"));
    }

    /// Says what there was no time for.
    pub fn not_run(&self, names: &[&str]) {
        if !names.is_empty() {
            println!("not run for want of time, `cargo lab test NAME...` does: {}", names.join(" "));
        }
    }

    /// Adds results that another program has counted and shown.
    pub fn add(&self, passed: u32, failed: u32) {
        self.passed.fetch_add(passed, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
    }

    /// Shows and keeps what was measured; a table shows what is in it better than a list.
    pub fn figures(&self, name: &str, figures: &[Figure], table: Option<&str>) {
        if figures.is_empty() {
            return;
        }
        for figure in figures.iter().filter(|figure| !figure.in_table) {
            println!("   {:40} {:12.3} {}", figure.name, figure.value, figure.unit);
        }
        print!("{}", table.unwrap_or_default());
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), figures.to_vec());
    }

    /// Everything that was measured.
    pub fn all_figures(&self) -> BTreeMap<String, Vec<Figure>> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has anything failed so far?
    pub fn any_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed) > 0
    }

    /// Prints the last line; gives the exit code. Nothing run at all is no success.
    pub fn finish(&self) -> u8 {
        let (passed, failed) = (self.passed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        println!("{passed} passed, {failed} failed");
        u8::from(failed > 0 || passed == 0)
    }
}
