# shellcheck shell=bash
# A few MB for fast tests, with every kind of entry and attribute that a layer can have, each layer by another writer:
#   v1  busybox (Go, by umoci) + odd-1 (Python)
#   v2  busybox + odd-2 + whiteouts (GNU tar)
#   v3  busybox rebuilt + odd-2 + whiteouts + repeated members (Python, GNU format) + more (bsdtar) + an empty layer
#   links  v3 + hard links to files of lower layers (Python, ustar): containerd cannot unpack this one
# shellcheck disable=SC2034
recipe=2

need bsdtar setfattr setfacl
layers=$REPO/hack/images

# busybox_base TAG: busybox with a name for some of its applets, hard links as in the well-known image.
busybox_base() {
    local root=$WORK/$1/rootfs applet
    begin_image "$1" "$WORK/$1"
    mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp,run,usr/bin,var/log}
    chmod 1777 "$root/tmp"
    chmod 0700 "$root/root"
    install -m 0755 /bin/busybox "$root/bin/busybox"
    for applet in cat chmod cp date df dd echo env false head hostname id kill ln ls md5sum mkdir mount mv ps readlink rm sh sha256sum \
        sleep stat sync tail test touch true umount uname wc; do
        ln "$root/bin/busybox" "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    printf '%s\n' "$1" >"$root/etc/release"
    find "$root" -exec touch -h -d @1700000000 {} +
    end_layer "$1" "$WORK/$1"
    umoci config --image "$LAYOUT:$1" --config.cmd sh --config.env PATH=/bin:/usr/bin
}

# add_layer TAG TAR
add_layer() {
    umoci raw add-layer --image "$LAYOUT:$1" "$2"
}

# whiteouts by GNU tar, in its own format: long names as L members, a large uid in base 256.
gnu_layer() {
    local root=$WORK/gnu
    mkdir -p "$root/odd/opaque-later" "$root/app" "$root/gnu"
    touch "$root/odd/opaque-later/.wh..wh..opq" "$root/app/.wh.renamed-2.bin" "$root/app/.wh.many-007.txt"
    printf 'on top\n' >"$root/odd/opaque-later/on-top"
    printf '%0130d\n' 1 >"$root/gnu/$(printf '%0130d' 1)"
    printf 'big\n' >"$root/gnu/owner"
    chown 3000000:3000001 "$root/gnu/owner"
    mkfifo "$root/gnu/fifo"
    mknod "$root/gnu/zero" c 1 5
    find "$root" -exec touch -h -d '@1700000100.25' {} +
    tar -C "$root" --format=gnu --numeric-owner --sort=name -cf "$1" app gnu odd
}

# By bsdtar in pax format: its own spelling of xattrs beside SCHILY's, ACLs as text, nanoseconds.
bsd_layer() {
    local root=$WORK/bsd
    mkdir -p "$root/bsd" "$root/app"
    printf 'bsd\n' >"$root/bsd/xattr"
    setfattr -n user.comment -v 'by bsdtar' "$root/bsd/xattr"
    printf 'bsd\n' >"$root/bsd/acl"
    setfacl -m u:1234:rw "$root/bsd/acl"
    ln "$root/bsd/xattr" "$root/bsd/xattr-link"
    ln -s ../app "$root/bsd/symlink"
    touch "$root/app/.wh.new-in-2"
    find "$root" -exec touch -h -d '@1700000200.123456789' {} +
    bsdtar -C "$root" --format pax --numeric-owner -cf "$1" app bsd
}

python3 "$layers/tiny.py" "$WORK"
gnu_layer "$WORK/gnu.tar"
bsd_layer "$WORK/bsd.tar"
head -c 10240 /dev/zero >"$WORK/empty.tar"

busybox_base v1
umoci tag --image "$LAYOUT:v1" v2
add_layer v1 "$WORK/odd-1.tar"
add_layer v2 "$WORK/odd-2.tar"
add_layer v2 "$WORK/gnu.tar"
busybox_base v3
for layer in odd-2 gnu repeated bsd empty; do add_layer v3 "$WORK/$layer.tar"; done
umoci tag --image "$LAYOUT:v3" links
add_layer links "$WORK/links.tar"
