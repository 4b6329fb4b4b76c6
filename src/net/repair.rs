//! Connections that a CRIU which died has left in repair mode (TCP_REPAIR, kernel's Documentation/networking and soccr.c):
//! they neither send nor receive until somebody takes them out of it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::sys::pidfd::PidFd;

/// Lets every connection of the processes in control group `cgroup`, a directory, go on; gives how many had to be helped.
pub fn leave(cgroup: &Path) -> usize {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    procs
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .map(|pid: i32| sockets(pid).iter().filter(|s| help(s)).count())
        .sum()
}

fn sockets(pid: i32) -> Vec<OwnedFd> {
    let Ok(process) = PidFd::open(pid) else { return Vec::new() };
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
        .filter_map(|fd| process.get_fd(fd.file_name().to_str()?.parse().ok()?).ok())
        .collect()
}

/// The kernel forgets SO_REUSEADDR at both ends of repair mode. A server that restarts needs it of its old connections, so it
/// is set.
fn help(socket: &OwnedFd) -> bool {
    if !getsockopt(socket, sockopt::TcpRepair).is_ok_and(|mode| mode == 1) {
        return false;
    }
    let left = setsockopt(socket, sockopt::TcpRepair, &0);
    left.and_then(|()| setsockopt(socket, sockopt::ReuseAddr, &true)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_that_was_left_in_repair_mode_goes_on() {
        if !crate::net::own_namespace() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        setsockopt(&server, sockopt::TcpRepair, &1).unwrap();
        let group = tempfile::tempdir().unwrap();
        fs::write(group.path().join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(leave(group.path()), 1);
        assert_eq!(leave(group.path()), 0);
        server.write_all(b"there").unwrap();
        let mut word = [0; 5];
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"there");
    }
}
