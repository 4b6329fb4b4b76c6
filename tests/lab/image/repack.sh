#!/bin/bash
# Gives a Debian package a higher version, with the same contents. Usage: repack.sh FILE.deb SUFFIX; replaces FILE.deb.
set -euo pipefail
deb=$1 suffix=$2
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
dpkg-deb -R "$deb" "$tree/package"
sed -i "s/^Version: .*/&$suffix/" "$tree/package/DEBIAN/control"
dpkg-deb -Zgzip -z1 --root-owner-group -b "$tree/package" "${deb%.deb}$suffix.deb"
rm "$deb"
