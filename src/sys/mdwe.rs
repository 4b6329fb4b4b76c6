//! Memory-deny-write-execute of another process: what systemd sets for MemoryDenyWriteExecute= with PR_SET_MDWE
//! (prctl(2), Linux 6.3). CRIU neither dumps nor restores it, and the kernel shows it nowhere, so the process itself is
//! made to call prctl: it is stopped for a moment by ptrace(2) at an existing `syscall` instruction of its vDSO.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const PR_SET_MDWE: u64 = 65;
const PR_GET_MDWE: u64 = 66;
/// PR_MDWE_REFUSE_EXEC_GAIN, the only bit that systemd sets.
const REFUSE_EXEC_GAIN: u64 = 1;
/// How a stop is told from a signal's delivery (ptrace(2)).
const PTRACE_EVENT_STOP: i32 = nix::libc::PTRACE_EVENT_STOP;
const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];
const SYS_PRCTL: u64 = nix::libc::SYS_prctl as u64;

/// Whether `pid` may not gain executable memory.
///
/// # Errors
/// When it cannot be traced. A kernel before 6.3 knows no such thing: `false`.
pub fn get(pid: i32) -> io::Result<bool> {
    let bits = prctl_in(pid, [PR_GET_MDWE, 0])?;
    Ok(bits > 0 && bits as u64 & REFUSE_EXEC_GAIN != 0)
}

/// Takes the right to gain executable memory from `pid`, for good.
///
/// # Errors
/// When it cannot be traced, or the kernel refuses.
pub fn set(pid: i32) -> io::Result<()> {
    match prctl_in(pid, [PR_SET_MDWE, REFUSE_EXEC_GAIN])? {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(-e as i32)),
    }
}

/// Makes `pid` call prctl with these two arguments (and zeros), and returns what the kernel returned to it.
fn prctl_in(pid: i32, args: [u64; 2]) -> io::Result<i64> {
    let at = syscall_instruction(pid)?;
    let tracee = Pid::from_raw(pid);
    // The service's own SystemCallFilter= is not meant for a call that we make.
    ptrace::seize(tracee, ptrace::Options::from_bits_retain(nix::libc::PTRACE_O_SUSPEND_SECCOMP))?;
    let result = call(tracee, at, args);
    ptrace::detach(tracee, None)?;
    result
}

fn call(tracee: Pid, at: u64, args: [u64; 2]) -> io::Result<i64> {
    stop(tracee)?;
    // A signal in its way would be taken for the end of our call, and be lost.
    let blocked = signals::block(tracee)?;
    let result = call_stopped(tracee, at, args);
    signals::set(tracee, blocked)?;
    result
}

/// Stops it where nothing is being delivered to it.
fn stop(tracee: Pid) -> io::Result<()> {
    ptrace::interrupt(tracee)?;
    loop {
        match waitpid(tracee, Some(WaitPidFlag::__WALL))? {
            WaitStatus::PtraceEvent(.., PTRACE_EVENT_STOP) => return Ok(()),
            WaitStatus::Stopped(_, signal) => ptrace::cont(tracee, signal)?,
            other => return Err(io::Error::other(format!("it did not stop, but {other:?}"))),
        }
    }
}

fn call_stopped(tracee: Pid, at: u64, args: [u64; 2]) -> io::Result<i64> {
    let before = ptrace::getregs(tracee)?;
    let mut regs = before;
    (regs.rip, regs.rax) = (at, SYS_PRCTL);
    // Not in a system call: else the kernel would restart the interrupted one instead of ours.
    regs.orig_rax = u64::MAX;
    (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8) = (args[0], args[1], 0, 0, 0);
    ptrace::setregs(tracee, regs)?;
    let result = (|| {
        ptrace::step(tracee, None)?;
        let stopped = waitpid(tracee, Some(WaitPidFlag::__WALL))?;
        let regs = ptrace::getregs(tracee)?;
        if regs.rip != at + SYSCALL_INSTRUCTION.len() as u64 {
            return Err(io::Error::other(format!("it did not make the call: {stopped:?}")));
        }
        Ok(regs.rax as i64)
    })();
    ptrace::setregs(tracee, before)?;
    result
}

/// Which signals a stopped tracee has blocked.
mod signals {
    #![allow(unsafe_code)]

    use std::io;

    use nix::libc;
    use nix::unistd::Pid;

    // linux/ptrace.h; of the kernel's sigset_t the request tells the size.
    const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
    const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
    const SIZE: usize = size_of::<u64>();
    /// The step ends with it.
    const TRAP: u64 = 1 << (libc::SIGTRAP - 1);

    /// Blocks all but the one that a step ends with; gives what was blocked before.
    pub(super) fn block(tracee: Pid) -> io::Result<u64> {
        let mut before = 0_u64;
        // SAFETY: the kernel writes SIZE bytes to `before`.
        let ret = unsafe { libc::ptrace(PTRACE_GETSIGMASK, tracee.as_raw(), SIZE, &raw mut before) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        set(tracee, !TRAP)?;
        Ok(before)
    }

    /// Blocks these and no others.
    pub(super) fn set(tracee: Pid, blocked: u64) -> io::Result<()> {
        // SAFETY: the kernel reads SIZE bytes of `blocked`.
        let ret = unsafe { libc::ptrace(PTRACE_SETSIGMASK, tracee.as_raw(), SIZE, &raw const blocked) };
        if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Address of a `syscall` instruction in the vDSO of `pid`, which every process maps.
fn syscall_instruction(pid: i32) -> io::Result<u64> {
    let none = || io::Error::other(format!("process {pid} maps no vDSO"));
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|l| l.ends_with("[vdso]")).ok_or_else(none)?;
    let (start, rest) = line.split_once('-').ok_or_else(none)?;
    let end = rest.split_whitespace().next().ok_or_else(none)?;
    let number = |s| u64::from_str_radix(s, 16).map_err(|_| none());
    let (start, end) = (number(start)?, number(end)?);
    let mut code = vec![0; (end - start) as usize];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut code, start)?;
    let offset = code.windows(2).position(|w| w == SYSCALL_INSTRUCTION).ok_or_else(none)?;
    Ok(start + offset as u64)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn no_signal_is_lost() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use nix::sys::signal::{Signal, kill};
        use std::io::Read;
        use std::os::fd::AsFd;

        // Not a shell: bash forgets signals that come while it handles one.
        let script = r#"$| = 1; $SIG{USR1} = sub { print "\n" }; print "\n"; sleep 1 while 1"#;
        let mut child =
            Command::new("/usr/bin/perl").args(["-e", script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let mut stdout = child.stdout.take().unwrap();
        let mut heard = || {
            let ready = poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_000u16));
            ready == Ok(1) && stdout.read_exact(&mut [0]).is_ok()
        };
        let mut wrong = if heard() { None } else { Some("it did not begin".to_owned()) };
        for n in 0..30 {
            kill(pid, Signal::SIGUSR1).unwrap();
            wrong = wrong.or_else(|| match super::get(pid.as_raw()) {
                Ok(false) if heard() => None,
                result => Some(format!("signal {n}: {result:?}")),
            });
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(wrong, None);
    }

    #[test]
    fn set_and_get_in_a_sleeping_child() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let pid = child.id() as i32;
        let result = (|| {
            let before = super::get(pid)?;
            super::set(pid)?;
            Ok::<_, std::io::Error>((before, super::get(pid)?))
        })();
        let alive = child.try_wait().unwrap().is_none();
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(result.unwrap(), (false, true));
        assert!(alive, "the child went on sleeping");
    }
}
