#!/usr/bin/env python3
"""d4c mount beside overlayfs over the same unpacked layers, in one run, as root: mount-bench.py D4C [SERIES…]

Times of the second walk, stat, open and read are those of a warm cache; the first read of a mount makes the contents. Ratios to
overlayfs count, times do not carry over to other machines.
"""
import json, os, shutil, subprocess, sys, tempfile, time

CACHE = os.environ.get("D4C_CACHE", "/var/cache/d4c")
ROUTES = ["erofs", "fuse-passthrough", "fuse"]


def timed(what):
    start = time.perf_counter()
    count = what()
    return time.perf_counter() - start, count


def files_of(root):
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def measure(root):
    walk = lambda: sum(len(names) for _, _, names in os.walk(root))
    first_walk, _ = timed(walk)
    warm_walk = min(timed(walk)[0] for _ in range(5))
    files = list(files_of(root))
    stat = min(timed(lambda: [os.lstat(path) for path in files])[0] for _ in range(5)) / len(files)

    def read():
        count = 0
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while data := file.read(1 << 20):
                    count += len(data)
        return count

    first_read, count = timed(read)
    warm_read = min(timed(read)[0] for _ in range(3))

    def opens():
        for path in files:
            os.close(os.open(path, os.O_RDONLY))

    warm_open = min(timed(opens)[0] for _ in range(5)) / len(files)
    return {
        "walk first ms": first_walk * 1e3,
        "walk ms": warm_walk * 1e3,
        "stat µs": stat * 1e6,
        "open+close µs": warm_open * 1e6,
        "read all first ms": first_read * 1e3,
        "read all ms": warm_read * 1e3,
    }


def unpack(layout, tag, into):
    index = json.load(open(f"{layout}/index.json"))
    blob = lambda digest: f"{layout}/blobs/" + digest.replace(":", "/")
    found = next(m for m in index["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] == tag)
    layers = []
    for number, layer in enumerate(json.load(open(blob(found["digest"])))["layers"]):
        layers.append(f"{into}/{number}")
        os.mkdir(layers[-1])
        subprocess.run(["tar", "-xzf", blob(layer["digest"]), "-C", layers[-1], "--numeric-owner"], check=True)
    os.mkdir(f"{into}/empty")
    return layers + [f"{into}/empty"]


def main():
    d4c, series = os.path.abspath(sys.argv[1]), sys.argv[2:] or ["tiny", "debian-nginx"]
    for name in series:
        work = tempfile.mkdtemp(prefix="mount-bench.", dir="/var/tmp")
        at, layout = f"{work}/at", f"{CACHE}/images/{name}"
        os.mkdir(at)
        try:
            files = [f"{work}/v1.cdimg", f"{work}/v2.cdimg"]
            subprocess.run([d4c, "-q", "convert", f"oci:{layout}:v1", files[0]], check=True)
            subprocess.run([d4c, "-q", "diff", "--level", "fast", f"oci:{layout}:v1", f"oci:{layout}:v2", files[1]], check=True)
            os.mkdir(f"{work}/layers")
            lower = ":".join(reversed(unpack(layout, "v2", f"{work}/layers")))
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", at], check=True)
            plain = measure(at)
            subprocess.run(["umount", at], check=True)
            print(name, "overlayfs", {key: round(value, 2) for key, value in plain.items()})
            for route in ROUTES:
                times = []
                for last in range(5):
                    command = [d4c, "mount", "--json", "--route", route, *files, at]
                    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                    mounted = json.loads(process.stdout.readline())
                    times.append(mounted["ms"])
                    if last < 4:
                        process.terminate()
                        process.wait()
                found = measure(at)
                process.terminate()
                ended = json.loads(process.stdout.readline())
                assert process.wait() == 0 and ended["failed"] == 0
                print(name, route, f"mount {min(times)} ms, {mounted['entries']} entries,", f"{ended['made']} made:",
                      {key: f"{value:.2f} ({value / plain[key]:.2f})" for key, value in found.items()}, flush=True)
        finally:
            subprocess.run(["umount", "-q", at])
            shutil.rmtree(work)


main()
