#!/usr/bin/env python3
"""Writes the layers of the series `tiny` that Python's tarfile makes: tiny.py OUT-DIR.

Between them they hold every entry type and attribute that a layer can carry. All times, owners and contents are fixed, so the
layers are the same bytes wherever they are made with the same Python.
"""

import io
import random
import struct
import sys
import tarfile

T0 = 1_700_000_000


def blob(seed: int, size: int, edits: int = 0) -> bytes:
    """Half-compressible bytes; each edit changes, inserts or removes a few of them at a fixed place."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randint(3, 12)) for _ in range(200)]
    out = bytearray()
    while len(out) < size:
        out += rng.choice(words)
    del out[size:]
    for _ in range(edits):
        at = rng.randrange(len(out) - 64)
        match rng.randrange(3):
            case 0:
                out[at : at + 8] = rng.randbytes(8)
            case 1:
                out[at:at] = rng.randbytes(rng.randint(1, 40))
            case _:
                del out[at : at + rng.randint(1, 40)]
    return bytes(out)


def capability(bits: int) -> bytes:
    """The xattr security.capability, version 2, effective: what setcap writes."""
    return struct.pack("<IIIII", 0x02000001, bits & 0xFFFFFFFF, 0, bits >> 32, 0)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The xattr system.posix_acl_access of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACL = acl((1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF))


class Layer:
    """One tar, member by member, in the order of the calls."""

    def __init__(self, path: str, form: int):
        self.tar = tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape")

    def add(self, name: str, kind=tarfile.REGTYPE, data=b"", mode=0o644, uid=0, gid=0, mtime=T0, link="", device=(0, 0), xattrs=None):
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.uid, member.gid = kind, mode, uid, gid
        member.mtime, member.linkname, member.size = mtime, link, len(data)
        member.devmajor, member.devminor = device
        member.uname, member.gname = ("root", "root") if uid == 0 else ("", "")
        for key, value in (xattrs or {}).items():
            member.pax_headers[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
        self.tar.addfile(member, io.BytesIO(data))

    def dir(self, name: str, mode=0o755, **rest):
        self.add(name, kind=tarfile.DIRTYPE, mode=mode, **rest)


def odd(path: str, version: int):
    """Everything out of the ordinary, in pax format; version 2 is the next release of it."""
    edits = 0 if version == 1 else 9
    layer = Layer(path, tarfile.PAX_FORMAT)
    layer.dir("app", mtime=T0 + version)
    layer.add("app/data.bin", data=blob(1, 600_000, edits), mtime=T0 + 0.123456789 + version)
    layer.add("app/kept.bin", data=blob(2, 50_000), mtime=T0 + version)
    layer.add("app/renamed-%d.bin" % version, data=blob(3, 80_000), mtime=T0)
    layer.add("app/release", data=b"version %d\n" % version, mode=0o640, uid=10, gid=20)
    layer.add("app/gone-in-2" if version == 1 else "app/new-in-2", data=blob(3 + version, 7_000))
    for number in range(300):
        changed = edits if number % 10 == 0 else 0
        layer.add(f"app/many-{number:03}.txt", data=blob(100 + number, 400 + 7 * number, min(changed, 2)), mtime=T0 + number / 8)
    layer.dir("odd", mode=0o1777)
    layer.add("odd/empty")
    layer.add("odd/setuid", data=b"#!/bin/sh\n", mode=0o6755, uid=65534, gid=65534)
    layer.add("odd/mode-0", data=b"0", mode=0)
    layer.add("odd/capability", data=blob(7, 2_000, edits), mode=0o755, xattrs={"security.capability": capability(1 << 10)})
    layer.add("odd/acl", data=b"acl\n", xattrs={"system.posix_acl_access": ACL})
    layer.add("odd/xattr", data=b"x", xattrs={"user.long": b"v" * 300, "user.empty-not": b"1", "user.bytes": b"a=b\nc\x00\xff\xfe"})
    layer.dir("odd/default-acl", xattrs={"user.on-directory": b"yes"})
    layer.add("odd/owner", data=b"big\n", uid=3_000_000, gid=4_000_000_000)
    layer.add("odd/before-1970", data=b"old\n", mtime=-86_400.5)
    layer.add("odd/nanoseconds", data=b"ns\n", mtime=T0 + 0.987654321)
    layer.add("odd/char", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3))
    layer.add("odd/block", kind=tarfile.BLKTYPE, mode=0o660, device=(7, 300))
    layer.add("odd/fifo", kind=tarfile.FIFOTYPE, mode=0o600, uid=5)
    layer.add("odd/not-utf8-\udcff\udcfe", data=b"name\n")
    layer.add("odd/\u00fcml\u00e4ut", data=b"umlaut\n")
    deep = "odd/" + "d" * 150
    layer.dir(deep)
    layer.add(deep + "/" + "n" * 150, data=b"a name of more than 300 bytes\n")
    layer.add("odd/symlink", kind=tarfile.SYMTYPE, mode=0o777, link="../app/data.bin", uid=7, mtime=T0 + 0.5)
    layer.add("odd/symlink-long", kind=tarfile.SYMTYPE, mode=0o777, link="t" * 250)
    layer.add("odd/linked", data=b"linked\n", mode=0o755, xattrs={"user.linked": b"1"})
    layer.add("odd/linked-too", kind=tarfile.LNKTYPE, mode=0o755, link="odd/linked")
    layer.add("odd/linked-three", kind=tarfile.LNKTYPE, mode=0o755, link="odd/linked")
    layer.dir("odd/opaque-later")
    layer.add("odd/opaque-later/below", data=b"hidden by an opaque directory\n")
    layer.tar.close()


def repeated(path: str):
    """A layer of repeated members and of one without a parent, in GNU format."""
    layer = Layer(path, tarfile.GNU_FORMAT)
    layer.add("app/twice", data=b"first\n", mode=0o600)
    layer.add("app/twice", data=b"second\n", mode=0o644, mtime=T0 + 5)
    layer.dir("app", mtime=T0 + 9)
    layer.add("app/no-entry-for-this/below", data=b"a parent without an entry of its own\n")
    layer.tar.close()


def links(path: str):
    """Hard links to files of lower layers, in the old ustar format. containerd cannot unpack it over overlayfs."""
    layer = Layer(path, tarfile.USTAR_FORMAT)
    layer.add("app/kept-link.bin", kind=tarfile.LNKTYPE, link="app/kept.bin")
    layer.add("odd/linked-four", kind=tarfile.LNKTYPE, mode=0o755, link="odd/linked")
    layer.tar.close()


if __name__ == "__main__":
    out = sys.argv[1]
    odd(f"{out}/odd-1.tar", 1)
    odd(f"{out}/odd-2.tar", 2)
    repeated(f"{out}/repeated.tar")
    links(f"{out}/links.tar")
