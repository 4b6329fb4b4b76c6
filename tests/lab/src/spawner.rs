//! One thread that starts all long-lived processes.
//!
//! The kernel ends a process with a parent-death signal when the *thread* that started it ends, not the process.
//! This thread lives as long as the lab does.

use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};

use anyhow::{Context, Result, anyhow};

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts a process from the thread that never ends.
pub fn spawn(cmd: Command) -> Result<Child> {
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(start);
    let shown = crate::sh::show(&cmd);
    let (answer, child) = mpsc::channel();
    orders.send((cmd, answer)).map_err(|_| anyhow!("the thread that starts processes is gone"))?;
    child.recv()?.with_context(|| format!("cannot run {shown}"))
}

fn start() -> Sender<Order> {
    let (orders, todo) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut cmd, answer) in todo {
            answer.send(cmd.spawn()).ok();
        }
    });
    orders
}
