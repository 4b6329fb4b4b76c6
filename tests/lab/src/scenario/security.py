# Looks at everything that kup keeps, again and again, from the first moments of each boot on: is any of it open to others?
import os, stat, time

ROOTS = ["/var/lib/kup/images", "/run/kup", "/etc/kup"]
OPEN = {"/etc/kup", "/etc/kup/kup.toml", "/etc/kup/kup.toml.d"}
seen, bad = {"images": 0, "record": 0, "looks": 0}, set()


def look(path):
    try:
        info = os.lstat(path)
    except OSError:
        return
    if "/images" in path:
        seen["images"] += 1
    if "record" in path:
        seen["record"] += 1
    if path not in OPEN and not stat.S_ISLNK(info.st_mode) and not closed(path, info):
        bad.add("%s is %o of %d" % (path, stat.S_IMODE(info.st_mode), info.st_uid))


# Below a directory that only root may enter, a file may have any mode: copies keep the modes of their originals.
def closed(path, info):
    if info.st_uid == 0 and not info.st_mode & 0o077:
        return True
    while len(path) > 1:
        path = os.path.dirname(path)
        try:
            parent = os.lstat(path)
        except OSError:
            return True
        if parent.st_uid == 0 and not parent.st_mode & 0o077:
            return True
    return False


end = time.monotonic() + 3600
while time.monotonic() < end:
    seen["looks"] += 1
    for root in ROOTS:
        look(root)
        for here, dirs, files in os.walk(root):
            for name in dirs + files:
                look(os.path.join(here, name))
    with open("/var/log/lab-security.new", "w") as out:
        print(seen, file=out)
        for line in sorted(bad):
            print("BAD", line, file=out)
    os.rename("/var/log/lab-security.new", "/var/log/lab-security." + open("/proc/sys/kernel/random/boot_id").read().strip())
    time.sleep(0.05)
