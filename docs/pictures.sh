#!/bin/sh
# Draws docs/map.svg and docs/top.svg from a service of its own with a few guests. Takes root, tmux and python3.
# Usage: docs/pictures.sh [directory with ioasidd and ioasidctl]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=${1:-$here/../target/debug}
dir=$(mktemp -d)
export IOASID_SOCKET="$dir/run/ioasid.sock" LC_ALL=C.UTF-8
root=$(awk '$9 == "cgroup2" || $8 == "cgroup2" || $10 == "cgroup2" {print $5; exit}' /proc/self/mountinfo)
slice=$root/machine-pictures.slice
guests="web db ci gpu"
cleanup() {
    tmux -L pictures kill-server 2>/dev/null || true
    for guest in $guests; do
        for pid in $(cat "$slice/$guest.scope/cgroup.procs" 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
    done
    kill "$service" 2>/dev/null || true
    wait 2>/dev/null || true
    for guest in $guests; do rmdir "$slice/$guest.scope" 2>/dev/null || true; done
    rmdir "$slice" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
cat > "$dir/policy.toml" <<EOF
version = 1
[space]
bits = 13
quarantine = "1h"
[[cgroup]]
path = "/machine-pictures.slice"
max = 3000
[[cgroup]]
path = "/machine-pictures.slice/ci.scope"
max = 200
[[rule]]
name = "guests"
cgroup = "/machine-pictures.slice/**"
users = ["root"]
action = "allow"
quota = { default = 64, max = 2048 }
EOF
"$bin/ioasidd" --policy "$dir/policy.toml" --runtime-dir "$dir/run" --bus none --device none --cgroup-fs none &
service=$!
until [ -S "$IOASID_SOCKET" ]; do sleep 0.05; done
mkdir -p "$slice"
# In turns, so that the space is shared out in stripes; some is given back and rests.
for guest in $guests; do
    mkdir -p "$slice/$guest.scope"
    case $guest in
    web) steps="300 250 200" ;;
    db) steps="400 60 40" ;;
    ci) steps="100 90 8" ;;
    gpu) steps="700 30 20" ;;
    esac
    cat > "$dir/$guest" <<EOF
echo \$\$ > $slice/$guest.scope/cgroup.procs
exec $bin/ioasidctl exec --quota 2048 --label $guest -- sh -c 'for n in $steps; do $bin/ioasidctl alloc -n \$n >> $dir/$guest.ids; sleep 0.4; done
head -n 70 $dir/$guest.ids | xargs $bin/ioasidctl free; touch $dir/$guest.done
while sleep 1.2; do $bin/ioasidctl alloc -n 12 > $dir/$guest.last 2>/dev/null && sleep 0.7 && xargs $bin/ioasidctl free < $dir/$guest.last; [ $guest = ci ] && $bin/ioasidctl alloc -n 190 >/dev/null 2>&1; done'
EOF
    sh "$dir/$guest" > "$dir/$guest.log" 2>&1 &
done
for guest in $guests; do until [ -e "$dir/$guest.done" ]; do sleep 0.1; done; done
"$bin/ioasidctl" map --svg "$here/map.svg"
tmux -L pictures -f /dev/null new-session -d -x 120 -y 16 "$bin/ioasidctl --socket $IOASID_SOCKET top"
sleep 20
tmux -L pictures send-keys s
sleep 1.5
tmux -L pictures capture-pane -p -e | python3 "$here/terminal_svg.py" > "$here/top.svg"
