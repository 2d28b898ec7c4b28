#!/usr/bin/env python3
"""What the plugin and its holder use when nothing happens, as root: idle-bench.py [IMAGES [CONTAINERS [FILES]]] (20, 5, 3000)

Images of FILES small files are loaded by base files, on the first CONTAINERS of them a snapshot is prepared and mounted and a tenth of its
files is read. Then, for 20 seconds, resident memory and how often threads got a processor: before the rest was made, and after.
Environment: D4C_BIN_DIR (target/release), D4C_ROUTE (the snapshotter's default).
"""
import glob, pathlib, shutil, subprocess, sys, tempfile, time

from benchlib import BIN, Node, begin, run

SECONDS = 20


def field(pid, name):
    return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith(name))


def switches(pid):
    total = {}
    for task in glob.glob(f"/proc/{pid}/task/*"):
        try:
            name = open(f"{task}/comm").read().strip()
            total[task] = name, int(open(f"{task}/schedstat").read().split()[2])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total


def report(when, pids):
    before = {pid: switches(pid) for pid in pids}
    time.sleep(SECONDS)
    for pid, then in before.items():
        now, by_name = switches(pid), {}
        for task, (name, count) in now.items():
            more = count - then.get(task, (name, 0))[1]
            if more:
                by_name[name] = by_name.get(name, 0) + more
        woken, names = sum(by_name.values()), ", ".join(f"{name} {count}" for name, count in by_name.items())
        name = open(f"/proc/{pid}/cmdline").read().replace("\0", " ")
        kind = "holder" if "--hold" in name else "plugin"
        kib = {row: field(pid, row) for row in ["VmRSS", "RssAnon", "RssFile", "Threads"]}
        print(f"| {when} | {kind} | {kib['VmRSS'] / 1024:.1f} | {kib['RssAnon'] / 1024:.1f} | {kib['Threads']} | {woken / SECONDS:.2f} | {names}", flush=True)


def main():
    begin("containerd", "ctr")
    images, containers, files = (list(map(int, sys.argv[1:])) + [20, 5, 3000][len(sys.argv) - 1:])
    work = pathlib.Path(tempfile.mkdtemp(prefix="idle-bench.", dir="/var/tmp"))
    node, mounts, opened = None, [], []
    try:
        node = Node(work / "node", options=["--prefetch", "false"])
        for number in range(images):
            root, file, name = work / "root", work / "image.cdimg", f"example.com/many:{number}"
            for at in range(files):
                directory = root / f"{at // 100:03}"
                directory.mkdir(parents=True, exist_ok=True)
                (directory / str(at)).write_text(f"{number} {at}\n" * 20)
            run(BIN / "d4c", "-q", "convert", f"dir:{root}", file)
            node.d4c("load", file, "--name", name)
            shutil.rmtree(root)
            file.unlink()
            if number < containers:
                found = [line.split()[0] for line in node.ctr("snapshots", "--snapshotter", "di3fs", "ls").splitlines()[1:]]
                chain = next(key for key in found if key.startswith("sha256:") and key not in mounts)
                target = work / f"at{number}"
                target.mkdir()
                told = node.ctr("snapshots", "--snapshotter", "di3fs", "prepare", "--target", target, f"c{number}", chain)
                subprocess.run(["sh", "-c", told], check=True)
                mounts.append(chain)
                began = time.perf_counter()
                for at in range(0, files, 10):
                    (target / f"{at // 100:03}" / str(at)).read_text()
                opened.append((time.perf_counter() - began) / len(range(0, files, 10)) * 1e6)
        pids = [node.plugin.pid, *node.holders()]
        print(f"first open of a small file: {min(opened):.0f} µs (the least of {containers} containers)\n")
        print("| | | MiB | of it own | threads | wake-ups a second | by thread\n|---|---|--:|--:|--:|--:|---", flush=True)
        time.sleep(15)
        report("not all made", pids)
        for number in range(images):
            node.d4c("prefetch", f"example.com/many:{number}")
        time.sleep(15)
        report("all made", pids)
    finally:
        for number in range(len(mounts)):
            subprocess.run(["umount", work / f"at{number}"])
            subprocess.run([*node.client, "snapshots", "--snapshotter", "di3fs", "rm", f"c{number}"])
        if node:
            node.stop()
        shutil.rmtree(work, ignore_errors=True)


main()
