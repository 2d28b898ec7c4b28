#!/usr/bin/env python3
"""Containers of containerd on di3fs's route erofs (or ROUTE) and on overlayfs, side by side, as root: container-bench.py BIN_DIR [SERIES [ROUTE]]

BIN_DIR has d4c and di3fs-snapshotter; containerd is 2.4.2 of the cache. The image is v2 of SERIES (default: pypi-uv), on di3fs a base and a delta, everything
made before. Looked at from outside, through each container's own root. Both are measured in turns; minima, ratios to overlayfs count. Prints a table in Markdown.
"""
import json, os, shutil, signal, subprocess, sys, tempfile, time
from importlib.machinery import SourceFileLoader

bench = SourceFileLoader("mount_bench", os.path.join(os.path.dirname(__file__), "mount-bench.py")).load_module()
NAME, TURNS = "example.com/bench:2", 7


class Node:
    """A plugin and a containerd in a directory of their own."""

    def __init__(self, work, programs, route):
        self.work, self.d4c, self.containerd = work, f"{programs}/d4c", f"{bench.CACHE}/containerd-2.4.2"
        plugin = [f"{programs}/di3fs-snapshotter", "--root", f"{work}/di3fs", "--address", f"{work}/di3fs.sock"]
        with open(f"{work}/config.toml", "w") as config:
            config.write(f"""version = 2
root = "{work}/root"
state = "{work}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
address = "{work}/c.sock"
[ttrpc]
address = "{work}/c.sock.ttrpc"
[proxy_plugins.di3fs]
type = "snapshot"
address = "{work}/di3fs.sock"
""")
        log, env = open(f"{work}/log", "w"), {**os.environ, "PATH": f"{self.containerd}:{os.environ['PATH']}"}
        start = lambda *command: subprocess.Popen(command, stdout=log, stderr=log, env=env)
        self.processes = [start(*plugin, "--control", f"{work}/control.sock", "--route", route)]
        self.wait(lambda: os.path.exists(f"{work}/control.sock"))
        self.processes.append(start(f"{self.containerd}/containerd", "--config", f"{work}/config.toml"))
        self.wait(lambda: subprocess.run(self.ctr("version"), capture_output=True).returncode == 0)

    def wait(self, done):
        for _ in range(200):
            if done():
                return
            time.sleep(0.05)
        raise TimeoutError(open(f"{self.work}/log").read())

    def ctr(self, *words):
        return [f"{self.containerd}/ctr", "--address", f"{self.work}/c.sock", *words]

    def load(self, *files):
        d4c = [self.d4c, "--control", f"{self.work}/control.sock", "--address", f"{self.work}/c.sock"]
        for file in files:
            bench.run(*d4c, "load", file, "--name", NAME)
        bench.run(*d4c, "prefetch", NAME)

    def container(self, snapshotter):
        """The root of a new one."""
        name = f"bench-{os.getpid()}-{snapshotter}"
        bench.run(*self.ctr("run", "--detach", "--snapshotter", snapshotter, NAME, name, "sleep", "10000"))
        tasks = subprocess.run(self.ctr("tasks", "ls"), capture_output=True, text=True).stdout.splitlines()
        return name, f"/proc/{next(line.split()[1] for line in tasks if line.startswith(name + ' '))}/root"

    def close(self, names):
        for name in names:
            subprocess.run(self.ctr("tasks", "rm", "--force", name), capture_output=True)
            subprocess.run(self.ctr("containers", "rm", name), capture_output=True)
        holders = subprocess.run(["pgrep", "-f", f"{self.work}/di3fs"], capture_output=True, text=True).stdout.split()
        for process in reversed(self.processes):
            process.terminate()
            process.wait()
        for pid in holders:
            try:
                os.kill(int(pid), signal.SIGTERM)
            except ProcessLookupError:
                pass
        mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]
        for mount in reversed([mount for mount in mounts if mount.startswith(self.work)]):
            subprocess.run(["umount", "-l", mount])


def main():
    programs = os.path.abspath(sys.argv[1])
    series, route = (sys.argv[2:] + ["pypi-uv", "erofs"][len(sys.argv[2:]):])[:2]
    layout, work = f"{bench.CACHE}/images/{series}", tempfile.mkdtemp(prefix="container-bench.", dir="/var/tmp")
    node, names = Node(work, programs, route), []
    try:
        files = [f"{work}/v1.cdimg", f"{work}/v2.cdimg"]
        bench.run(f"{programs}/d4c", "-q", "convert", f"oci:{layout}:v1", files[0])
        bench.run(f"{programs}/d4c", "-q", "diff", f"oci:{layout}:v1", f"oci:{layout}:v2", files[1])
        bench.run("skopeo", "copy", "-q", f"oci:{layout}:v2", f"docker-archive:{work}/v2.tar:{NAME}")
        bench.run(*node.ctr("images", "import", "--local", "--snapshotter", "overlayfs", f"{work}/v2.tar"))
        roots = {}
        for snapshotter in ["overlayfs", "di3fs"]:
            if snapshotter == "di3fs":
                bench.run(*node.ctr("images", "rm", NAME))
                node.load(*files)
            name, roots[snapshotter] = node.container(snapshotter)
            names.append(name)
        found = {snapshotter: {} for snapshotter in roots}
        for _ in range(TURNS):
            for snapshotter, root in roots.items():
                for name, unit, value in bench.quick(root):
                    found[snapshotter][name, unit] = min(value, found[snapshotter].get((name, unit), value))
        print(f"{series} v2 in containers of containerd 2.4.2\n\n| | overlayfs | {route} |\n|---|--:|--:|")
        for (name, unit), plain in found["overlayfs"].items():
            other = found["di3fs"][name, unit]
            print(f"| {name}, {unit} | {plain:.2f} | {other:.2f} ({other / plain:.2f}) |")
    finally:
        os.chdir("/")
        node.close(names)
        shutil.rmtree(work)


main()
