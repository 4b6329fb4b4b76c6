#!/usr/bin/python3
"""A service that can prove that its memory lived: on SIGUSR1 it logs an id and a checksum of what it has held since its
start, how often it has counted, and its clock. Arguments: what its Type= asks of it (or "simple"), and a pid file."""
import hashlib
import os
import random
import signal
import socket
import sys
import time


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


def daemonize(leader, pid_file):
    """The parent ends when the pid file is there."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    if leader:
        os.setsid()
    with open(pid_file, "w") as f:
        f.write(str(os.getpid()))
    os.close(read)
    os.close(write)


def connection():
    """Both ends of a TCP connection, where the sandbox has such sockets."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
            return one, server.accept()[0]
    except OSError:
        return None


def wrong_pages():
    """What of the memory is not as it was made: where, and whether there are zeros instead."""
    fresh = random.Random(name).randbytes(len(held))
    for at in range(0, len(held), 4096):
        page = held[at:at + 4096]
        if page != fresh[at:at + 4096]:
            yield f"{id(held) + at:x}:{'zeros' if not any(page) else page[:16].hex()}"


def child_s_random():
    """What a child gets from getrandom(2), whose state glibc has the kernel empty at a fork."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, os.getrandom(16))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with open(read, "rb") as pipe:
        return pipe.read()


def random_is_random():
    os.getrandom(16)
    return child_s_random() != child_s_random()


kind = sys.argv[1]
if kind.startswith("forking"):
    daemonize(kind == "forking", sys.argv[2])
name = os.urandom(8).hex()
held = random.Random(name).randbytes(2 << 20)
pair = connection()
count = 0
signals = {signal.SIGUSR1, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
if kind.startswith("notify"):
    notify("READY=1")
while True:
    came = signal.sigtimedwait(signals, 0.2)
    count += 1
    if pair:
        pair[0].sendall(str(count).encode())
        assert pair[1].recv(100) == str(count).encode()
    if came and came.si_signo == signal.SIGUSR1:
        print("wrong pages:", *list(wrong_pages())[:40], flush=True)
        proof = hashlib.sha256(held).hexdigest()[:16] + ("" if random_is_random() else "-and-children-alike")
        print("proof", name, proof, count, time.monotonic_ns(), flush=True)
    elif came and kind == "notify-reload":
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        notify("READY=1")
