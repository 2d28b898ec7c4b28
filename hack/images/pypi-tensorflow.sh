# shellcheck shell=bash
# TensorFlow, whose largest library has over 500 MB, on Debian's base: a patch release.
# shellcheck disable=SC2034
recipe=1

need python3 tar
import_base security
for number in 1 2; do
    pip_install "$WORK/v$number/usr/local/lib/python3.11/dist-packages" "tensorflow==2.16.$number"
    add_layer "v$number" "$WORK/v$number"
done
umoci rm --image "$LAYOUT:base"
