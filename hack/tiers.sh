#!/usr/bin/env bash
# The integration tests by tier (docs/testing.md): tiers.sh [--prepare] [TIER…] [-- ARGUMENTS OF THE TEST BINARY]
#   --prepare   only make what they need in the cache: images, containerd 2.x
# Tests run as root: through sudo when this is not. What they left behind, mounts, loop devices, processes, is an error.
. "$(dirname "$0")/lib.sh"
cd "$REPO"

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo "--preserve-env=CARGO_TARGET_DIR,D4C_CACHE,D4C_DEBIAN_MIRROR,D4C_BIN_DIR,D4C_SOAK_KILLS,D4C_PULL_FAULTS,RUST_BACKTRACE")

prepare() {
    "${as_root[@]}" hack/images.sh tiny debian-nginx npm-node pypi-numpy >/dev/null
    # As the user: root's PATH has no Go.
    "${as_root[@]}" install -d -m 0777 "$CACHE"
    hack/containerd.sh containerd2 >/dev/null
    hack/gotool.sh registry >/dev/null
    hack/gotool.sh cri >/dev/null
    hack/gotool.sh runc >/dev/null
    "${as_root[@]}" hack/guest.sh >/dev/null
}

# What a test must not leave: mounts, loop devices, network namespaces, processes of ours.
world() {
    awk '{ print "mount", $5 }' /proc/self/mountinfo
    losetup --noheadings --output NAME,BACK-FILE 2>/dev/null | sed 's/^/loop /'
    find /run/netns -mindepth 1 -printf 'netns %f\n' 2>/dev/null || true
    { "${as_root[@]}" grep -lsz '^D4C_SANDBOX=' /proc/[0-9]*/environ || true; } | while read -r environ; do
        printf 'process %s\n' "$(tr '\0' ' ' <"${environ%environ}cmdline" 2>/dev/null)"
    done
}

if [ "${1:-}" = --prepare ]; then
    prepare
    exit
fi

tiers=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do tiers+=("$1"); shift; done
[ $# = 0 ] || shift
[ ${#tiers[@]} -gt 0 ] || mapfile -t tiers < <(sed -n 's/^name = "\(tier.*\)"/\1/p' integration/Cargo.toml)

prepare
for name in containerd17 containerd20; do
    [[ " ${tiers[*]} " != *" extra_$name "* ]] || hack/containerd.sh "$name" >/dev/null
done
if [[ " ${tiers[*]} " == *" extra_nerdctl "* ]]; then for tool in nerdctl nerdctl22 nerdctl2; do hack/gotool.sh $tool >/dev/null; done; fi
host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
if [ ${#as_root[@]} -gt 0 ]; then export "CARGO_TARGET_${host}_RUNNER=${as_root[*]}"; fi
export RUST_LIB_BACKTRACE=0 # an error tells its place by its context
before=$(world | sort)
for tier in "${tiers[@]}"; do
    start=$SECONDS
    # Of the whole workspace, as its unit tests: by itself it would have all crates compiled anew, with other features.
    "${CARGO:-cargo}" test --workspace --test "$tier" -- --test-threads 2 "$@"
    left=$(comm -13 <(printf '%s\n' "$before") <(world | sort))
    [ -z "$left" ] || die "$tier left behind:"$'\n'"$left"
    printf -- '-- %s: %d s, nothing left behind\n' "$tier" $((SECONDS - start))
done
