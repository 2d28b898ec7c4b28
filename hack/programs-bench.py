#!/usr/bin/env python3
"""Programs in a container on di3fs beside one on overlayfs, in one run, as root: programs-bench.py [ROUNDS] (8)

The image is v2 of the series debian-programs: on overlayfs unpacked by containerd, on di3fs a base and a delta, applied lazily. A container of each
is there all the time; after one run that does not count, each program runs in both by turns, its data in a tmpfs. Prints a table in Markdown: for each
program the median of either side and the median of the rounds' ratios, seconds (lower is better) for the same work.
Environment: D4C_BIN_DIR (target/release), D4C_CACHE (/var/cache/d4c), D4C_ROUTE (the snapshotter's default), D4C_CONTAINERD (a folder of containerd's).
"""
import pathlib, shutil, statistics, sys, tempfile

from benchlib import Node, begin, deltas

PREPARE = """
mkdir -p /data/pg /data/nginx
chown postgres /data/pg
runuser -u postgres -- initdb -D /data/pg/db >/dev/null
runuser -u postgres -- pg_ctl -D /data/pg/db -o '-k /data/pg -h ""' -l /data/pg/log -w start >/dev/null
runuser -u postgres -- createdb -h /data/pg bench
runuser -u postgres -- pgbench -h /data/pg -q -i -s 10 bench 2>/dev/null
printf 'daemon on; pid /data/nginx/pid; error_log /data/nginx/error; events {} http { access_log off; server { listen 127.0.0.1:8099; root /usr/share; } }' >/data/nginx/conf
nginx -c /data/nginx/conf
cat >/data/a.c <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <pthread.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <linux/fs.h>
int main(int argc, char **argv) { printf("%f %zu\\n", sqrt(argc), strlen(argv[0])); return 0; }
C
"""
# Name, what is done; each prints nothing and its time counts.
PROGRAMS = [
    ("pgbench, 20,000 transactions of tpcb-like", "runuser -u postgres -- pgbench -h /data/pg -c 4 -j 2 -t 5000 bench >/dev/null 2>&1"),
    ("pgbench, 60,000 selects", "runuser -u postgres -- pgbench -h /data/pg -S -c 4 -j 2 -t 15000 bench >/dev/null 2>&1"),
    ("psql, 40 starts", "for i in $(seq 40); do psql --version >/dev/null; done"),
    ("node, 20 starts", "for i in $(seq 20); do node -e 'require(\"http\")'; done"),
    ("python3, 40 starts with modules", "for i in $(seq 40); do python3 -c 'import json, http.client, asyncio, sqlite3'; done"),
    ("gcc -O2, 30 compilations and links", "for i in $(seq 30); do gcc -O2 -o /data/a /data/a.c -lm; done"),
    ("grep through /usr/share", "grep -r no-such-word-anywhere /usr/share || true"),
]
# Requests that are answered in two seconds, nginx opening the file for each.
WRK = "wrk -t1 -c8 -d2s http://127.0.0.1:8099/common-licenses/GPL-3 | sed -n 's/^Requests.sec: *//p'"


class Side:
    """A container on one snapshotter."""

    def __init__(self, node, name):
        self.node, self.name = node, name
        node.container(name, "--mount", "type=tmpfs,src=tmpfs,dst=/data,options=mode=755")
        node.exec(name, PREPARE)

    def seconds(self, script):
        begin, end = self.node.exec(self.name, f"date +%s%N; {script}; date +%s%N").split()
        return (int(end) - int(begin)) / 1e9

    def per_request(self):
        return 1 / float(self.node.exec(self.name, WRK))


def rounds(sides, measure, count):
    for side in sides:
        measure(side)
    found = [[measure(side) for side in (sides if number % 2 else sides[::-1])][:: 1 if number % 2 else -1] for number in range(count)]
    plain, ours = zip(*found)
    return statistics.median(plain), statistics.median(ours), statistics.median(b / a for a, b in found)


def main():
    begin("containerd", "ctr", "runc", "skopeo")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    work = pathlib.Path(tempfile.mkdtemp(prefix="programs-bench.", dir="/var/tmp"))
    node = None
    try:
        files = deltas(work, "debian-programs")
        node = Node(work / "node")
        node.import_image("debian-programs")
        node.load_image(files)
        sides = [Side(node, "overlayfs"), Side(node, "di3fs")]
        print("| | overlayfs, s | di3fs, s | ratio |\n|---|--:|--:|--:|", flush=True)
        for name, script in PROGRAMS:
            plain, ours, ratio = rounds(sides, lambda side: side.seconds(script), count)
            print(f"| {name} | {plain:.3f} | {ours:.3f} | {ratio:.3f} |", flush=True)
        plain, ours, ratio = rounds(sides, Side.per_request, count)
        print(f"| nginx under wrk, 10,000 requests | {plain * 1e4:.3f} | {ours * 1e4:.3f} | {ratio:.3f} |", flush=True)
    finally:
        if node:
            node.forget()
            node.stop()
        shutil.rmtree(work, ignore_errors=True)


main()
