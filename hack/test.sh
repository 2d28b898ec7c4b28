#!/usr/bin/env bash
# All tests, stage by stage, with the time of each: `make test`.
. "$(dirname "$0")/lib.sh"
cd "$REPO"

stage() {
    local name=$1 start=$SECONDS
    shift
    printf '== %s\n' "$name"
    "$@"
    printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

stage setup hack/setup.sh
stage build make build
stage unit "${CARGO:-cargo}" test --workspace
stage fuzz hack/fuzz.sh "${D4C_FUZZ_SECONDS:-30}"
stage images hack/tiers.sh --prepare
stage integration hack/tiers.sh
stage suites integration/suite/run.sh
printf '== all: %d s\n' $SECONDS
