# shellcheck shell=bash
# Google's Closure compiler, a Java application in one jar, on Debian's base: three consecutive releases.
# shellcheck disable=SC2034
recipe=1

need npm tar
import_base security
number=0
for version in 20260907 20260909 20260913; do
    number=$((number + 1))
    npm_package "google-closure-compiler-java@$version.0.0" "$WORK/package"
    mkdir -p "$WORK/v$number/usr/local/share"
    mv "$WORK/package" "$WORK/v$number/usr/local/share/closure"
    add_layer "v$number" "$WORK/v$number"
done
umoci rm --image "$LAYOUT:base"
