#!/usr/bin/python3
"""Does the one thing that its first argument names, tells systemd that it is ready, and waits."""
import os
import socket
import struct
import sys
import time

kept = []

# What Python has no call for. Perl can make any system call, and is on every Debian machine.
PERL = {
    "io-uring": 'my $p = "\\0" x 120; did(425, 8, $p)',
    "bpf": 'my $attr = pack("L5", 2, 4, 4, 1, 0) . "\\0" x 100; did(321, 0, $attr, 120)',
    "perf": 'my $attr = pack("LLQ", 1, 112, 0) . "\\0" x 96; did(298, $attr, 0, -1, -1, 0)',
    "userfaultfd": "did(323, 0x80800)",
    "sysv": "my $id = did(29, 0, 65536, 01600); did(30, $id, 0, 0); did(31, $id, 0, 0)",
    "tracer": "my $pid = `systemctl show -P MainPID refuse-traced.service`; did(101, 0x4206, $pid + 0, 0, 0)",
}
AROUND = """
use Socket;
sub did { my $n = shift; my $r = syscall($n, @_); die "system call $n: $!" if $r == -1; $r }
%s;
socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die;
send($s, "READY=1", 0, pack_sockaddr_un($ENV{NOTIFY_SOCKET})) or die;
close $s;
sleep 1000 while 1;
"""


def child(then):
    """A child that waits after `then`; returns when it has come so far."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        then()
        os.close(write)
        while True:
            time.sleep(1000)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return pid


def idle():
    pass


def dbus():
    def text(s):
        return struct.pack("<I", len(s)) + s.encode() + b"\0"

    bus = socket.socket(socket.AF_UNIX)
    bus.connect("/run/dbus/system_bus_socket")
    bus.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
    assert bus.recv(1000).startswith(b"OK")
    bus.sendall(b"BEGIN\r\n")
    fields = b""
    name = "org.freedesktop.DBus"
    for code, kind, value in ((1, "o", "/org/freedesktop/DBus"), (6, "s", name), (2, "s", name), (3, "s", "Hello")):
        fields += b"\0" * (-len(fields) % 8) + bytes([code, 1]) + kind.encode() + b"\0" + text(value)
    head = struct.pack("<cBBBIII", b"l", 1, 0, 1, 0, 1, len(fields)) + fields
    bus.sendall(head + b"\0" * (-len(head) % 8))
    assert b":1." in bus.recv(1000)
    kept.append(bus)


def packet():
    kept.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    kept[-1].bind(("lo", 3))


def mptcp():
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))


def peer_server():
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind("/run/refuse-peer/socket")
    kept[-1].listen()
    if os.fork() == 0:
        kept.append(kept[-1].accept())
        time.sleep(10**8)


def peer():
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].connect("/run/refuse-peer/socket")


def pty():
    kept.extend(os.openpty())


def run_file():
    kept.append(open("/run/refuse-file", "w"))


def tmp_file():
    kept.append(open("/tmp/refuse-file", "w"))


def ghost():
    """One MiB more than GhostLimitMiB= is by default, sparse."""
    kept.append(open("/var/tmp/refuse-ghost", "w"))
    kept[-1].truncate(513 << 20)
    os.unlink("/var/tmp/refuse-ghost")


def link():
    for name in ("/dev/shm/refuse-a", "/dev/shm/refuse-b"):
        if os.path.exists(name):
            os.unlink(name)
    kept.append(open("/dev/shm/refuse-a", "w"))
    os.link("/dev/shm/refuse-a", "/dev/shm/refuse-b")
    os.unlink("/dev/shm/refuse-a")


def outside():
    middle = os.fork()
    if middle == 0:
        os.setsid()
        child(idle)
        os._exit(0)
    os.waitpid(middle, 0)


def user_namespace():
    os.unshare(os.CLONE_NEWUSER)


def pid_namespace():
    os.unshare(os.CLONE_NEWPID)
    child(idle)


def nested():
    child(lambda: os.unshare(os.CLONE_NEWNS))


def subgroup():
    group = "/sys/fs/cgroup" + open("/proc/self/cgroup").read().strip().split("::")[1]
    os.mkdir(group + "/inner")
    with open(group + "/inner/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))


if sys.argv[1] in PERL:
    os.execv("/usr/bin/perl", ["perl", "-e", AROUND % PERL[sys.argv[1]]])
globals()[sys.argv[1].replace("-", "_")]()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    time.sleep(1000)
