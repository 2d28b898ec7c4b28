# shellcheck shell=bash
# The base of the other series, one layer: Debian as released, and with its security updates. Each is bootstrapped anew, as the publisher of
# a base image does.
# shellcheck disable=SC2034
recipe=2

make_base() {
    begin_image "$1" "$WORK/$1"
    bootstrap "$WORK/$1/rootfs" "${@:2}"
    end_layer "$1" "$WORK/$1"
    umoci config --image "$LAYOUT:$1" --config.cmd bash
    rm -rf "${WORK:?}/$1"
}

make_base release release
make_base security release security
