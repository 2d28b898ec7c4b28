#!/usr/bin/env bash
# Builds one of the tests' programs in Go into the cache and prints its path: gotool.sh registry (with referrers), cri (its client), runc,
# nerdctl, nerdctl22 and nerdctl2 (as their go.mod pin them, no code of ours). Nothing to do when it is there.
. "$(dirname "$0")/lib.sh"

name=$1
module=$REPO/integration/$name
[ -f "$module/go.mod" ] || die "no program $name"
package=$(sed -n 's/^tool //p' "$module/go.mod")
go_wanted=$(sed -n 's/^go //p' "$module/go.mod")
version=$({ [ -n "$package" ] || cat "$module/main.go"; cat "$module/go.mod"; } | sha256sum | cut -c1-16)
out=$CACHE/$name-$version
cgo=0
[ "$name" != runc ] || cgo=1 # it enters namespaces in C

build() {
    [ ! -x "$out" ] || return 0
    find_go "$go_wanted" || die "no Go to build $name with: run make setup, or install Go $go_wanted or newer from https://go.dev/dl"
    say "building the tests' $name with $("$GO" env GOVERSION)"
    (cd "$module" && CGO_ENABLED=$cgo nice -n 10 "$GO" build -mod=readonly -buildvcs=false -trimpath -p 2 -o "$out.new" "${package:-.}")
    mv -T "$out.new" "$out"
}

with_lock "$name-$version" build
printf '%s\n' "$out"
