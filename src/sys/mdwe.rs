//! Memory-deny-write-execute of another process: what systemd sets for MemoryDenyWriteExecute= with PR_SET_MDWE
//! (prctl(2), Linux 6.3). CRIU neither dumps nor restores it, and the kernel shows it nowhere, so the process itself is
//! made to call prctl: it is stopped for a moment by ptrace(2) at an existing `syscall` instruction of its vDSO.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

const PR_SET_MDWE: u64 = 65;
const PR_GET_MDWE: u64 = 66;
/// PR_MDWE_REFUSE_EXEC_GAIN, the only bit that systemd sets.
const REFUSE_EXEC_GAIN: u64 = 1;
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
    ptrace::interrupt(tracee)?;
    waitpid(tracee, Some(WaitPidFlag::__WALL))?;
    let before = ptrace::getregs(tracee)?;
    let mut regs = before;
    (regs.rip, regs.rax) = (at, SYS_PRCTL);
    // Not in a system call: else the kernel would restart the interrupted one instead of ours.
    regs.orig_rax = u64::MAX;
    (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8) = (args[0], args[1], 0, 0, 0);
    ptrace::setregs(tracee, regs)?;
    let result = (|| {
        ptrace::step(tracee, None)?;
        waitpid(tracee, Some(WaitPidFlag::__WALL))?;
        Ok(ptrace::getregs(tracee)?.rax as i64)
    })();
    ptrace::setregs(tracee, before)?;
    result
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
