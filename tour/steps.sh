# The steps that the tour is written in.

bold() { printf '\033[1m%s\033[0m' "$*"; }
[ -t 1 ] || bold() { printf '%s' "$*"; }

chapter() { printf '\n%s\n' "$(bold "── $*")"; }
say() { printf '   %s\n' "$*"; }
passed=0

differs() {
    printf '\n%s\n' "$(bold "The tour differs from what was expected: $*")" >&2
    [ -s "$scratch/log" ] && sed 's/^/   ioasidd: /' "$scratch/log" >&2
    exit 1
}

start_tour() {
    scratch=$(mktemp -d /tmp/ioasid-tour.XXXXXX)
    chmod 755 "$scratch"
    slice=ioasid-tour-$$.slice
    service=
    holders=
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    say "$(bold ioasidd) shares out PASIDs: who may have how many, and who holds which."
}

clean_up() {
    for name in $holders; do
        kill -9 "$(cat "$scratch/$name.pid")" 2>/dev/null || true
    done
    if [ -n "$service" ]; then
        kill "$service" 2>/dev/null || true
        wait "$service" 2>/dev/null || true
    fi
    if [ -n "${top:-}" ] && [ -d "$top" ]; then
        echo 1 >"$top/cgroup.kill" 2>/dev/null || true
        # What was killed leaves its cgroup a moment later.
        tries=0
        until find "$top" -depth -type d -exec rmdir {} + 2>/dev/null || [ ! -d "$top" ] || [ $tries -gt 2000 ]; do
            tries=$((tries + 1))
        done
    fi
    rm -rf "$scratch"
}

finish_tour() {
    chapter "That was all: $passed steps, each as expected"
    say "Nothing is left behind. README.md goes on from here."
    exit 0
}

# Where cgroup2 is, if this user may make cgroups there.
can_have_cgroups() {
    root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    [ -n "$root" ] && [ "$(id -u)" -eq 0 ] && mkdir "$root/$slice" 2>/dev/null && top=$root/$slice
}

make_cgroups() {
    for name in "$@"; do
        mkdir "$top/$name"
    done
}

start_service() {
    ioasidd "$@" --runtime-dir "$scratch/run" --bus none --device none --cgroup-fs none >"$scratch/log" 2>&1 &
    service=$!
    export IOASID_SOCKET="$scratch/run/ioasid.sock"
    tries=0
    until ioasidctl status >/dev/null 2>&1; do
        kill -0 "$service" 2>/dev/null || differs "the service ended"
        tries=$((tries + 1))
        [ $tries -lt 500 ] || differs "the service does not answer"
    done
    say "A service listens on $IOASID_SOCKET"
}

# guest CGROUP NAME CMD…: starts CMD in that cgroup; `tell NAME` talks to the holder that it runs.
guest() {
    cgroup=$1 name=$2
    shift 2
    mkfifo "$scratch/$name.orders" "$scratch/$name.answer"
    TOUR_ORDERS="$scratch/$name.orders" TOUR_ANSWER="$scratch/$name.answer" \
        sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$top/$cgroup" "$@" >"$scratch/$name.log" 2>&1 &
    echo $! >"$scratch/$name.pid"
    holders="$holders $name"
    say "\$ $* &   # in /$slice/$cgroup"
}

# tell NAME CMD…: the holder runs CMD with its set FD; its output and its status are this function's.
tell() {
    name=$1
    shift
    # Each word quoted for the holder's shell.
    order=
    for word in "$@"; do
        order="$order '$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'"
    done
    printf '%s\n' "$order" >"$scratch/$name.orders"
    answer=$(cat "$scratch/$name.answer")
    printf '%s\n' "$answer" | sed '$d'
    return "$(printf '%s\n' "$answer" | sed -n '$s/^status //p')"
}

# expect WHAT VALUE CMD…: the output of CMD is VALUE, or has so many lines.
expect() {
    what=$1 value=$2
    shift 2
    found=$("$@") || differs "$what: $* ended with $?: $found"
    lines=$(printf '%s\n' "$found" | wc -l)
    [ "$found" = "$value" ] || [ "$lines" = "$value" ] || differs "$what: expected $value, found $found"
    passed=$((passed + 1))
    say "✓ $what"
}

# refused_with NAME CMD…: CMD is refused with exit status 1 and this error; `field` looks at it.
refused_with() {
    name=$1
    shift
    status=0
    refusal=$("$@") || status=$?
    [ $status -eq 1 ] || differs "$* ended with $status instead of 1: $refusal"
    field error "$name"
}

field() {
    found=$(printf '%s' "$refusal" | tr -d '\n' | sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p")
    [ "$found" = "$2" ] || differs "the refusal's $1 is $found, not $2: $refusal"
    passed=$((passed + 1))
    say "✓ refused: $1 = $found"
}

current_of() {
    ioasidctl --json cgroup "/$slice/$1" | tr -d ' \n' | sed 's/.*"current":\([0-9]*\).*/\1/'
}

# expect_peer_count CGROUP N: so many ids are charged to it; a close takes the service a moment to see.
expect_peer_count() {
    tries=0
    until [ "$(current_of "$1")" = "$2" ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || differs "$1 is charged for $(current_of "$1") ids, not $2"
    done
    passed=$((passed + 1))
    say "✓ $1 is charged for $2"
}

# pick_ids N: the last N ids of what `info --json` says.
pick_ids() {
    tr -d ' \n' | sed 's/.*"pasids":\[\([0-9,]*\)\].*/\1/' | tr ',' '\n' | tail -n "$1" | tr '\n' ' '
}

kill_holder() {
    pid=$(cat "$scratch/$1.pid")
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    say "\$ kill -9 $pid   # $1"
}

indent() { sed 's/^/   /'; }

tree() {
    echo
    ioasidctl cgroup "/$slice" | grep -v ' left out;' | indent
}

# Waits for a path that somebody else makes.
wait_for() {
    tries=0
    until [ -e "$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 20000 ] || differs "$1 never came"
    done
}

# Without root or without cgroup2: the service of one user, which hands out ids but has no guests to keep apart.
tour_for_a_user() {
    chapter "A service for one user"
    say "Left out, for it takes root and a cgroup2 hierarchy: the slice and its limit, guests in cgroups, namespaces."
    start_service --user
    expect "a process of this user took 8 ids" 8 ioasidctl exec --quota 8 -- ioasidctl alloc -n 8
    expect "a set FD is passed on by inheritance: two commands share one set" 2 \
        ioasidctl exec --quota 2 -- sh -c 'ioasidctl alloc; ioasidctl alloc'
    status=0
    refusal=$(ioasidctl exec --quota 2 -- ioasidctl --json alloc -n 3) || status=$?
    [ $status -eq 1 ] || differs "three of two ended with $status"
    field error QuotaExceeded
    expect "no set is left" "[]" ioasidctl --json sets
}
