#!/usr/bin/env bash
# Builds the tests' registry with referrers from integration/registry into the cache and prints its path. Nothing to do when it is there.
. "$(dirname "$0")/lib.sh"

module=$REPO/integration/registry
go_wanted=$(sed -n 's/^go //p' "$module/go.mod")
version=$(cat "$module/main.go" "$module/go.mod" | sha256sum | cut -c1-16)
out=$CACHE/registry-$version

build() {
    [ ! -x "$out" ] || return 0
    find_go "$go_wanted" || die "no Go to build the registry with: run make setup, or install Go $go_wanted or newer from https://go.dev/dl"
    say "building the tests' registry with $("$GO" env GOVERSION)"
    (cd "$module" && CGO_ENABLED=0 nice -n 10 "$GO" build -mod=readonly -buildvcs=false -trimpath -p 2 -o "$out.new" .)
    mv -T "$out.new" "$out"
}

with_lock "registry-$version" build
printf '%s\n' "$out"
