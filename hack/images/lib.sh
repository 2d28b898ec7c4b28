# shellcheck shell=bash
# What the recipes of image series share. They run as root in a mount namespace of their own, with WORK and LAYOUT set by hack/images.sh.

RELEASE=bookworm

# The Debian mirror that this machine's apt uses, if it is a Debian; D4C_DEBIAN_MIRROR names another.
debian_mirror() {
    local found=''
    if [ -z "${D4C_DEBIAN_MIRROR:-}" ]; then
        # shellcheck disable=SC2016
        found=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 -E '/debian/?$' || true)
    fi
    found=${D4C_DEBIAN_MIRROR:-${found:-http://deb.debian.org/debian}}
    printf '%s\n' "${found%/}"
}

# write_sources ROOTFS SUITE…: the apt sources of an image; SUITE is release, security or updates.
write_sources() {
    local root=$1 mirror suite
    mirror=$(debian_mirror)
    shift
    for suite in "$@"; do
        case $suite in
            release) echo "deb $mirror $RELEASE main" ;;
            security) echo "deb ${mirror%/debian}/debian-security $RELEASE-security main" ;;
            updates) echo "deb $mirror $RELEASE-updates main" ;;
        esac
    done >"$root/etc/apt/sources.list"
}

# in_chroot ROOTFS COMMAND…: with the host's name resolution, which the image does not keep, and no service started.
in_chroot() {
    local root=$1 status=0
    shift
    cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
    mount -t proc proc "$root/proc"
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive chroot "$root" "$@" || status=$?
    umount "$root/proc"
    rm "$root/etc/resolv.conf"
    return $status
}

# apt_install ROOTFS PACKAGE…: as a Dockerfile's RUN line does it: update, upgrade to what the sources have, install, clean.
apt_install() {
    local root=$1 options='-qq -y --no-install-recommends -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false -o Dpkg::Use-Pty=0'
    shift
    in_chroot "$root" sh -ec "apt-get $options update; apt-get $options dist-upgrade; ${*:+apt-get $options install $*;} apt-get clean" \
        >"$WORK/apt.log" 2>&1 </dev/null || { tail -n 5 "$WORK/apt.log" >&2; exit 1; }
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old \
        "$root"/var/log/apt "$root"/var/log/{bootstrap,dpkg,alternatives}.log "$root"/var/cache/ldconfig/aux-cache
}

# bootstrap ROOTFS SUITE…: a minimal Debian of these suites, as the base image of today has it.
bootstrap() {
    local root=$1
    shift
    mkdir -p "$CACHE/debs"
    debootstrap --variant=minbase --cache-dir="$CACHE/debs" --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        $RELEASE "$root" "$(debian_mirror)" >"$WORK/debootstrap.log" 2>&1 || { tail -n 5 "$WORK/debootstrap.log" >&2; exit 1; }
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 0755 "$root/usr/sbin/policy-rc.d"
    rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
    write_sources "$root" "$@"
    apt_install "$root"
}

# begin_image TAG BUNDLE: an empty image, unpacked.
begin_image() {
    umoci new --image "$LAYOUT:$1"
    umoci unpack --image "$LAYOUT:$1" "$2" 2>>"$WORK/umoci.log"
}

# end_layer TAG BUNDLE: what changed in the bundle since its last layer becomes a layer of TAG, written by Go's archive/tar and gzip.
end_layer() {
    umoci repack --refresh-bundle --image "$LAYOUT:$1" "$2" 2>>"$WORK/umoci.log"
}

# open_image FROM TAG BUNDLE: image TAG starts as FROM is, unpacked.
open_image() {
    umoci tag --image "$LAYOUT:$1" "$2"
    umoci unpack --image "$LAYOUT:$2" "$3" 2>>"$WORK/umoci.log"
}

# import_base TAG: that image of the series debian, as tag `base`.
import_base() {
    "$REPO/hack/images.sh" debian >/dev/null
    skopeo copy --quiet "oci:$CACHE/images/debian:$1" "oci:$LAYOUT:base"
}

# npm_package NAME@VERSION FOLDER: that package of npm, unpacked.
npm_package() {
    local archive
    archive=$(cd "$WORK" && npm pack --silent --cache "$CACHE/npm" "$1")
    mkdir -p "$2"
    tar -C "$2" --strip-components=1 --no-same-owner -xzf "$WORK/$archive"
    rm "$WORK/$archive"
}

# pip_install FOLDER REQUIREMENT…: those wheels of PyPI for Debian's Python, without what they depend on.
pip_install() {
    python3 -m pip install --quiet --no-deps --no-compile --cache-dir "$CACHE/pip" --root-user-action ignore --only-binary :all: \
        --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --implementation cp --python-version 3.11 --target "$1" "${@:2}"
}

# add_layer TAG ROOT: TAG is the image `base` with a layer of the tree ROOT, by GNU tar as a Dockerfile's ADD of a release archive would leave
# it; ROOT goes.
add_layer() {
    chmod -R go+rX,go-w "$2"
    tar -C "$2" --format=gnu --numeric-owner --owner=0 --group=0 --sort=name -cf "$WORK/layer.tar" usr
    umoci tag --image "$LAYOUT:base" "$1"
    umoci raw add-layer --image "$LAYOUT:$1" "$WORK/layer.tar"
    rm -rf "$2" "$WORK/layer.tar"
}
