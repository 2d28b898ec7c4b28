# shellcheck shell=bash
# uv, a Rust program, on Debian's base: three consecutive releases.
# shellcheck disable=SC2034
recipe=1

need python3 tar
import_base security
for number in 1 2 3; do
    pip_install "$WORK/v$number/usr/local/lib/python3.11/dist-packages" "uv==0.4.$((number + 9))"
    add_layer "v$number" "$WORK/v$number"
done
umoci rm --image "$LAYOUT:base"
