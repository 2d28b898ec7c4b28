#!/usr/bin/env python3
"""How soon the plugin has an image ready, and what it holds of it, as root: ready-bench.py [ENTRIES…] (10000 100000)

An image of so many entries (files of some bytes and directories) and deltas of ten files are loaded. "ready" is what the plugin takes to
serve a snapshot, as its log says: the first one of an image, with nothing made, the least of three images; and, when all was made, the first
one of a new plugin, the least of three plugins. Memory and descriptors are those of plugin and holder together beyond what they had with no
image: with a container's snapshot of the first delta's image mounted, then with every file of it read.
Environment: D4C_BIN_DIR (target/release), D4C_ROUTE (the snapshotter's default).
"""
import json, os, pathlib, re, shutil, subprocess, sys, tempfile, time

from benchlib import BIN, Node, begin, run

RUNS = 3


def files(work, entries):
    """A base file of a tree of `entries` entries, and deltas on it."""
    root, other, made = work / "root", work / "other", [work / f"{number}.cdimg" for number in range(RUNS + 1)]
    for number in range(entries):
        directory = root / f"{number // 100:04}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        else:
            (directory / str(number)).write_text(f"{number}\n")
    run(BIN / "d4c", "-q", "convert", "--level", "fast", f"dir:{root}", made[0])
    subprocess.run(["cp", "-al", root, other], check=True)
    for path in made[1:]:
        for number in range(10):
            changed = other / f"{number * 7:04}" / str(number * 700 + 1)
            changed.unlink()
            changed.write_text(f"another for {path.name}")
        run(BIN / "d4c", "-q", "diff", f"dir:{root}", f"dir:{other}", path)
    shutil.rmtree(root)
    shutil.rmtree(other)
    return made


def chains(node):
    """The layers of all images."""
    lines = node.ctr("snapshots", "--snapshotter", "di3fs", "ls").splitlines()[1:]
    return {line.split()[0] for line in lines if line.startswith("sha256:")}


def load(node, path, name):
    """Loads an image of one layer; the layer."""
    before = chains(node)
    node.d4c("load", path, "--name", name)
    (chain,) = chains(node) - before
    return chain


def held(node):
    """MiB resident of their own, and open descriptors, of plugin and holder."""
    kib, descriptors = 0, 0
    for pid in [node.plugin.pid, *node.holders()]:
        kib += next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("RssAnon"))
        descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    return kib / 1024, descriptors


def served(node):
    """Milliseconds of what was served last, by the log."""
    log = (node.work / "snapshotter.log").read_text()
    found = re.findall(r"serving\b.*?\bms=(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", log))
    if not found:
        sys.exit(log[-3000:])
    return int(found[-1])


class Snapshot:
    """A container's snapshot of a layer, mounted."""

    def __init__(self, node, key, chain):
        self.node, self.key, self.at = node, key, node.work / "at"
        self.at.mkdir(exist_ok=True)
        told = node.ctr("snapshots", "--snapshotter", "di3fs", "prepare", "--target", self.at, key, chain)
        subprocess.run(["sh", "-c", told], check=True)

    def __enter__(self):
        return self.at

    def __exit__(self, *_):
        subprocess.run(["umount", self.at], check=True)
        self.node.ctr("snapshots", "--snapshotter", "di3fs", "rm", self.key)


def read_all(at):
    for directory, _, names in os.walk(at):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                file.read()


def restart(node):
    node.plugin.terminate()
    node.plugin.wait()
    ready = lambda: (node.work / "c.sock").exists() and subprocess.run(
        [BIN / "d4c", "--control", node.work / "c.sock", "images"], capture_output=True).returncode == 0
    node.daemons.running.remove(node.plugin)
    node.plugin = node.daemons.start("snapshotter", node.plugin.args, ready)


def measure(work, entries):
    base, *deltas = files(work, entries)
    first, complete = [], []
    node = Node(work / "node", options=["--prefetch", "false"])
    try:
        nothing = held(node)
        node.d4c("load", base, "--name", "example.com/base:1")
        for number, delta in enumerate(deltas):
            chain = load(node, delta, f"example.com/many:{number}")
            with Snapshot(node, f"one{number}", chain) as at:
                first.append(served(node))
                if number == 0:
                    mounted = held(node)
                    read_all(at)
                    read = held(node)
        node.d4c("prefetch", f"example.com/many:{number}")
        # containerd removes snapshots when it collects.
        time.sleep(3)
        for number in range(RUNS):
            restart(node)
            with Snapshot(node, f"two{number}", chain):
                complete.append(served(node))
    finally:
        subprocess.run(["umount", "-q", node.work / "at"])
        node.stop()
        shutil.rmtree(node.work, ignore_errors=True)
    beyond = lambda now: f"{now[0] - nothing[0]:.1f} | {now[1] - nothing[1]}"
    print(f"| {entries} | {min(first)} | {min(complete)} | {beyond(mounted)} | {beyond(read)} |", flush=True)


def main():
    begin("containerd", "ctr")
    work = pathlib.Path(tempfile.mkdtemp(prefix="ready-bench.", dir="/var/tmp"))
    try:
        print("| entries | ready, ms | all made, by a new plugin | mounted, MiB | descriptors | all read, MiB | descriptors |")
        print("|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        for entries in [int(word) for word in sys.argv[1:]] or [10_000, 100_000]:
            measure(work, entries)
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
