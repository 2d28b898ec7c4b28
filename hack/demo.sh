#!/usr/bin/env bash
# The main job on real input (make demo): Debian's nginx image as released is on a node; its security update comes once as containerd pulls it, once
# as a delta. Everything private: registry, containerd, snapshotter and their sockets live in a temporary folder and end with this script.
. "$(dirname "$0")/lib.sh"

bin_dir=${D4C_BIN_DIR:-${CARGO_TARGET_DIR:-$REPO/target}/release}
name=docker.io/library/nginx:1.22
old=v1 new=v2

need_root
need containerd ctr runc docker-registry skopeo jq
[ -x "$bin_dir/d4c" ] || die "no $bin_dir/d4c: run make build"

work=$(mktemp -d /tmp/d4c-demo.XXXXXX)
daemons=()
finish() {
    local pid point
    # What no container lies on any more is not left to a next snapshotter.
    ctr images rm --sync "$name" >/dev/null 2>&1 || true
    # The latest first: containerd before the snapshotter that it speaks to.
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        pid=${daemons[i]}
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.05
        done
        kill -9 "$pid" 2>/dev/null || true
    done
    awk -v root="$work/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r point; do umount -l "$point"; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# start NAME COMMAND…: a daemon that logs to NAME.log.
start() {
    local log=$work/$1.log
    shift
    "$@" >"$log" 2>&1 &
    daemons+=($!)
}

# wait_for NAME COMMAND…: until the command succeeds.
wait_for() {
    local name=$1
    shift
    for _ in $(seq 200); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    tail -n 20 "$work/$name.log" >&2
    die "$name does not answer"
}

now() { date +%s.%N; }
since() { awk -v start="$1" -v end="$(now)" 'BEGIN { printf "%.2f", end - start }'; }
ctr() { command ctr --address "$work/containerd.sock" "$@"; }
d4c() { "$bin_dir/d4c" --address "$work/containerd.sock" --control "$work/control.sock" --progress none "$@"; }

say "making the images (once; minutes)"
layout=$("$REPO/hack/images.sh" debian-nginx | tail -n 1)

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '%s\n' 'version: 0.1' 'log: {level: error, accesslog: {disabled: true}}' "storage: {filesystem: {rootdirectory: $work/registry}}" \
    "http: {addr: '127.0.0.1:$port'}" >"$work/registry.yml"
start registry docker-registry serve "$work/registry.yml"
wait_for registry skopeo copy --quiet --dest-tls-verify=false "oci:$layout:$old" "docker://127.0.0.1:$port/nginx:$old"
skopeo copy --quiet --dest-tls-verify=false "oci:$layout:$new" "docker://127.0.0.1:$port/nginx:$new"

start snapshotter "$bin_dir/di3fs-snapshotter" --root "$work/di3fs" --address "$work/snapshotter.sock" --control "$work/control.sock" \
    --containerd "$work/containerd.sock"
cat >"$work/containerd.toml" <<EOF
version = 2
root = "$work/containerd"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "$work/containerd.sock"
[ttrpc]
address = "$work/containerd.sock.ttrpc"
[debug]
level = "warn"
[proxy_plugins.di3fs]
type = "snapshot"
address = "$work/snapshotter.sock"
EOF
start containerd containerd --config "$work/containerd.toml"
wait_for containerd ctr version

say "the usual way: pull, unpack, run"
ctr images pull --plain-http "127.0.0.1:$port/nginx:$old" >"$work/pull.log" 2>&1 || { cat "$work/pull.log" >&2; die "the pull failed"; }
blobs() { skopeo inspect --raw "oci:$layout:$1" | jq -r '(.layers + [.config])[] | "\(.digest) \(.size)"' | sort; }
pull_bytes=$(($(comm -13 <(blobs $old) <(blobs $new) | awk '{ sum += $2 } END { print sum + 0 }') + $(skopeo inspect --raw "oci:$layout:$new" | wc -c)))
began=$(now)
ctr images pull --plain-http "127.0.0.1:$port/nginx:$new" >"$work/pull.log" 2>&1 || { cat "$work/pull.log" >&2; die "the pull failed"; }
ctr run --rm "127.0.0.1:$port/nginx:$new" d4c-demo-pull nginx -v >"$work/pull.out" 2>&1 || { cat "$work/pull.out" >&2; die "ctr run failed"; }
pull_seconds=$(since "$began")

say "d4c: making base and delta"
d4c convert "oci:$layout:$old" "$work/base.cdimg" >/dev/null
began=$(now)
d4c diff "oci:$layout:$old" "oci:$layout:$new" "$work/update.cdimg" >/dev/null
diff_seconds=$(since "$began")
delta_bytes=$(stat -c %s "$work/update.cdimg")

say "d4c: the base is on the node; load the delta, run"
d4c load "$work/base.cdimg" --name "$name" >/dev/null
# As it is on a node where it ran for a while.
d4c prefetch "$name" >/dev/null
began=$(now)
d4c load "$work/update.cdimg" --name "$name" >/dev/null
ctr run --rm --snapshotter di3fs "$name" d4c-demo-delta nginx -v >"$work/delta.out" 2>&1 || { cat "$work/delta.out" >&2; die "ctr run failed"; }
delta_seconds=$(since "$began")

digest=$(skopeo inspect --raw "oci:$layout:$new" | sha256sum | cut -d ' ' -f 1)
loaded=$(ctr images ls "name==$name" | awk 'NR == 2 { print $3 }')
[ "$loaded" = "sha256:$digest" ] || die "the image has the digest $loaded, not sha256:$digest"

printf '\n%-28s %15s %15s\n' "Debian's nginx, $old to $new" "usual pull" "d4c delta"
printf '%-28s %15s %15s\n' "bytes to fetch" "$pull_bytes" "$delta_bytes"
printf '%-28s %15s %15s\n' "seconds to a container" "$pull_seconds" "$delta_seconds"
printf '\n%s times fewer bytes; the delta was made in %s s; the image keeps its digest %s\n' \
    "$(awk -v a="$pull_bytes" -v b="$delta_bytes" 'BEGIN { printf "%.0f", a / b }')" "$diff_seconds" "$loaded"
printf 'from inside the updated container: %s\n' "$(grep nginx "$work/delta.out")"
