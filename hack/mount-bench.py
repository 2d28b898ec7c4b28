#!/usr/bin/env python3
"""d4c mount beside overlayfs over the same unpacked layers, in one run, as root: mount-bench.py D4C [SERIES [FILE]]

Everything is seen as a container sees it, through a writable overlay (d4c mount --changes; but for fuse-passthrough, on which the kernel stacks
none). FILE is the large program whose reads are timed (default: uv of pypi-uv). "cold" is after all caches were
dropped, with everything made before, but for the first open. Minima of several tries; ratios to overlayfs count, times do not
carry over. Prints a table in Markdown.
"""
import json, mmap, os, random, shutil, subprocess, sys, tempfile, time

CACHE = os.environ.get("D4C_CACHE", "/var/cache/d4c")
ROUTES = ["erofs", "fuse", "fuse-passthrough"]
TRIES = 3


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def timed(what, before=lambda: None, tries=TRIES):
    """The shortest time of several tries, in seconds."""
    best = float("inf")
    for _ in range(tries):
        before()
        start = time.perf_counter()
        what()
        best = min(best, time.perf_counter() - start)
    return best


def files_of(root):
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def read(path, at_once=1 << 20):
    with open(path, "rb", buffering=0) as file:
        while file.read(at_once):
            pass


def measure(root, program):
    """Rows of the table: name, unit, value; the lower the better."""
    big = os.path.join(root, program)
    # Everything is made once.
    files = list(files_of(root))
    for path in files:
        read(path)
    small = [path for path in files if os.path.getsize(path) <= 16384]
    random.Random(1).shuffle(small)
    small = small[:2000]
    walk = lambda: sum(len(names) for _, _, names in os.walk(root))

    def opens():
        for path in files:
            os.close(os.open(path, os.O_RDONLY))

    def random_reads():
        chooser, file = random.Random(2), os.open(big, os.O_RDONLY)
        pages = os.path.getsize(big) // 4096
        for _ in range(50_000):
            os.pread(file, 4096, chooser.randrange(pages) * 4096)
        os.close(file)

    def touch():
        with open(big, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            for at in range(0, len(memory), 4096):
                memory[at]

    execute = lambda: run("chroot", root, "/" + program, "--version")
    return [
        ("walk, cold", "ms", timed(walk, drop_caches) * 1e3),
        ("walk, warm", "ms", timed(walk, tries=5) * 1e3),
        ("stat, warm", "µs", timed(lambda: [os.lstat(path) for path in files], tries=5) / len(files) * 1e6),
        ("open and close, warm", "µs", timed(opens, tries=5) / len(files) * 1e6),
        ("small files, cold", "µs", timed(lambda: [read(path) for path in small], drop_caches) / len(small) * 1e6),
        ("sequential read, cold", "ms", timed(lambda: read(big), drop_caches) * 1e3),
        ("sequential read, warm", "ms", timed(lambda: read(big), tries=5) * 1e3),
        ("random reads of 4 KiB, cold", "µs", timed(random_reads, drop_caches) / 50_000 * 1e6),
        ("random reads of 4 KiB, warm", "µs", timed(random_reads, tries=5) / 50_000 * 1e6),
        ("mmap, each page, cold", "ms", timed(touch, drop_caches) * 1e3),
        ("mmap, each page, warm", "ms", timed(touch, tries=5) * 1e3),
        ("exec --version, cold", "ms", timed(execute, drop_caches) * 1e3),
        ("exec --version, warm", "ms", timed(execute, tries=5) * 1e3),
    ]


def quick(root):
    """Some rows of `measure`, once, of what is made already, from within `root`: the way there costs nothing."""
    os.chdir(root)
    files = [path for top in ["usr", "etc", "var"] for path in files_of(top)]
    small = [path for path in files if os.path.getsize(path) <= 16384]
    random.Random(1).shuffle(small)
    small = small[:2000]

    def opens():
        for path in files:
            os.close(os.open(path, os.O_RDONLY))

    return [
        ("small files, cold", "µs", timed(lambda: [read(path) for path in small], drop_caches, 1) / len(small) * 1e6),
        ("stat, warm", "µs", timed(lambda: [os.lstat(path) for path in files]) / len(files) * 1e6),
        ("open and close, warm", "µs", timed(opens) / len(files) * 1e6),
    ]


class Overlay:
    """A writable overlay, as a container has."""

    def __init__(self, work, lower):
        self.at, self.dirs = f"{work}/container", [f"{work}/upper", f"{work}/work"]
        for path in [self.at, *self.dirs]:
            os.makedirs(path, exist_ok=True)
        options = f"lowerdir={lower},upperdir={self.dirs[0]},workdir={self.dirs[1]}"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.at)

    def __enter__(self):
        return self.at

    def __exit__(self, *_):
        run("umount", self.at)
        for path in self.dirs:
            shutil.rmtree(path)


class Mount:
    """d4c mount of files; with changes to be written as a container's would be: by one overlay mount, the container's own."""

    def __init__(self, d4c, at, route, files, changes=None):
        self.changes = changes
        words = ["--json", "--route", route, *(["--changes", changes] if changes else []), *files, at]
        self.process = subprocess.Popen([d4c, "mount", *words], stdout=subprocess.PIPE, text=True)
        self.told = json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self.told

    def __exit__(self, *_):
        self.process.terminate()
        ended = json.loads(self.process.stdout.readline())
        assert self.process.wait() == 0 and ended["failed"] == 0, ended
        if self.changes:
            shutil.rmtree(self.changes)


def unpack(layout, tag, into):
    index = json.load(open(f"{layout}/index.json"))
    blob = lambda digest: f"{layout}/blobs/" + digest.replace(":", "/")
    found = next(m for m in index["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] == tag)
    layers = []
    for number, layer in enumerate(json.load(open(blob(found["digest"])))["layers"]):
        layers.append(f"{into}/{number}")
        os.makedirs(layers[-1])
        run("tar", "-xzf", blob(layer["digest"]), "-C", layers[-1], "--numeric-owner")
    return layers


def ready(d4c, work, at, entries):
    """Milliseconds to mount a delta of ten files on an image of so many entries, by route."""
    root, files = f"{work}/many", [f"{work}/many1.cdimg", f"{work}/many2.cdimg"]
    for number in range(entries):
        directory = f"{root}/{number // 100:04}"
        if number % 100 == 0:
            os.makedirs(directory)
        else:
            with open(f"{directory}/{number}", "w") as file:
                file.write(str(number))
    run(d4c, "-q", "convert", f"dir:{root}", files[0])
    shutil.copytree(root, f"{root}2")
    for number in range(10):
        with open(f"{root}2/{number * 7:04}/{number * 700 + 1}", "w") as file:
            file.write("another")
    run(d4c, "-q", "diff", f"dir:{root}", f"dir:{root}2", files[1])
    shutil.rmtree(root)
    shutil.rmtree(f"{root}2")
    found = {}
    for route in ROUTES:
        times = []
        for _ in range(5):
            with Mount(d4c, at, route, files) as told:
                times.append(told["ms"])
        found[route] = min(times)
    return found


def first_open(d4c, work, at, files, program):
    """Milliseconds to open the patched program: of the mount, its base made before; and of d4c patch, which makes that too."""
    found = {}
    for route in ROUTES:
        best = float("inf")
        for _ in range(TRIES):
            with Mount(d4c, at, route, files):
                best = min(best, timed(lambda: read(f"{at}/{program}"), tries=1))
        found[route] = best * 1e3
    return found


def main():
    d4c = os.path.abspath(sys.argv[1])
    series, program = (sys.argv[2:] + ["pypi-uv", "usr/local/lib/python3.11/dist-packages/bin/uv"][len(sys.argv[2:]):])[:2]
    layout = f"{CACHE}/images/{series}"
    work = tempfile.mkdtemp(prefix="mount-bench.", dir="/var/tmp")
    at = f"{work}/at"
    os.mkdir(at)
    try:
        files = [f"{work}/v1.cdimg", f"{work}/v2.cdimg"]
        run(d4c, "-q", "convert", f"oci:{layout}:v1", files[0])
        run(d4c, "-q", "diff", f"oci:{layout}:v1", f"oci:{layout}:v2", files[1])
        layers = unpack(layout, "v2", f"{work}/layers")
        with Overlay(work, ":".join(reversed(layers))) as root:
            plain = measure(root, program)
        columns, entries = {}, 0
        for route in ROUTES:
            with Mount(d4c, at, route, files, None if route == "fuse-passthrough" else f"{work}/changes") as told:
                entries = told["entries"]
                columns[route] = measure(at, program)
        print(f"{series} v2, {entries} entries, {program} of {os.path.getsize(f'{layers[-1]}/{program}') >> 20} MiB\n")
        print("| | overlayfs | " + " | ".join(ROUTES) + " |\n|---|--:|" + "--:|" * len(ROUTES))
        for number, (name, unit, value) in enumerate(plain):
            others = [columns[route][number][2] for route in ROUTES]
            cells = [f"{other:.2f} ({other / value:.2f})" for other in others]
            print(f"| {name}, {unit} | {value:.2f} | " + " | ".join(cells) + " |")
        opened = first_open(d4c, work, at, files, program)
        print("| first open and read of the program, ms | | " + " | ".join(f"{opened[route]:.0f}" for route in ROUTES) + " |")
        for count in [10_000, 100_000]:
            found = ready(d4c, work, at, count)
            print(f"| ready, {count} entries, ms | | " + " | ".join(f"{found[route]}" for route in ROUTES) + " |", flush=True)
        patch = timed(lambda: (run(d4c, "-q", "patch", *files, f"dir:{work}/patched"), shutil.rmtree(f"{work}/patched")), tries=1)
        print(f"\nd4c patch of the whole image: {patch * 1e3:.0f} ms")
    finally:
        subprocess.run(["umount", "-q", f"{work}/container"])
        subprocess.run(["umount", "-q", at])
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
