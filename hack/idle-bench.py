#!/usr/bin/env python3
"""What the plugin and its holder use when nothing happens, as root: idle-bench.py [IMAGES [CONTAINERS [FILES]]] (20, 5, 3000)

Images of FILES small files are loaded by base files, on the first CONTAINERS of them a snapshot is prepared and mounted and a tenth of its
files is read. Then, for 20 seconds, resident memory and how often threads got a processor: before the rest was made, and after.
Environment: D4C_BIN_DIR (target/release), D4C_ROUTE (the snapshotter's default).
"""
import glob, os, pathlib, shutil, signal, subprocess, sys, tempfile, time

REPO = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("D4C_BIN_DIR", REPO / "target/release"))
SECONDS = 20


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"idle-bench: {' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def start(name, work, command, ready):
    log = open(work / f"{name}.log", "w")
    process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    for _ in range(600):
        if ready():
            return process
        time.sleep(0.05)
    sys.exit(f"idle-bench: {name} does not answer: {(work / f'{name}.log').read_text()[-2000:]}")


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("idle-bench: stopped"))
    images, containers, files = (list(map(int, sys.argv[1:])) + [20, 5, 3000][len(sys.argv) - 1:])
    work = pathlib.Path(tempfile.mkdtemp(prefix="idle-bench.", dir="/var/tmp"))
    running, mounts, opened = [], [], []
    snapshotter = [BIN / "di3fs-snapshotter", "--root", work / "di3fs", "--address", work / "s.sock", "--control", work / "c.sock"]
    snapshotter += ["--containerd", work / "containerd.sock", "--prefetch", "false"]
    snapshotter += ["--route", os.environ["D4C_ROUTE"]] if "D4C_ROUTE" in os.environ else []
    try:
        plugin = start("snapshotter", work, snapshotter, (work / "c.sock").exists)
        running.append(plugin)
        config = work / "containerd.toml"
        config.write_text(f"""version = 2
root = "{work}/containerd"
state = "{work}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{work}/containerd.sock"
[proxy_plugins.di3fs]
type = "snapshot"
address = "{work}/s.sock"
""")
        ctr = ["ctr", "--address", work / "containerd.sock"]
        answers = lambda: subprocess.run([*map(str, ctr), "version"], capture_output=True).returncode == 0
        running.append(start("containerd", work, ["containerd", "--config", config], answers))
        d4c = [BIN / "d4c", "--address", work / "containerd.sock", "--control", work / "c.sock"]
        for number in range(images):
            root, file, name = work / "root", work / "image.cdimg", f"example.com/many:{number}"
            for at in range(files):
                directory = root / f"{at // 100:03}"
                directory.mkdir(parents=True, exist_ok=True)
                (directory / str(at)).write_text(f"{number} {at}\n" * 20)
            run(BIN / "d4c", "-q", "convert", f"dir:{root}", file)
            run(*d4c, "load", file, "--name", name)
            shutil.rmtree(root)
            file.unlink()
            if number < containers:
                found = [line.split()[0] for line in run(*ctr, "snapshots", "--snapshotter", "di3fs", "ls").splitlines()[1:]]
                chain = next(key for key in found if key.startswith("sha256:") and key not in mounts)
                target = work / f"at{number}"
                target.mkdir()
                told = run(*ctr, "snapshots", "--snapshotter", "di3fs", "prepare", "--target", target, f"c{number}", chain)
                subprocess.run(["sh", "-c", told], check=True)
                mounts.append(chain)
                began = time.perf_counter()
                for at in range(0, files, 10):
                    (target / f"{at // 100:03}" / str(at)).read_text()
                opened.append((time.perf_counter() - began) / len(range(0, files, 10)) * 1e6)
        pids = [plugin.pid] + [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and holds(pid, work)]
        print(f"first open of a small file: {min(opened):.0f} µs (the least of {containers} containers)\n")
        print("| | | MiB | of it own | threads | wake-ups a second | by thread\n|---|---|--:|--:|--:|--:|---", flush=True)
        time.sleep(15)
        report("not all made", pids)
        names = [f"example.com/many:{number}" for number in range(images)]
        for name in names:
            run(*d4c, "prefetch", name)
        time.sleep(15)
        report("all made", pids)
    finally:
        for number in range(len(mounts)):
            subprocess.run(["umount", work / f"at{number}"])
        for number in range(len(mounts)):
            subprocess.run([*map(str, ctr), "snapshots", "--snapshotter", "di3fs", "rm", f"c{number}"])
        for process in reversed(running):
            process.terminate()
            process.wait(20)
        time.sleep(1)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if holds(pid, work):
                os.kill(int(pid), signal.SIGKILL)
        for line in open("/proc/self/mountinfo").read().splitlines()[::-1]:
            if str(work) in line:
                subprocess.run(["umount", "-l", line.split()[4]])
        shutil.rmtree(work, ignore_errors=True)


def holds(pid, work):
    try:
        text = open(f"/proc/{pid}/cmdline").read()
    except OSError:
        return False
    return "--hold" in text and str(work) in text


main()
