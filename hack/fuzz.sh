#!/usr/bin/env bash
# Runs every fuzz target of fuzz/ for so many seconds: fuzz.sh SECONDS [TARGET…]; with 0 it only builds them.
#
# The targets are libFuzzer programs. The coverage instrumentation that cargo-fuzz would pass to a nightly compiler is asked for by stable flags here,
# so the pinned toolchain does.
. "$(dirname "$0")/lib.sh"

seconds=${1:?fuzz.sh SECONDS [TARGET…]}
shift
cd "$REPO/fuzz"
target_dir=${CARGO_TARGET_DIR:-$REPO/target}/fuzz
export RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
host=$(rustc -vV | sed -n 's/^host: //p')
"${CARGO:-cargo}" build --release --bins --target-dir "$target_dir" --target "$host"
[ "$seconds" != 0 ] || exit 0

[ $# -gt 0 ] || mapfile -t targets < <(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"/\1/p' Cargo.toml)
[ $# = 0 ] || targets=("$@")
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    seeds=()
    [ ! -d "seeds/$target" ] || seeds=("seeds/$target")
    log=$(mktemp)
    # -rss_limit_mb is what an input may cost: a parser that allocates what a hostile header asks for fails here.
    if ! "$target_dir/$host/release/$target" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -max_len=65536 -artifact_prefix="artifacts/$target/" \
        "corpus/$target" "${seeds[@]}" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "$target failed: the input is in fuzz/artifacts/$target"
    fi
    printf 'fuzz %s: %s\n' "$target" "$(tail -n 1 "$log")"
    rm "$log"
done
