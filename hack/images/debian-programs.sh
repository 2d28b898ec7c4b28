# shellcheck shell=bash
# Programs that are run on an updated image, on Debian, base and packages as two layers: PostgreSQL with pgbench, nginx with wrk, Node.js, Python,
# the C compiler, stress-ng. v1 as released; v2 the same image built again with Debian's security updates.
# shellcheck disable=SC2034
recipe=2

# make_programs TAG BASE SUITES
make_programs() {
    local tag=$1 base=$2 suites=$3 root=$WORK/$1/rootfs
    import_base "$base"
    open_image base "$tag" "$WORK/$tag"
    # shellcheck disable=SC2086
    write_sources "$root" $suites
    apt_install "$root" postgresql nginx-light wrk nodejs python3 gcc libc6-dev stress-ng
    end_layer "$tag" "$WORK/$tag"
    umoci config --image "$LAYOUT:$tag" --config.cmd bash \
        --config.env PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    umoci rm --image "$LAYOUT:base"
    rm -rf "${WORK:?}/$tag"
}

make_programs v1 release release
make_programs v2 security 'release security'
