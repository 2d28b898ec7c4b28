# shellcheck shell=bash
# nginx on Debian, base and nginx as two layers: v1 as released; v2 the same image built again with Debian's security updates, so both layers
# change; v3 one more module of nginx and a changed site on the base of v2, so the upper layer changes alone.
# shellcheck disable=SC2034
recipe=1

# make_nginx TAG BASE SUITES PACKAGE…
make_nginx() {
    local tag=$1 base=$2 suites=$3 root=$WORK/$1/rootfs
    import_base "$base"
    open_image base "$tag" "$WORK/$tag"
    # shellcheck disable=SC2086
    write_sources "$root" $suites
    apt_install "$root" "${@:4}"
    printf 'daemon off;\n' >"$root/etc/nginx/modules-enabled/00-foreground.conf"
    printf '<h1>%s</h1>\n' "$tag" >"$root/var/www/html/index.html"
    ln -sf /dev/stdout "$root/var/log/nginx/access.log"
    ln -sf /dev/stderr "$root/var/log/nginx/error.log"
    end_layer "$tag" "$WORK/$tag"
    umoci config --image "$LAYOUT:$tag" --config.cmd nginx --config.exposedports 80/tcp \
        --config.stopsignal SIGQUIT --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    umoci rm --image "$LAYOUT:base"
    rm -rf "${WORK:?}/$tag"
}

make_nginx v1 release release nginx
make_nginx v2 security 'release security' nginx
make_nginx v3 security 'release security updates' nginx libnginx-mod-http-headers-more-filter
