#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/, each for so many seconds: fuzz.sh SECONDS [TARGET…]; with 0 it only builds them.
#
# The targets are libFuzzer programs. The instrumentation that cargo-fuzz asks of a nightly compiler is asked for by flags that the pinned one has.
# Inputs that reach new code are kept in the cache, so that the next run starts from them; one that fails stays in the cache too, and is named.
. "$(dirname "$0")/lib.sh"

seconds=${1:?fuzz.sh SECONDS [TARGET…]}
shift
cd "$REPO/fuzz"
target_dir=${CARGO_TARGET_DIR:-$REPO/target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
programs=$target_dir/$host/release
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
# --target keeps the flags from build scripts, which are not linked to libFuzzer.
RUSTFLAGS=$flags "${CARGO:-cargo}" build --locked --release --bins --target-dir "$target_dir" --target "$host"
[ "$seconds" != 0 ] || exit 0

if [ $# -gt 0 ]; then
    targets=("$@")
else
    mapfile -t targets < <(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"/\1/p' Cargo.toml | grep -vFx seeds)
fi

# run TARGET: in a folder of its own, its log kept until the next run.
run() {
    local target=$1 status=0 log=$work/$1.log found=$work/found/$1 corpus=$work/corpus/$1
    mkdir -p "$corpus" "$found"
    "$programs/$target" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=20 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="$found/" "$corpus" "$seeds/$target" >"$log" 2>&1 || status=$?
    if [ "$status" != 0 ]; then
        tail -n 40 "$log" >&2
        die "$target failed (status $status) on $(sed -n 's/.*Test unit written to //p' "$log")"
    fi
    printf 'fuzz %s: %s executions, %s inputs kept\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$(find "$corpus" -type f | wc -l)"
}

# As many at a time as there are cores; all of them are run, whichever fails.
fuzz() {
    local target running=() failed=0
    for target in "${targets[@]}"; do
        [ -x "$programs/$target" ] || die "no target $target"
        if [ ${#running[@]} -ge "$(nproc)" ]; then
            wait "${running[0]}" || failed=1
            running=("${running[@]:1}")
        fi
        run "$target" &
        running+=($!)
    done
    for target in "${running[@]}"; do wait "$target" || failed=1; done
    [ "$failed" = 0 ]
}

make_cache
work=$CACHE/fuzz
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
# What libFuzzer says of functions of sanitizers that are not linked is of no interest.
"$programs/seeds" "$seeds" 2> >(grep -v '^WARNING: Failed to find function' >&2) || die "no seeds"
with_lock fuzz fuzz
