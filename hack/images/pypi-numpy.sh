# shellcheck shell=bash
# Debian's Python with numpy and its like from PyPI in the uppermost of three layers: three consecutive releases, each unpacked by pip.
# shellcheck disable=SC2034
recipe=1

need python3
import_base security
umoci tag --image "$LAYOUT:base" python
umoci rm --image "$LAYOUT:base"
umoci unpack --image "$LAYOUT:python" "$WORK/python" 2>>"$WORK/umoci.log"
apt_install "$WORK/python/rootfs" python3
end_layer python "$WORK/python"
rm -rf "$WORK/python"

# make_numpy TAG REQUIREMENT…
make_numpy() {
    local tag=$1
    open_image python "$tag" "$WORK/$tag"
    pip_install "$WORK/$tag/rootfs/usr/local/lib/python3.11/dist-packages" "${@:2}"
    end_layer "$tag" "$WORK/$tag"
    umoci config --image "$LAYOUT:$tag" --config.cmd python3
    rm -rf "${WORK:?}/$tag"
}

make_numpy v1 numpy==2.2.4 requests==2.32.3
make_numpy v2 numpy==2.2.5 requests==2.32.3
make_numpy v3 numpy==2.2.6 requests==2.32.4
umoci rm --image "$LAYOUT:python"
