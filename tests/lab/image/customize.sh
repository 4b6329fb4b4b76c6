#!/bin/bash
# Turns a fresh Debian root directory into the lab's guest. Usage: customize.sh ROOT FILES REPACK, in a mount
# namespace of its own. Writes the two kernel releases, old then new, to standard output.
set -euo pipefail
root=$1 files=$2 repack=$3

in_root() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
}

scan() {
    (cd "$1" && dpkg-scanpackages --multiversion . >Packages)
}

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
exec 3>&1 1>&2

printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
in_root apt-get -q update

# The newest two kernels of the cloud flavour: one is installed, the other waits to be installed.
mapfile -t kernels < <(in_root apt-cache --names-only search '^linux-image-[0-9][^ ]*-cloud-amd64$' |
    sed -E 's/^linux-image-([^ ]+) .*/\1/' | sort -V | tail -n 2)
if [ "${#kernels[@]}" -lt 2 ]; then
    echo "the archive offers one cloud kernel only (${kernels[*]}): an update needs two" >&2
    exit 1
fi
old=${kernels[0]} new=${kernels[1]}
in_root apt-get -q install -y --no-install-recommends "linux-image-$old"
version=$(in_root dpkg-query -W -f '${Version}' "linux-image-$old")
if in_root apt-cache madison linux-image-cloud-amd64 | grep -qF " $version "; then
    in_root apt-get -q install -y --no-install-recommends "linux-image-cloud-amd64=$version"
fi

# The guest has no network beyond its peer: what it may install later lies in a repository of its own.
repo=/srv/kup-lab/repo
mkdir -p "$root$repo" "$root$repo-libs"
in_root sh -c "cd $repo && apt-get -q download linux-image-$new linux-image-cloud-amd64"
scan "$root$repo"

# The same libraries under a higher version, so that an upgrade replaces files which running services map.
for package in libc6 libc-bin libc-l10n locales libjemalloc2 liblzf1 libevent-2.1-7t64; do
    if [ "$(in_root dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ]; then
        in_root sh -c "cd $repo-libs && apt-get -q download $package"
    fi
done
for deb in "$root$repo-libs"/*.deb; do
    "$repack" "$deb" +kup1
done
scan "$root$repo-libs"

# Servers of other kinds, and tools (crit is in python3-pycriu), for scenarios that install them.
mkdir -p "$root$repo-more/partial"
in_root apt-get -q install -y --no-install-recommends --download-only -o "Dir::Cache::archives=$repo-more" \
    haproxy postgresql cryptsetup-bin libtss2-esys-3.0.2-0t64 libtss2-mu-4.0.1-0t64 libtss2-rc0t64 libtss2-tcti-device0t64 \
    grub-efi-amd64 python3-pycriu
# They are installed here, but not on the machine with systemd-boot that gets this GRUB.
in_root sh -c "cd $repo-more && apt-get -q download grub-common grub2-common"
rm -rf "$root$repo-more/partial" "$root$repo-more/lock"
scan "$root$repo-more"

# What the image with systemd-boot is made with: the very version of this systemd.
mkdir -p "$root$repo-efi/partial"
in_root apt-get -q install -y --no-install-recommends --download-only -o "Dir::Cache::archives=$repo-efi" \
    systemd-boot systemd-boot-efi
rm -rf "$root$repo-efi/partial" "$root$repo-efi/lock"

# The next release's CRIU, which speaks the page server's other format.
mkdir -p "$root$repo-next/partial"
next=$root/etc/apt/sources.list.d/next.list
# Its index is valid for a week; a mirror may be older.
sed -n 's/^deb \(.*\) trixie main$/deb [check-valid-until=no] \1 forky main/p' "$root/etc/apt/sources.list" >"$next"
in_root apt-get -q update
in_root apt-get -q install -y --no-install-recommends --download-only -o APT::Default-Release=trixie \
    -o "Dir::Cache::archives=$repo-next" criu/forky
rm -rf "$root$repo-next/partial" "$root$repo-next/lock" "$next"
scan "$root$repo-next"

cp -r --no-preserve=ownership "$files/." "$root/"
chmod 700 "$root/root/.ssh"
chmod 755 "$root/srv/kup-lab"/setup-*
rm -f "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf" "$root/etc/apt/sources.list.d"/*.sources
rm -rf "$root/var/lib/apt/lists"/* "$root/var/cache/apt"/*.bin
find "$root/var/cache/apt/archives" -name '*.deb' -delete

# Configuration files only: the units stay as their packages ship them.
sed -i 's/^-l .*/-l 0.0.0.0/' "$root/etc/memcached.conf"
sed -i -e 's/^bind .*/bind 0.0.0.0/' -e 's/^protected-mode .*/protected-mode no/' "$root/etc/redis/redis.conf"

in_root passwd -q -d root
in_root systemd-machine-id-setup
in_root systemctl -q enable systemd-networkd.service
# Timers that would wake up in the middle of a measurement.
in_root systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer man-db.timer \
    dpkg-db-backup.timer logrotate.timer
mkdir -p "$root/var/log/journal"
in_root chown root:systemd-journal /var/log/journal
chmod 2755 "$root/var/log/journal"

echo "$old" >&3
echo "$new" >&3
