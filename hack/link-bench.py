#!/usr/bin/env python3
"""From pull to a container's first output over a slow link, by delta and as usual, in one run, as root: link-bench.py [SERIES…]

A node (containerd, snapshotter, clients) in a network namespace, behind a link of 10 Mbit/s (tbf) and a proxy that adds 50 ms to each round
trip; the registry is on the other side. The node has v1, pulled before the link is shaped: for the usual way by `ctr images pull`, for the
delta by `d4c pull`, each on a containerd of its own. Then v2 is pulled and a program of it is run. Prints a table in Markdown.
Environment: D4C_BIN_DIR (target/release), D4C_CACHE (/var/cache/d4c), D4C_ROUTE (the snapshotter's default), D4C_RATE (10mbit), D4C_DELAY
(milliseconds, 50).
"""
import asyncio, os, pathlib, shutil, subprocess, sys, tempfile, threading, time

from benchlib import BIN, REPO, Node, Registry, begin, give_up, run

RATE = os.environ.get("D4C_RATE", "10mbit")
DELAY = float(os.environ.get("D4C_DELAY", "50")) / 1000
# What each series runs: a program whose update is the point of it.
PROGRAMS = {
    "debian-nginx": ["nginx", "-v"],
    "npm-esbuild": ["/usr/local/bin/esbuild", "--version"],
    "pypi-uv": ["/usr/local/lib/python3.11/dist-packages/bin/uv", "--version"],
}
NETNS = f"d4c-link-{os.getpid()}"
OUR_END, NODE_END = f"d4l{os.getpid() % 100000}a", f"d4l{os.getpid() % 100000}b"
HOST, NODE = "10.213.77.1", "10.213.77.2"


def inside(*command):
    """A command in the node's network, in our mount namespace: ip netns exec would give it one of its own."""
    return ["nsenter", f"--net=/run/netns/{NETNS}", *map(str, command)]


class Proxy:
    """Passes bytes on to a port of loopback, half the delay each way, and counts those that go to the node."""

    def __init__(self, port):
        self.target, self.bytes = port, 0
        self.loop = asyncio.new_event_loop()
        self.port = self.loop.run_until_complete(self.listen())
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def listen(self):
        server = await asyncio.start_server(self.serve, HOST, 0)
        return server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        await asyncio.sleep(DELAY)  # the handshake, which the kernel answered at once
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self.pump(reader, back, False), self.pump(there, writer, True), return_exceptions=True)

    async def pump(self, reader, writer, counted):
        queue = asyncio.Queue(64)

        async def send():
            while (item := await queue.get()) is not None:
                due, data = item
                await asyncio.sleep(max(0, due - time.monotonic()))
                writer.write(data)
                await writer.drain()
                self.bytes += len(data) if counted else 0
            writer.close()

        sender = asyncio.ensure_future(send())
        try:
            while data := await reader.read(1 << 16):
                await queue.put((time.monotonic() + DELAY / 2, data))
        finally:
            await queue.put(None)
            await sender


def shape(on):
    for device, prefix in ((OUR_END, []), (NODE_END, inside())):
        if on:
            run(*prefix, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", RATE, "burst", "32kbit", "latency", "400ms")
        else:
            run(*prefix, "tc", "qdisc", "del", "dev", device, "root")


def timed(proxy, pull, start):
    """Seconds to the first output, bytes to the node."""
    before, began = proxy.bytes, time.monotonic()
    pull()
    output = start()
    return time.monotonic() - began, proxy.bytes - before, output


def usual(work, proxy, image, program):
    node = Node(work / "usual", inside())
    try:
        node.ctr("images", "pull", "--plain-http", f"{image}:v1")
        shape(True)
        try:
            return timed(
                proxy,
                lambda: node.ctr("images", "pull", "--plain-http", f"{image}:v2"),
                lambda: node.ctr("run", "--rm", f"{image}:v2", "first", *program),
            )
        finally:
            shape(False)
    finally:
        node.stop()


def by_delta(work, proxy, image, program):
    node = Node(work / "delta", inside())
    try:
        node.d4c("pull", "--insecure", f"{image}:v1")
        # As a node has it that has had it for a while.
        node.d4c("prefetch", f"{image}:v1")
        shape(True)
        try:
            return timed(
                proxy,
                lambda: node.d4c("pull", "--insecure", f"{image}:v2"),
                lambda: node.ctr("run", "--rm", "--snapshotter", "di3fs", f"{image}:v2", "first", *program),
            )
        finally:
            shape(False)
    finally:
        node.stop()


def measure(work, series):
    program = PROGRAMS[series]
    registry = Registry(work)
    try:
        for tag in ("v1", "v2"):
            registry.push(series, tag, "app")
        local = f"docker://{registry.name('app')}"
        run(BIN / "d4c", "diff", "--progress", "none", f"{local}:v1", f"{local}:v2", "docker://")
        proxy = Proxy(registry.port)
        image = f"{HOST}:{proxy.port}/app"
        ours = by_delta(work, proxy, image, program)
        theirs = usual(work, proxy, image, program)
        if ours[2] != theirs[2]:
            give_up(f"{series}: {ours[2]!r} by delta, {theirs[2]!r} as usual")
        return ours, theirs
    finally:
        registry.stop()


def main():
    begin("containerd", "ctr", "runc", "docker-registry", "skopeo", "ip", "tc", "nsenter")
    series = sys.argv[1:] or list(PROGRAMS)
    run(REPO / "hack/images.sh", *series)
    work = pathlib.Path(tempfile.mkdtemp(prefix="d4c-link."))
    print("| image, v1 to v2 | usual pull, bytes | s | delta, bytes | s | times as fast |\n|---|--:|--:|--:|--:|--:|", flush=True)
    try:
        run("ip", "netns", "add", NETNS)
        run("ip", "link", "add", OUR_END, "type", "veth", "peer", "name", NODE_END, "netns", NETNS)
        run("ip", "address", "add", f"{HOST}/24", "dev", OUR_END)
        run("ip", "link", "set", OUR_END, "up")
        for command in (f"address add {NODE}/24 dev {NODE_END}", f"link set {NODE_END} up", "link set lo up"):
            run("ip", "-n", NETNS, *command.split())
        for name in series:
            folder = work / name
            folder.mkdir()
            (ours_s, ours_bytes, _), (theirs_s, theirs_bytes, _) = measure(folder, name)
            print(f"| {name} | {theirs_bytes:,} | {theirs_s:.2f} | {ours_bytes:,} | {ours_s:.2f} | {theirs_s / ours_s:.1f} |", flush=True)
            shutil.rmtree(folder)
    finally:
        subprocess.run(["ip", "netns", "delete", NETNS], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["ip", "link", "delete", OUR_END], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
