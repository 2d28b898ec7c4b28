#!/usr/bin/env python3
"""A container on di3fs beside one on overlayfs in one containerd, as root: container-bench.py [SERIES] (pypi-uv)

The image is v2 of the series, on di3fs a base and a delta, everything made before. Looked at from outside, through each container's own root, by turns; minima,
ratios to overlayfs count. Prints a table in Markdown. Environment: D4C_BIN_DIR (target/release), D4C_CACHE (/var/cache/d4c), D4C_ROUTE (the
snapshotter's default), D4C_CONTAINERD (a folder of containerd's).
"""
import pathlib, shutil, sys, tempfile
from importlib.machinery import SourceFileLoader

from benchlib import IMAGE, REPO, Node, begin, deltas

quick = SourceFileLoader("mount_bench", str(REPO / "hack/mount-bench.py")).load_module().quick
TURNS = 7


def main():
    begin("containerd", "ctr", "runc", "skopeo")
    series = (sys.argv[1:] + ["pypi-uv"])[0]
    work, node = pathlib.Path(tempfile.mkdtemp(prefix="container-bench.", dir="/var/tmp")), None
    try:
        files = deltas(work, series)
        node = Node(work / "node")
        node.import_image(series)
        node.load_image(files)
        node.d4c("prefetch", f"{IMAGE}:di3fs")
        roots = {name: f"/proc/{node.container(name)}/root" for name in ("overlayfs", "di3fs")}
        found = {name: {} for name in roots}
        for _ in range(TURNS):
            for side, root in roots.items():
                for name, unit, value in quick(root):
                    found[side][name, unit] = min(value, found[side].get((name, unit), value))
        print("| | overlayfs | di3fs |\n|---|--:|--:|")
        for (name, unit), plain in found["overlayfs"].items():
            other = found["di3fs"][name, unit]
            print(f"| {name}, {unit} | {plain:.2f} | {other:.2f} ({other / plain:.2f}) |")
    finally:
        if node:
            node.forget()
            node.stop()
        shutil.rmtree(work, ignore_errors=True)


main()
