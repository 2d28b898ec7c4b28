"""What hack/*-bench.py share: commands, daemons that end with the script, a node (containerd with our snapshotter) and a registry."""
import json, os, pathlib, shutil, signal, socket, subprocess, sys, time

REPO = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("D4C_BIN_DIR", REPO / "target/release"))
CACHE = pathlib.Path(os.environ.get("D4C_CACHE", "/var/cache/d4c"))
NAME = pathlib.Path(sys.argv[0]).stem
IMAGE = "example.com/bench"


def give_up(why):
    sys.exit(f"{NAME}: {why}")


def begin(*tools):
    """Checks that this is root with these tools, and lets SIGTERM unwind as an exception does."""
    if os.geteuid() != 0:
        give_up("must be root")
    for tool in tools:
        if shutil.which(tool) is None:
            give_up(f"no {tool}: run make setup")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run(*command):
    """What the command prints; the script ends when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        give_up(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def answers(*command):
    return lambda: subprocess.run([str(part) for part in command], capture_output=True).returncode == 0


def free_port(host="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def deltas(work, series):
    """The base file of v1 of a series and the delta to v2, made in `work`."""
    layout, files = CACHE / "images" / series, [work / "v1.cdimg", work / "v2.cdimg"]
    run(REPO / "hack/images.sh", series)
    run(BIN / "d4c", "-q", "convert", "--level", "fast", f"oci:{layout}:v1", files[0])
    run(BIN / "d4c", "-q", "diff", f"oci:{layout}:v1", f"oci:{layout}:v2", files[1])
    return files


class Daemons:
    """What was started, ended in reverse order; logs are in the folder `work`."""

    def __init__(self, work):
        self.work, self.running = work, []

    def start(self, name, command, ready):
        with open(self.work / f"{name}.log", "w") as log:
            process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        self.running.append(process)
        for _ in range(600):
            if ready():
                return process
            if process.poll() is not None:
                break
            time.sleep(0.05)
        give_up(f"{name} does not answer: {(self.work / f'{name}.log').read_text()[-2000:]}")

    def stop(self):
        for process in reversed(self.running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        self.running = []


class Registry:
    """A docker-registry in the folder `work`, on a port of loopback."""

    def __init__(self, work):
        self.port, self.daemons = free_port(), Daemons(work)
        config = work / "registry.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {work}/registry}}}}\nhttp: {{addr: '127.0.0.1:{self.port}'}}\n"
        )
        ready = lambda: not socket.socket().connect_ex(("127.0.0.1", self.port))
        self.daemons.start("registry", ["docker-registry", "serve", config], ready)

    def name(self, repository):
        return f"127.0.0.1:{self.port}/{repository}"

    def push(self, series, tag, repository=None):
        target = f"docker://{self.name(repository or series)}:{tag}"
        run("skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{CACHE}/images/{series}:{tag}", target)

    def stop(self):
        self.daemons.stop()


class Node:
    """A containerd with our snapshotter in the new folder `work`, their commands behind `prefix`; D4C_ROUTE names a route, and
    D4C_CONTAINERD a folder with a containerd, a ctr and a shim of their own."""

    def __init__(self, work, prefix=(), options=()):
        work.mkdir()
        self.work, self.prefix, self.daemons = work, list(prefix), Daemons(work)
        self.folder = os.environ.get("D4C_CONTAINERD", "")
        path = f"PATH={self.folder}:{os.environ['PATH']}" if self.folder else f"PATH={os.environ['PATH']}"
        snapshotter = [BIN / "di3fs-snapshotter", "--root", work / "di3fs", "--address", work / "s.sock", "--control", work / "c.sock"]
        snapshotter += ["--containerd", work / "containerd.sock", *options]
        if route := os.environ.get("D4C_ROUTE"):
            snapshotter += ["--route", route]
        self.plugin = self.daemons.start("snapshotter", [*self.prefix, *snapshotter], (work / "c.sock").exists)
        config = work / "containerd.toml"
        config.write_text(f"""version = 2
root = "{work}/containerd"
state = "{work}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{work}/containerd.sock"
[ttrpc]
address = "{work}/containerd.sock.ttrpc"
[debug]
level = "warn"
[proxy_plugins.di3fs]
type = "snapshot"
address = "{work}/s.sock"
""")
        self.client = [*self.prefix, "env", path, "ctr", "--address", str(work / "containerd.sock")]
        containerd = [*self.prefix, "env", path, "containerd", "--config", config]
        self.daemons.start("containerd", containerd, answers(*self.client, "version"))

    def ctr(self, *arguments):
        return run(*self.client, *arguments)

    def d4c(self, *arguments):
        common = ["--address", self.work / "containerd.sock", "--control", self.work / "c.sock", "--progress", "none", "--json"]
        return json.loads(run(*self.prefix, BIN / "d4c", *common, *arguments))

    def import_image(self, series):
        """v2 of the series as IMAGE:overlayfs, unpacked by containerd for overlayfs."""
        archive = self.work / "image.tar"
        run("skopeo", "copy", "--quiet", f"oci:{CACHE}/images/{series}:v2", f"oci-archive:{archive}:{IMAGE}:overlayfs")
        self.ctr("images", "import", "--snapshotter", "overlayfs", archive)
        archive.unlink()

    def load_image(self, files):
        """A base file and a delta as IMAGE:di3fs, nothing made that nobody opens."""
        for file in files:
            self.d4c("load", file, "--name", f"{IMAGE}:di3fs")

    def container(self, snapshotter, *options):
        """A container of IMAGE:SNAPSHOTTER that waits; the process in it."""
        self.ctr("run", "--detach", "--snapshotter", snapshotter, *options, f"{IMAGE}:{snapshotter}", snapshotter, "sleep", "infinity")
        tasks = [line.split() for line in self.ctr("tasks", "ls").splitlines()]
        return next(int(task[1]) for task in tasks if task[0] == snapshotter)

    def exec(self, snapshotter, script):
        """What a script prints in that container."""
        return self.ctr("task", "exec", "--exec-id", f"e{os.urandom(4).hex()}", snapshotter, "sh", "-ec", script)

    def forget(self):
        """Ends the containers and removes the images, as far as they are there."""
        commands = [part for name in ("overlayfs", "di3fs") for part in (("task", "rm", "--force", name), ("containers", "rm", name), ("images", "rm", "--sync", f"{IMAGE}:{name}"))]
        for command in commands:
            subprocess.run([*self.client, *command], capture_output=True)

    def holders(self):
        """The processes that hold the plugin's sessions, which outlive it."""
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and holds(pid, self.work)]

    def stop(self):
        self.daemons.stop()
        time.sleep(0.5)
        for pid in self.holders():
            os.kill(pid, signal.SIGKILL)
        points = [line.split()[4] for line in open("/proc/self/mountinfo")]
        for point in sorted((point for point in points if point.startswith(f"{self.work}/")), reverse=True):
            subprocess.run(["umount", "-l", point], check=False)


def holds(pid, work):
    try:
        text = pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
    return "--hold" in text and f"{work}/" in text
