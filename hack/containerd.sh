#!/usr/bin/env bash
# Builds a containerd, ctr and the runc shim(s) from integration/MODULE/go.mod into the cache and prints their folder:
# containerd.sh containerd2 (2.x), containerd20 (2.0), containerd17 (1.7). Nothing to do when they are there already.
. "$(dirname "$0")/lib.sh"

name=${1:-containerd2}
module=$REPO/integration/$name
[ -f "$module/go.mod" ] || die "no containerd $name"
package=$(sed -n 's/^\t\(github.com\/containerd\/containerd.*\)\/cmd\/containerd$/\1/p' "$module/go.mod")
version=$(sed -n "s|^.*${package} v\([0-9.]*\).*|\1|p" "$module/go.mod")
go_wanted=$(sed -n 's/^go //p' "$module/go.mod")
out=$CACHE/containerd-$version

build() {
    [ ! -x "$out/containerd" ] || return 0
    find_go "$go_wanted" || die "no Go to build containerd $version with: run make setup, or install Go $go_wanted or newer from https://go.dev/dl"
    say "building containerd $version with $("$GO" env GOVERSION) (minutes, once)"
    local tmp
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
