//! What a scenario gets: a machine in its ready state, and places to put things.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::table::Table;
use crate::image::About;
use crate::vm::{SLOWEST, Vm};

/// A scenario's surroundings.
#[derive(Debug)]
pub struct Ctx {
    /// The machine: kup installed, idle, on the old kernel.
    pub vm: Vm,
    /// A directory of the scenario's own on the host; kept when it fails.
    pub dir: PathBuf,
    /// Are steps told on the terminal (demo) or only in the log?
    pub aloud: bool,
    /// What a benchmark has measured.
    pub figures: Vec<Figure>,
    /// The same as a table, where a benchmark makes one.
    pub table: Option<String>,
    started: Instant,
    steps: String,
}

/// One measured value.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// How much it was.
    pub value: f64,
    /// Of what.
    pub unit: String,
    /// Is it in the benchmark's table, and shown with that?
    #[serde(skip)]
    pub in_table: bool,
}

impl Ctx {
    /// For a machine that is in its ready state.
    pub fn new(vm: Vm, dir: PathBuf) -> Self {
        Self { vm, dir, aloud: false, figures: Vec::new(), table: None, started: Instant::now(), steps: String::new() }
    }

    /// What the machine's image holds: the two kernels.
    pub fn about(&self) -> &About {
        &self.vm.spec().image.about
    }

    /// Notes what is being done; a failed scenario's log tells how far it came.
    pub fn step(&mut self, what: &str) {
        let line = format!("[{:7.2} s] {what}", self.started.elapsed().as_secs_f64());
        if self.aloud {
            println!("{line}");
        }
        self.steps.push_str(&line);
        self.steps.push('\n');
    }

    /// All steps so far.
    pub fn steps(&self) -> &str {
        &self.steps
    }

    /// Notes a measured value.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        self.note(name, value, unit, false);
    }

    fn note(&mut self, name: &str, value: f64, unit: &str, in_table: bool) {
        self.step(&format!("{name}: {value:.3} {unit}"));
        self.figures.push(Figure { name: name.into(), value, unit: unit.into(), in_table });
    }

    /// Notes the values of a table, and shows it in place of their list.
    pub fn table(&mut self, table: &Table) {
        for (row, column, value) in table.values() {
            self.note(&format!("{row}: {}", column.name), value, column.unit, true);
        }
        self.table = Some(table.render());
    }

    /// Installs the new kernel from the machine's own repository, as an administrator would; gives apt's words.
    pub fn install_new_kernel(&mut self) -> Result<String> {
        let new = self.about().new_kernel.clone();
        self.step(&format!("installing {new}"));
        crate::ready::install_kernel(&self.vm)
    }

    /// Fails unless this kernel runs.
    pub fn expect_kernel(&self, release: &str) -> Result<()> {
        let running = self.vm.uname()?;
        ensure!(running == release, "{running} runs, expected {release}");
        Ok(())
    }

    /// Tries again and again until it works; the last error is the reason when it never does.
    pub fn eventually<T>(&mut self, limit: Duration, mut attempt: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let limit = limit * SLOWEST;
        let deadline = Instant::now() + limit;
        loop {
            match attempt(self) {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() > deadline => return Err(error.context(format!("not within {limit:.0?}"))),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}
