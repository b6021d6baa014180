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

# A rollback moves nothing that is mounted, and knows another disk, and one that has no room.
has() { # WHAT FILE TEXT
  grep -qF "$3" "$work/$2" || { echo "FAILED: $1:"; cat "$work/$2"; exit 1; }
  echo "$1"
}
mount_on c "$work/tree/below"
umount "$work/disk"
mount_on b "$work/disk"
expect 0 "what a rollback would do" "$zoneward" rollback latest
has "a mount inside stays" out "something is mounted on $work/tree/below"
has "another disk is not written to" out "is the right disk mounted?"
expect 4 "no source can go back" "$zoneward" rollback latest --apply
umount "$work/disk"
mount_on a "$work/disk"
head -c 35M /dev/urandom >"$work/disk/large"
sum=$(sha256sum <"$work/disk/large")
expect 0 "a large file" "$zoneward" backup "$work/disk"
expect 4 "no room beside what is there" "$zoneward" rollback latest --apply
has "it says so" err ZW-1654
rm "$work/disk/large"
echo since >"$work/disk/since"
expect 3 "there is room by now, and one source stays" "$zoneward" rollback latest --apply
[ "$sum" = "$(sha256sum <"$work/disk/large")" ] && [ ! -e "$work/disk/since" ]
umount "$work/disk"
expect 1 "undone without the disk" "$zoneward" rollback --undo
expect 4 "nothing is backed up meanwhile" "$zoneward" backup "$work/tree" --allow-empty
mount_on a "$work/disk"
expect 0 "undone" "$zoneward" rollback --undo
[ ! -e "$work/disk/large" ] && [ "$(cat "$work/disk/since")" = since ]
expect 0 "released" "$zoneward" rollback --release --apply
[ -z "$(find "$work/disk" -name '.zoneward-*')" ]
echo "a rollback leaves mounts alone"
