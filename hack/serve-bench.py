#!/usr/bin/env python3
"""A hundred nodes ask one d4c serve for twenty pairs at once; merged beside made, as root: serve-bench.py

Nodes are processes in network namespaces of their own on one bridge. First there are images alone in the registry: each pair has to be
made, once for all who ask. Then the deltas between neighbours are there, too: v1 to v3 is asked of fresh servers, made by one and merged by
the other. Prints what was seen. Environment: D4C_BIN_DIR (target/release), D4C_CACHE (/var/cache/d4c).
"""
import json, os, pathlib, shutil, subprocess, tempfile, time, urllib.request

from benchlib import BIN, CACHE, REPO, Daemons, Registry, begin, free_port, run

SERIES = ["debian-nginx", "npm-node", "npm-esbuild", "npm-closure", "pypi-numpy", "pypi-uv"]
STEPS = [("v1", "v2"), ("v2", "v3"), ("v1", "v3")]
PAIRS = [(series, old, new) for series in SERIES for old, new in STEPS]
PAIRS += [("npm-postgres", "v1", "v2"), ("npm-postgres", "v2", "v1")]
NODES = 100
BRIDGE, HOST = f"d4s{os.getpid() % 100000}", "10.214.0.1"


class Serve:
    """One d4c serve that keeps what it makes in a folder of its own."""

    def __init__(self, registry, folder):
        folder.mkdir()
        self.port, self.daemons = free_port(HOST), Daemons(folder.parent)
        command = [BIN / "d4c", "--quiet", "serve", "--listen", f"{HOST}:{self.port}", "--registry", f"127.0.0.1:{registry.port}"]
        self.process = self.daemons.start(f"serve-{folder.name}", [*command, "--dir", folder, "--log-level", "error"], self.is_there)

    def is_there(self):
        try:
            return urllib.request.urlopen(f"http://{HOST}:{self.port}/healthz", timeout=5).status == 200
        except OSError:
            return False

    def url(self, registry, pair):
        series, old, new = pair
        return f"http://{HOST}:{self.port}/v1/delta?repository={registry.name(series)}&want={digest(series, new)}&have={digest(series, old)}"

    def ask(self, registry, pair):
        """Seconds, how, bytes."""
        began = time.monotonic()
        with urllib.request.urlopen(self.url(registry, pair)) as answer:
            size = len(answer.read())
            return time.monotonic() - began, answer.headers["D4C-How"], size

    def metrics(self):
        lines = urllib.request.urlopen(f"http://{HOST}:{self.port}/metrics").read().decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def peak(self):
        """Of resident memory, mapped files with it, in MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    def stop(self):
        self.daemons.stop()


def digest(series, tag):
    index = json.loads((CACHE / "images" / series / "index.json").read_text())
    return next(one["digest"] for one in index["manifests"] if one["annotations"]["org.opencontainers.image.ref.name"] == tag)


def network():
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{HOST}/16", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for node in range(NODES):
        name, end = f"{BRIDGE}n{node}", f"{BRIDGE}v{node}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", end, "master", BRIDGE, "up")
        run("ip", "-n", name, "address", "add", f"10.214.1.{node + 1}/16", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")


def no_network():
    for node in range(NODES):
        subprocess.run(["ip", "netns", "delete", f"{BRIDGE}n{node}"], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["ip", "link", "delete", BRIDGE], stderr=subprocess.DEVNULL, check=False)


def all_at_once(registry, serve, work):
    began = time.monotonic()
    nodes = []
    for node in range(NODES):
        out = work / f"answer-{node}"
        curl = ["curl", "--silent", "--show-error", "--fail", "--retry", "100", "--output", str(out), serve.url(registry, PAIRS[node % len(PAIRS)])]
        nodes.append(subprocess.Popen(["nsenter", f"--net=/run/netns/{BRIDGE}n{node}", *curl]))
    failed = sum(node.wait() != 0 for node in nodes)
    seconds = time.monotonic() - began
    metrics = serve.metrics()
    different = sum((work / f"answer-{node}").read_bytes() != (work / f"answer-{node % len(PAIRS)}").read_bytes() for node in range(NODES))
    size = sum((work / f"answer-{node}").stat().st_size for node in range(NODES))
    made, merged = (metrics[f'd4c_serve_jobs_total{{how="{how}"}}'] for how in ("made", "merged"))
    print(f"{NODES} nodes, {len(PAIRS)} pairs: {seconds:.1f} s, {failed} failed, {different} different, {size:,} bytes sent; "
          f"made {made}, merged {merged}; "
          f"peak resident memory {serve.peak()} MiB, mapped files with it", flush=True)


def merged_beside_made(registry, work):
    made, merged = {}, {}
    server = Serve(registry, work / "made")
    for series in SERIES:
        made[series] = server.ask(registry, (series, "v1", "v3"))
    server.stop()
    for series in SERIES:
        for old, new in STEPS[:2]:
            image = f"docker://{registry.name(series)}"
            run(BIN / "d4c", "diff", "--progress", "none", f"{image}:{old}", f"{image}:{new}", "docker://")
    server = Serve(registry, work / "merged")
    for series in SERIES:
        merged[series] = server.ask(registry, (series, "v1", "v3"))
    server.stop()
    print("| image, v1 to v3 | made, bytes | s | merged, bytes | s | times as fast |\n|---|--:|--:|--:|--:|--:|")
    for series in SERIES:
        (seconds, how, size), (fast, quick, small) = made[series], merged[series]
        assert (how, quick) == ("made", "merged"), (series, how, quick)
        print(f"| {series} | {size:,} | {seconds:.2f} | {small:,} | {fast:.2f} | {seconds / fast:.0f} |")


def main():
    begin("docker-registry", "skopeo", "ip", "nsenter", "curl")
    run(REPO / "hack/images.sh", *SERIES, "npm-postgres")
    work = pathlib.Path(tempfile.mkdtemp(prefix="d4c-serve."))
    registry = None
    try:
        network()
        registry = Registry(work)
        for series in [*SERIES, "npm-postgres"]:
            for tag in ("v1", "v2", "v3") if series in SERIES else ("v1", "v2"):
                registry.push(series, tag)
        serve = Serve(registry, work / "all")
        try:
            all_at_once(registry, serve, work)
        finally:
            serve.stop()
        merged_beside_made(registry, work)
    finally:
        if registry:
            registry.stop()
        no_network()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
