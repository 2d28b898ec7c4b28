#!/usr/bin/env bash
# Builds containerd 2.x, ctr and the runc shim from integration/containerd2/go.mod into the cache and prints their folder. Nothing to do
# when they are there already.
. "$(dirname "$0")/lib.sh"

module=$REPO/integration/containerd2
version=$(sed -n 's/.*github.com\/containerd\/containerd\/v2 v\([0-9.]*\).*/\1/p' "$module/go.mod")
go_wanted=$(sed -n 's/^go //p' "$module/go.mod")
out=$CACHE/containerd-$version

build() {
    [ ! -x "$out/containerd" ] || return 0
    find_go "$go_wanted" || die "no Go to build containerd $version with: run make setup, or install Go $go_wanted or newer from https://go.dev/dl"
    say "building containerd $version with $("$GO" env GOVERSION) (minutes, once)"
    local tmp package=github.com/containerd/containerd/v2
    tmp=$(mktemp -d "$out.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$tmp'" EXIT
    (cd "$module" && CGO_ENABLED=0 nice -n 10 "$GO" build -mod=readonly -buildvcs=false -trimpath -p 2 -o "$tmp/" \
        -ldflags "-s -w -X $package/version.Version=$version" \
        "$package/cmd/containerd" "$package/cmd/ctr" "$package/cmd/containerd-shim-runc-v2")
    chmod 0755 "$tmp"
    mv -T "$tmp" "$out"
    trap - EXIT
}

with_lock "containerd-$version" build
printf '%s\n' "$out"
