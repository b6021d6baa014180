#!/bin/bash
# 34 units of data that does not compress take one sector of 32 units and one of 2; 62 units take one of 64.
# Usage: classes.sh PATH-TO-ZONEWARD [WORKDIR]
set -euo pipefail
zoneward=$(realpath "$1")
work=${2:-$(mktemp -d)}
export ZONEWARD_HOME=$work/zone ZONEWARD_PASSPHRASE=classes-passphrase
unit=$((4 << 20))
classes() {
  "$zoneward" sector ls --json | python3 -c '
import json, sys
print(" ".join(str(s["class_bytes"] // int(sys.argv[1])) for s in json.load(sys.stdin)["sectors"] if not s["system"]))' "$unit"
}
for want in "34:32 2" "62:64"; do
  units=${want%%:*}
  rm -rf "$work"/{src,zone,target,out}
  mkdir -p "$work/src"
  # One unit less, for what describes the data and for the end of a sector that the next chunk does not fit into.
  head -c $((units * unit - unit)) /dev/urandom >"$work/src/data"
  "$zoneward" init --quiet --sector-min 4MiB --target "$work/target" >/dev/null
  "$zoneward" backup --quiet "$work/src"
  got=$(classes)
  [ "$got" = "${want#*:}" ] || { echo "$units units became $got"; exit 1; }
  "$zoneward" restore --quiet latest --to "$work/out"
  cmp "$work/src/data" "$work/out$work/src/data"
  echo "classes: $units units became $got"
done
rm -rf "$work"/{src,zone,target,out}
