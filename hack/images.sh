#!/usr/bin/env bash
# Makes series of real images in the cache and prints their folders: images.sh [SERIES…]: those that tests use when none is named; `all` are
# those of the benchmark, too.
#
# A series is an OCI layout $D4C_CACHE/images/SERIES with the tags v1, v2 and v3 (tiny has more), each the next release of the same image. What is made is kept;
# it is made again when `recipe` in hack/images/SERIES.sh has another number. Packages come from Debian's mirror, npm and PyPI by their own clients.
. "$(dirname "$0")/lib.sh"
. "$REPO/hack/images/lib.sh"

# make_one SERIES: runs hack/images/SERIES.sh with WORK as its scratch folder and LAYOUT as the layout to fill.
make_one() {
    local series=$1 script=$REPO/hack/images/$1.sh final=$CACHE/images/$1 recipe
    recipe=$(sed -n 's/^recipe=//p' "$script")
    [ "$(cat "$final/.recipe" 2>/dev/null)" != "$recipe" ] || return 0
    say "making the images of $series"
    SECONDS=0
    WORK=$CACHE/images/.work-$series LAYOUT=$WORK/layout
    rm -rf "$WORK"
    mkdir -p "$WORK"
    umoci init --layout "$LAYOUT"
    # shellcheck source=images/debian.sh
    . "$script"
    umoci gc --layout "$LAYOUT"
    printf '%s\n' "$recipe" >"$LAYOUT/.recipe"
    rm -rf "$final"
    mv -T "$LAYOUT" "$final"
    rm -rf "$WORK"
    say "made $series in $SECONDS s"
}

# Mounts that a recipe needs live in a mount namespace of its own and end with it, however it ends.
if [ "${1:-}" = --make-one ]; then
    with_lock "images-$2" make_one "$2"
    exit
fi

[ $# -gt 0 ] || set -- tiny debian-nginx npm-node pypi-numpy
[ "$*" != all ] || set -- tiny debian-nginx npm-{node,postgres,esbuild,closure,arm64} pypi-{numpy,uv,science,tensorflow}
for series in "$@"; do
    recipe_file=$REPO/hack/images/$series.sh
    [ -e "$recipe_file" ] || die "no series $series: there are $(cd "$REPO/hack/images" && echo *.sh | sed 's/lib\.sh//; s/\.sh//g')"
    if [ "$(cat "$CACHE/images/$series/.recipe" 2>/dev/null)" != "$(sed -n 's/^recipe=//p' "$recipe_file")" ]; then
        need_root
        need umoci debootstrap python3 unshare
        unshare --mount --propagation private "$0" --make-one "$series" >&2
    fi
    printf '%s\n' "$CACHE/images/$series"
done
