#!/bin/bash
# A zone's latest checkpoint comes back with the 24 words, the target's folder and docs/rescue/rescue.py alone.
# Usage: rescue.sh PATH-TO-ZONEWARD [WORKDIR]
set -euo pipefail
zoneward=$(realpath "$1")
work=${2:-$(mktemp -d)}
here=$(dirname "$(realpath "$0")")
export ZONEWARD_HOME=$work/zone ZONEWARD_PASSPHRASE=rescue-passphrase
rm -rf "$work"/{src,zone,target,second,out,words,export,out-ann,ann.html,ann.words}
mkdir -p "$work/src/deep/er"
cd "$work/src"
echo one >one
head -c 3000000 /dev/urandom >large
head -c 700000 /dev/zero >zeros
ln one deep/hard
ln -s ../one deep/link
printf 'odd' >$'deep/not-utf8-\xff\xfe'
truncate -s 30M deep/er/sparse
printf 'end' >>deep/er/sparse
mkfifo deep/fifo
chmod 0640 one
touch -d '1969-07-20 20:17:40.123456789 UTC' deep/er
cd "$work"
"$zoneward" init --quiet --target "$work/target" >/dev/null
"$zoneward" backup --quiet "$work/src"
echo two >>"$work/src/one"
printf 'inserted' | dd of="$work/src/large" bs=1 seek=1000000 conv=notrunc status=none
rm "$work/src/zeros"
"$zoneward" backup --quiet
python3 - "$work/zone/recovery-kit.html" >"$work/words" <<'P'
import re, sys
print(" ".join(re.findall(r"<li><span>\d+</span>([a-z]+)</li>", open(sys.argv[1]).read())[:24]))
P
python3 "$here/../docs/rescue/rescue.py" --target "$work/target" --words-file "$work/words" --to "$work/out" >/dev/null
got=$work/out$work/src
diff -r --no-dereference --exclude=fifo "$work/src" "$got"
list() { (cd "$1" && find . -printf '%P %y %m %T@ %n %s %l\n' | sort | sed 's/ d \([0-7]*\) \([^ ]*\) .*/ d \1 \2/'); }
diff <(list "$work/src") <(list "$got")
[ "$(stat -c %b "$got/deep/er/sparse")" -lt 1000 ]
if echo abandon abandon | python3 "$here/../docs/rescue/rescue.py" --target "$work/target" --words-file /dev/stdin --to "$work/no" >/dev/null 2>&1; then
  echo "wrong words were taken"; exit 1
fi
# An export of a user is a zone whose owner he is: his words and the script open it, and the zone's words do not.
"$zoneward" user add ann --quiet --source "$work/src"
"$zoneward" user key ann --quiet --kit "$work/ann.html"
"$zoneward" user export ann --quiet --to "$work/export"
python3 - "$work/ann.html" >"$work/ann.words" <<'P'
import re, sys
print(" ".join(re.findall(r"<li><span>\d+</span>([a-z]+)</li>", open(sys.argv[1]).read())[:24]))
P
rescue() { python3 "$here/../docs/rescue/rescue.py" --target "$work/export" --words-file "$1" --to "$2" >/dev/null; }
if rescue "$work/words" "$work/no" 2>/dev/null; then echo "the zone's words opened a user's export"; exit 1; fi
rescue "$work/ann.words" "$work/out-ann"
anns=$work/out-ann$work/src
diff -r --no-dereference --exclude=fifo "$work/src" "$anns"
diff <(list "$work/src") <(list "$anns")
[ "$(stat -c %b "$anns/deep/er/sparse")" -lt 1000 ]
echo "rescue: a user's export came back with his words, without a difference"

# Write-only: the zone has no key any more, and what lies on the second target was relayed there, byte for byte.
"$zoneward" source set --quiet "$work/src" --write-only
"$zoneward" source forget-keys --quiet "$work/src"
if "$zoneward" restore --quiet latest --to "$work/no" 2>/dev/null; then
  echo "the zone read what is write-only"; exit 1
fi
"$zoneward" target add --quiet "$work/second" --name second
"$zoneward" backup --quiet
rm -rf "$work/target" "$work/out"
python3 "$here/../docs/rescue/rescue.py" --target "$work/second" --words-file "$work/words" --to "$work/out" >/dev/null
diff -r --no-dereference --exclude=fifo "$work/src" "$got"
echo "rescue: the latest checkpoint came back without Zoneward, without a difference"
