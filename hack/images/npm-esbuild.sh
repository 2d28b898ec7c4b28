# shellcheck shell=bash
# esbuild, a Go program, on Debian's base: three consecutive releases.
# shellcheck disable=SC2034
recipe=1

need npm tar
import_base security
for number in 1 2 3; do
    npm_package "@esbuild/linux-x64@0.21.$((number + 2))" "$WORK/package"
    mkdir -p "$WORK/v$number/usr/local"
    mv "$WORK/package/bin" "$WORK/v$number/usr/local/bin"
    add_layer "v$number" "$WORK/v$number"
    rm -rf "$WORK/package"
done
umoci rm --image "$LAYOUT:base"
