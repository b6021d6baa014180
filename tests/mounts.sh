#!/bin/bash
# A source whose mount changed is refused until a person says so. Needs root and loop devices.
# usage: mounts.sh ZONEWARD
set -euo pipefail
zoneward=$(realpath "$1")
work=$(mktemp -d)
export ZONEWARD_HOME=$work/home ZONEWARD_PASSPHRASE=mounts
clean() {
  for m in "$work/tree/below" "$work/disk"; do
    if mountpoint -q "$m"; then umount "$m"; fi
  done
  rm -rf "$work"
}
trap clean EXIT
for d in a b c; do
  truncate -s 64M "$work/$d.img"
  mkfs.ext4 -q "$work/$d.img"
done
mkdir -p "$work/disk" "$work/tree/below" "$work/disk/photos"
echo old >"$work/disk/photos/old"
mount_on() { mount -o loop "$work/$1.img" "$2"; }
expect() { # CODE WHAT COMMAND…
  local want=$1 what=$2 code=0
  shift 2
  "$@" >"$work/out" 2>"$work/err" || code=$?
  if [ "$code" != "$want" ]; then
    echo "FAILED: $what: exit $code, not $want"
    cat "$work/out" "$work/err"
    exit 1
  fi
  echo "$what: exit $code"
}

"$zoneward" init --target "$work/target" --sector-min 1MiB --quiet >"$work/out"
mount_on b "$work/disk"
mkdir -p "$work/disk/photos"
echo b >"$work/disk/photos/b"
umount "$work/disk"
mount_on a "$work/disk"
mkdir -p "$work/disk/photos"
echo a >"$work/disk/photos/a"
mount_on c "$work/tree/below"
echo c >"$work/tree/below/c"
expect 0 "three sources" "$zoneward" backup "$work/disk" "$work/disk/photos" "$work/tree"
expect 0 "again" "$zoneward" backup
umount "$work/disk"
mount_on a "$work/disk"
expect 0 "mounted again" "$zoneward" backup
umount "$work/disk"
mount_on b "$work/disk"
expect 4 "another file system on the same mount point" "$zoneward" backup "$work/disk"
expect 4 "a plain folder, on another file system" "$zoneward" backup "$work/disk/photos"
umount "$work/disk"
expect 4 "no file system on the mount point" "$zoneward" backup "$work/disk"
expect 4 "a folder of that name below the mount point" "$zoneward" backup "$work/disk/photos"
mount_on a "$work/disk"
expect 0 "back again" "$zoneward" backup "$work/disk" "$work/disk/photos"
umount "$work/tree/below"
expect 4 "a mount inside the source is gone" "$zoneward" backup "$work/tree"
grep -q "$work/tree/below" "$work/err"
expect 0 "a person says so" "$zoneward" backup "$work/tree" --allow-empty
expect 0 "and it stays so" "$zoneward" backup "$work/tree"
echo "changed mounts are refused"
