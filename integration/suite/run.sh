#!/usr/bin/env bash
# Runs containerd's own suite of snapshotters, as it is in three versions of containerd, against di3fs-snapshotter. Needs root.
# usage: run.sh [VERSION…]; the binary is $D4C_BIN_DIR/di3fs-snapshotter, else that in target/release.
. "$(dirname "$0")/../../hack/lib.sh"

suite=$REPO/integration/suite
bin_dir=${D4C_BIN_DIR:-${CARGO_TARGET_DIR:-$REPO/target}/release}
export D4C_SNAPSHOTTER=$bin_dir/di3fs-snapshotter
# Rename of directories passes only so, and it is off in this kernel's default.
export D4C_SUITE_CONFIG=$'[overlay]\nredirect_dir = true'

declare -A package=(
    [1.6.36]=github.com/containerd/containerd/snapshots
    [1.7.35]=github.com/containerd/containerd/snapshots
    [2.4.2]=github.com/containerd/containerd/v2/core/snapshots
)
declare -A tests=([1.6.36]=20 [1.7.35]=21 [2.4.2]=21)

# shellcheck disable=SC2317 # called by with_lock
# build VERSION OUT: compiles the suite of a version, once for each state of its inputs.
build() {
    local version=$1 out=$2 tmp go_wanted
    [ ! -x "$out" ] || return 0
    go_wanted=$(sed -n 's/^go //p' "$suite/$version/go.mod")
    find_go "$go_wanted" || die "no Go to build the suite of containerd $version with: run make setup, or install Go $go_wanted or newer from https://go.dev/dl"
    say "building the suite of containerd $version with $("$GO" env GOVERSION) (a minute, once)"
    mkdir -p "$(dirname "$out")"
    tmp=$(mktemp -d "$CACHE/suite/build.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$tmp'" EXIT
    cp "$suite/$version/go.mod" "$suite/$version/go.sum" "$tmp/"
    sed "s|@SNAPSHOTS@|${package[$version]}|g" "$suite/suite_test.go.in" >"$tmp/suite_test.go"
    (cd "$tmp" && nice -n 10 "$GO" test -mod=readonly -c -p 2 -o suite.test .)
    mv "$tmp/suite.test" "$out"
    rm -rf "$tmp"
    trap - EXIT
}

need_root
[ -x "$D4C_SNAPSHOTTER" ] || die "no $D4C_SNAPSHOTTER: run make build"
[ $# -gt 0 ] || set -- 1.6.36 1.7.35 2.4.2
failed=0
for version in "$@"; do
    [ -n "${package[$version]:-}" ] || die "no suite of containerd $version: there are ${!package[*]}"
    inputs=$(cat "$suite/$version/go.mod" "$suite/$version/go.sum" "$suite/suite_test.go.in" | sha256sum | cut -c1-16)
    test_binary=$CACHE/suite/$version-$inputs/suite.test
    with_lock "suite-$version" build "$version" "$test_binary"
    log=$(mktemp)
    (cd / && "$test_binary" -test.root -test.v -test.timeout 300s) >"$log" 2>&1 || true
    passed=$(grep -c '^    --- PASS' "$log" || true)
    wrong=$(grep -c '^ *--- FAIL' "$log" || true)
    if [ "$passed" = "${tests[$version]}" ] && [ "$wrong" = 0 ]; then
        say "containerd $version: $passed of ${tests[$version]} passed"
        rm -f "$log"
    else
        say "containerd $version: $passed of ${tests[$version]} passed, $wrong failed; whole output: $log"
        grep -B30 '^ *--- FAIL' "$log" | tail -n 60 >&2 || true
        failed=1
    fi
done
exit "$failed"
