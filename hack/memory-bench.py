#!/usr/bin/env python3
"""The most own memory of every command that takes --memory, on a library of 600 MB, as root: memory-bench.py [SIZE] (256M)

The pair is pypi-tensorflow v1 and v2; merge has the base file of v1 and the delta to v2 as well, whose program of 600 MB is run. The node is a containerd
with the snapshotter, the registry a docker-registry on loopback. Own memory is RssAnon of the command's process, looked at every 3 ms: pages of files, which
inputs and what is made are mapped from, are not in it. Ends with status 1 if a command took more than it was told. Environment: D4C_BIN_DIR (target/release), D4C_CACHE
(/var/cache/d4c), D4C_ONLY (a word that the names of commands to run begin with).
"""
import os, pathlib, shutil, signal, subprocess, sys, tempfile, time, urllib.request

from benchlib import BIN, CACHE, REPO, Node, Registry, begin, free_port, give_up, run

SERIES = "pypi-tensorflow"
PERIOD = 0.003


def own_kib(pid):
    """The process's anonymous pages; 0 when it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon:")), 0)


class Watched:
    """A command, and the most memory that it had."""

    def __init__(self, command, log):
        self.command, self.most, self.log = [str(part) for part in command], 0, log
        self.process = subprocess.Popen(self.command, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def until(self, over):
        while not over() and self.process.poll() is None:
            self.most = max(self.most, own_kib(self.process.pid))
            time.sleep(PERIOD)

    def end(self, stop=None):
        """Waits for it, ended by a signal if one is named; MiB."""
        if stop is not None and self.process.poll() is None:
            self.process.send_signal(stop)
        self.until(lambda: False)
        if self.process.wait() != 0:
            give_up(f"{' '.join(self.command)}: {self.log.read_text()[-2000:]}")
        return self.most / 1024


class Bench:
    def __init__(self, work, node, registry):
        self.work, self.node, self.registry = work, node, registry
        self.v1, self.v2 = (f"oci:{CACHE}/images/{SERIES}:{tag}" for tag in ("v1", "v2"))
        self.base, self.delta = work / "v1.cdimg", work / "v2.cdimg"
        self.on_node = ["--address", node.work / "containerd.sock", "--control", node.work / "c.sock"]

    def d4c(self, *arguments):
        return Watched([BIN / "d4c", "--quiet", "--tmpdir", self.work, *arguments], self.work / "log")

    def plain(self, *arguments):
        return self.d4c(*arguments).end()

    def to_out(self, *arguments, out="out"):
        """As [plain], and what is written to `out` is removed."""
        try:
            return self.plain(*arguments)
        finally:
            path = self.work / out
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def mount(self, size):
        """All files read; the objects go with the mount."""
        at = self.work / "at"
        at.mkdir(exist_ok=True)
        watched = self.d4c("mount", "--memory", size, self.base, self.delta, at)
        watched.until(lambda: os.path.ismount(at))
        reader = subprocess.Popen(["sh", "-c", f"find {at} -type f -print0 | xargs -0 -P 4 -n 64 cat >/dev/null"])
        watched.until(lambda: reader.poll() is not None)
        if reader.returncode != 0:
            give_up(f"mount: a file below {at} cannot be read")
        return watched.end(signal.SIGTERM)

    def serve(self, size):
        """One delta made on demand."""
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        kept = self.work / "served"
        kept.mkdir()
        watched = self.d4c("serve", "--listen", f"127.0.0.1:{port}", "--registry", f"127.0.0.1:{self.registry.port}", "--dir", kept, "--memory", size)
        watched.until(lambda: answers(f"{address}/healthz"))
        want, have = (run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{self.registry.name(SERIES)}:{tag}").strip() for tag in ("v2", "v1"))
        url = f"{address}/v1/delta?repository={self.registry.name(SERIES)}&want={want}&have={have}"
        client = subprocess.Popen(["curl", "--silent", "--show-error", "--fail", "--retry", "100", "--output", str(self.work / "out"), url])
        watched.until(lambda: client.poll() is not None)
        if client.returncode != 0:
            give_up(f"serve: {self.work.joinpath('log').read_text()[-2000:]}")
        watched.process.send_signal(signal.SIGTERM)
        watched.until(lambda: False)
        shutil.rmtree(kept)
        (self.work / "out").unlink()
        return watched.most / 1024

    def of_node(self, size):
        """What is loaded and exported; then, with none of that left, pulled by layers, and by a delta from that."""
        name, old, new = "example.com/memory:v2", *(f"{self.registry.name(SERIES)}:{tag}" for tag in ("v1", "v2"))
        yield "load of both (no --memory)", max(self.plain(*self.on_node, "load", file, "--name", name) for file in (self.base, self.delta))
        yield "export", self.to_out(*self.on_node, "export", "--memory", size, name, f"oci:{self.work}/out")
        self.node.ctr("images", "rm", "--sync", name)
        run(BIN / "d4c", "-q", "push", self.delta, new)
        yield "pull by layers", self.plain(*self.on_node, "pull", "--memory", size, old)
        yield "pull by a delta", self.plain(*self.on_node, "pull", "--memory", size, new)
        for image in (old, new):
            self.node.ctr("images", "rm", "--sync", image)

    def all(self, size):
        old, new, base, delta, out = self.v1, self.v2, self.base, self.delta, self.work / "out"
        commands = [
            ("diff", lambda: self.to_out("diff", "--memory", size, old, new, out)),
            ("diff --level fast", lambda: self.to_out("diff", "--level", "fast", "--memory", size, old, new, out)),
            ("diff --level best", lambda: self.to_out("diff", "--level", "best", "--memory", size, old, new, out)),
            ("convert", lambda: self.to_out("convert", "--memory", size, old, out)),
            ("convert --level fast", lambda: self.to_out("convert", "--level", "fast", "--memory", size, old, out)),
            ("verify of a base file", lambda: self.plain("verify", "--memory", size, base)),
            ("verify --base", lambda: self.plain("verify", "--memory", size, "--base", old, delta)),
            ("patch to oci:", lambda: self.to_out("patch", "--memory", size, old, delta, f"oci:{out}")),
            ("patch to dir:", lambda: self.to_out("patch", "--memory", size, base, delta, f"dir:{out}")),
            ("mount, all files read", lambda: self.mount(size)),
            ("merge of base and delta", lambda: self.to_out("merge", "--memory", size, base, delta, out)),
            ("serve, a delta made", lambda: self.serve(size)),
        ]
        only = os.environ.get("D4C_ONLY", "")
        for name, measure in commands:
            if name.startswith(only):
                yield name, measure()
        if any(name.startswith(only) for name in ("load", "export", "pull")):
            yield from self.of_node(size)


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def main():
    begin("containerd", "ctr", "docker-registry", "skopeo", "curl")
    size = sys.argv[1] if len(sys.argv) > 1 else "256M"
    run(REPO / "hack/images.sh", SERIES)
    work = pathlib.Path(tempfile.mkdtemp(prefix="memory-bench.", dir="/var/tmp"))
    node = registry = None
    above = False
    try:
        registry = Registry(work)
        node = Node(work / "node", options=["--prefetch", "false"])
        bench = Bench(work, node, registry)
        for tag in ("v1", "v2"):
            registry.push(SERIES, tag)
        run(BIN / "d4c", "-q", "convert", "--level", "fast", bench.v1, bench.base)
        run(BIN / "d4c", "-q", "diff", bench.v1, bench.v2, bench.delta)
        print("| command | --memory | MiB |\n|---|--:|--:|", flush=True)
        limit = int(size.rstrip("M"))
        for name, most in bench.all(size):
            above |= most > limit
            print(f"| {name} | {size} | {most:.0f} |{' above' if most > limit else ''}", flush=True)
    finally:
        for daemon in (node, registry):
            if daemon is not None:
                daemon.stop()
        subprocess.run(["umount", "-l", work / "at"], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if above else 0)


if __name__ == "__main__":
    main()
