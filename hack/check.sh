#!/usr/bin/env bash
# Everything that can be judged without running the code: `make check`.
. "$(dirname "$0")/lib.sh"
cd "$REPO"
cargo=${CARGO:-cargo}

step() { printf -- '-- %s\n' "$*"; }

# Cargo-deny is built from crates.io once, into the cache.
deny() {
    local root=$CACHE/cargo-tools
    if ! command -v cargo-deny >/dev/null && [ ! -x "$root/bin/cargo-deny" ]; then
        say "building cargo-deny (minutes, once)"
        env -u CARGO_TARGET_DIR "$cargo" install --quiet --locked --root "$root" cargo-deny
    fi
    PATH=$PATH:$root/bin "$cargo" deny --all-features check --hide-inclusion-graph bans licenses sources
}

members_opt_into_lints() {
    local manifest status=0
    for manifest in $("$cargo" metadata --format-version 1 --no-deps | jq -r '.packages[].manifest_path'); do
        if ! grep -A 1 -Fx '[lints]' "$manifest" | grep -qFx 'workspace = true'; then
            say "$manifest: does not opt into the workspace's lints"
            status=1
        fi
    done
    return $status
}

step formatting
"$cargo" fmt --all --check
step lints
members_opt_into_lints
"$cargo" clippy --workspace --all-targets --quiet -- -D warnings
# The tiers are test = false, so --all-targets leaves them out.
"$cargo" clippy -p d4c-integration --test '*' --quiet -- -D warnings
step 'fuzz targets'
"$cargo" fmt --manifest-path fuzz/Cargo.toml --check
# Some targets use what is there for them alone.
RUSTFLAGS='--cfg fuzzing' "$cargo" clippy --manifest-path fuzz/Cargo.toml --bins --lib --locked --quiet -- -D warnings
hack/fuzz.sh 0
step scripts
shellcheck .ci/run hack/*.sh hack/images/*.sh integration/suite/*.sh
step 'bans, licences, sources (advisories need their database: cargo deny check advisories)'
with_lock cargo-tools deny
