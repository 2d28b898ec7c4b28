# shellcheck shell=bash
# What the scripts of this folder share: where things are, messages, versions. Sourced, never run.

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${D4C_CACHE:-/var/cache/d4c}
export REPO CACHE

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$(basename "$0"): $*"
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root: run it with sudo"
}

# need COMMAND…: each must be in PATH.
need() {
    local command
    for command in "$@"; do
        command -v "$command" >/dev/null || die "no $command: run make setup"
    done
}

# version_at_least HAVE WANT: dotted numbers.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

make_cache() {
    if mkdir -p "$CACHE" && [ -w "$CACHE" ]; then return; fi
    die "cannot write to $CACHE: set D4C_CACHE to a folder of yours, or run as root"
}

# with_lock NAME COMMAND…: one at a time on this machine, whoever runs it. The lock is not inherited by what COMMAND leaves running.
with_lock() {
    local name=$1 fd
    shift
    make_cache
    exec {fd}>"$CACHE/.$name.lock"
    flock "$fd"
    "$@" {fd}>&- # no ||: it would switch off set -e in COMMAND
    exec {fd}>&-
}

# find_go WANT: puts into GO a go command that builds modules asking for version WANT: new enough itself, or able to fetch a newer one
# from the module proxy (since 1.21). Fails when there is none.
find_go() {
    local have
    for GO in "$(command -v go || true)" /usr/local/go/bin/go; do
        [ -x "$GO" ] || continue
        have=$("$GO" env GOVERSION)
        have=${have#go}
        version_at_least "$have" "$1" && return
        if version_at_least "$have" 1.21 && (cd / && GOTOOLCHAIN=go$1 "$GO" version >/dev/null 2>&1); then
            export GOTOOLCHAIN=go$1
            return
        fi
    done
    return 1
}
