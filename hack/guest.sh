#!/usr/bin/env bash
# Makes what a test's virtual machine starts from in the cache and prints its folder: `vmlinuz`, Debian 12's kernel for clouds (6.1), and `initramfs`: busybox,
# the modules below, and an init that loads them and runs /run.sh, which the test adds (a second archive behind the first).
# Nothing to do when they are there already. The package comes from Debian's mirror on any distribution, verified by apt.
. "$(dirname "$0")/lib.sh"
. "$REPO/hack/images/lib.sh"

recipe=1
# In the order in which they can be loaded.
modules="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci fuse virtiofs overlay loop crc32c_generic libcrc32c lz4_decompress erofs"
out=$CACHE/guest-$recipe

# apt_get ARGUMENT…: apt of a machine of its own, which is below `work` and has the release's packages.
apt_get() {
    apt-get -qq -o Dir="$work/apt" -o Dir::State::status=/dev/null -o Dir::Etc::sourceparts=- \
        -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false "$@"
}

write_init() {
    cat <<'INIT'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in $(cat /modules/order); do insmod "/modules/$module.ko" || echo "no module $module"; done
sh /run.sh
echo "guest: run.sh ended with $?"
poweroff -f
INIT
}

build() {
    [ ! -e "$out/initramfs" ] || return 0
    need apt-get dpkg-deb busybox
    say "making the tests' guest"
    local work root kernel module
    work=$(mktemp -d "$out.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    mkdir -p "$work"/apt/etc/apt/{apt.conf.d,preferences.d,trusted.gpg.d} "$work"/apt/var/{lib/apt/lists,cache/apt/archives}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $RELEASE main" >"$work/apt/etc/apt/sources.list"
    apt_get update
    kernel=$(apt-cache -o Dir="$work/apt" -o Dir::State::status=/dev/null -o Dir::Etc::sourceparts=- -o APT::Architecture=amd64 \
        depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$kernel" ] || die "no linux-image-cloud-amd64 at $(debian_mirror)"
    (cd "$work" && apt_get download "$kernel")
    dpkg-deb --fsys-tarfile "$work/$kernel"_*.deb | tar -C "$work" -x

    root=$work/root
    mkdir -p "$root"/{bin,dev,mnt,modules,proc,sys,tmp} "$work/done"
    cp "$(command -v busybox)" "$root/bin/busybox"
    # Of the archive's paths, not of this machine's.
    busybox --list | sed "s|^|$root/bin/|" | grep -v '/busybox$' | xargs -n 1 ln -s busybox
    for module in $modules; do
        module=$(find "$work/lib/modules" -name "$module.ko" -print -quit)
        [ -z "$module" ] || { cp "$module" "$root/modules/" && basename "$module" .ko >>"$root/modules/order"; }
    done
    write_init >"$root/init"
    chmod 0755 "$root/init"
    (cd "$root" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) >"$work/done/initramfs"
    mv "$work"/boot/vmlinuz-* "$work/done/vmlinuz"
    chmod 0755 "$work/done"
    rm -rf "$out"
    mv -T "$work/done" "$out"
    rm -rf "$work"
    trap - EXIT
}

with_lock guest build
printf '%s\n' "$out"
