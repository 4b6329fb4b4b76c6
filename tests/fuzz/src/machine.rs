//! What the kernel and systemd say about processes and sockets.

use kup::fuzz::{
    anonymous, answered, answers, cpus, directory, fdinfo, inet, maps, smaps, stat, status, timer, transformed,
};
use kup::inspect::{Mapping, Memory, Mounts, Process, Protocol, Service};

/// A file of /proc, of tmpfiles.d, or what `systemctl show` prints: every parser takes any of them.
pub fn proc(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    for (map, ..) in maps(text) {
        mapping(&map);
    }
    assert!(smaps(text).iter().all(|area| area.start <= area.end));
    mounts(&Mounts::parse(text));
    Memory::parse(text).image_size();
    process(text);
    for socket in inet(text, Protocol::Tcp) {
        assert!(socket.bound_address().is_none_or(|a| !a.is_loopback() && !a.is_unspecified()));
        assert!(!socket.is_listening() || !socket.is_connected());
    }
    let service = Service::parse(text);
    assert!(service.main_pid().is_none_or(|pid| pid > 0));
    let _ = (service.control_group(), service.list("RuntimeDirectory").count(), service.is_active());
    fdinfo(text);
    timer(text);
    for line in text.lines() {
        anonymous(line);
        directory(line);
        let _ = cpus(line);
    }
}

fn mapping(map: &Mapping) {
    assert_eq!(map.start + map.len(), map.end);
    assert!(!map.is_deleted_file() || map.is_file());
    assert_eq!(map.range().split_once('-').map(|(s, _)| u64::from_str_radix(s, 16)), Some(Ok(map.start)));
    let _ = (map.is_sysv(), map.is_io_uring(), map.is_aio(), map.is_empty());
}

fn mounts(mounts: &Mounts) {
    // Each search looks at all of them.
    for mount in mounts.0.values().take(100) {
        assert!(mounts.of_path(&mount.point).is_some());
        mounts.is_overmounted(mount);
    }
}

fn process(text: &str) {
    if let Some(process) = stat(text) {
        assert_eq!(process.is_zombie(), matches!(process.state, 'Z' | 'X'));
    }
    let mut process = Process::default();
    status(text, &mut process);
}

/// Datagrams of sock_diag(7).
pub fn netlink(data: &[u8]) {
    let _ = answers(data, answered, &mut Vec::new());
    let _ = answers(data, transformed, &mut Vec::new());
}
