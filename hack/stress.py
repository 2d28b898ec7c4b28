#!/usr/bin/env python3
"""stress-ng's file system stressors in a container on each route beside one on overlayfs, as root: stress.py [OPERATIONS] (20)

The image is v2 of the series debian-programs, which has stress-ng: on overlayfs unpacked by containerd, else a base and a delta, applied
lazily. Each stressor runs alone, so many operations or 3 seconds, checks what it wrote, and tells how it ended; in the container's root, not in a
tmpfs. What ended otherwise than on overlayfs is printed, and makes the status 1. Environment: D4C_BIN_DIR (target/release), D4C_CACHE
(/var/cache/d4c), D4C_CONTAINERD (a folder of containerd's).
"""
import os, pathlib, shutil, sys, tempfile

from benchlib import Node, begin, deltas, give_up

SERIES, ROUTES = "debian-programs", ["erofs", "fuse", "overlay"]
# bind-mount and binderfs need more capabilities than containers have.
STRESSORS = """access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup eventfd fallocate fanotify fcntl fiemap file-ioctl
filename flock fpunch fsize fstat getdent handle hdd inode-flags inotify io iomix ioprio lease link locka lockf lockofd mknod open procfs rename symlink
sync-file touch utime verity xattr""".split()
# 0 is fine; 2 failed, 3 had no resources, 4 is not to be had here.
SCRIPT = """
mkdir /stress; cd /stress
for one in STRESSORS; do
    status=0
    stress-ng --verify --hdd-bytes 4m --iomix-bytes 8m --fallocate-bytes 8m --$one 1 --$one-ops OPERATIONS --timeout 3s >/stress.log 2>&1 || status=$?
    echo "$one $status"
done
cd /; rm -r /stress; find / -mindepth 1 -xdev -newer /stress.log ! -path '/proc*' ! -path '/sys*' | sort
"""


def ended(work, name, operations, files=None):
    """How each stressor ended, and what is newer in the container then: on overlayfs, or with files on the route of that name."""
    script = SCRIPT.replace("STRESSORS", " ".join(STRESSORS)).replace("OPERATIONS", operations)
    node = Node(work / name, options=["--route", name] if files else [])
    try:
        node.load_image(files) if files else node.import_image(SERIES)
        snapshotter = "di3fs" if files else "overlayfs"
        node.container(snapshotter)
        return node.exec(snapshotter, script).splitlines()
    finally:
        node.forget()
        node.stop()
        shutil.rmtree(work / name, ignore_errors=True)


def main():
    begin("containerd", "ctr", "runc", "skopeo")
    os.environ.pop("D4C_ROUTE", None)
    operations = sys.argv[1] if len(sys.argv) > 1 else "20"
    work, different = pathlib.Path(tempfile.mkdtemp(prefix="stress.", dir="/var/tmp")), 0
    try:
        files = deltas(work, SERIES)
        expected = ended(work, "overlayfs", operations)
        counts = {status: sum(line.endswith(f" {status}") for line in expected[: len(STRESSORS)]) for status in "0234"}
        if sum(counts.values()) != len(STRESSORS):
            give_up(f"on overlayfs: {expected}")
        print(f"overlayfs: {len(STRESSORS)} stressors, {counts['0']} fine, {counts['2']} failed, {counts['3'] + counts['4']} not to be had", flush=True)
        for route in ROUTES:
            seen = ended(work, route, operations, files)
            other = sorted(set(seen) ^ set(expected))
            different += len(other)
            print(f"{route}: {'as on overlayfs' if not other else ''}", flush=True)
            for line in other:
                print(f"  {line}: {'on ' + route if line in seen else 'on overlayfs'}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if different else 0)


main()
