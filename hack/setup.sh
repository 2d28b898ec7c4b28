#!/usr/bin/env bash
# Installs what this repository needs on Debian 12 or 13 and Ubuntu 24.04: setup.sh [demo|all]
#   demo   what building and `make demo` need
#   all    also what the checks, tests and benches need (the default)
# Asks nothing, may be run again at any time (a second when all is there), starts and enables no service.
. "$(dirname "$0")/lib.sh"

# package:command; a command that is there already, from whatever package, is taken as it is: Debian's containerd would remove Docker's.
demo_packages="
    gcc:gcc g++:g++ libc6-dev: make:make ca-certificates: python3:python3 jq:jq zstd:zstd
    containerd:containerd runc:runc skopeo:skopeo umoci:umoci docker-registry:docker-registry debootstrap:debootstrap
    debian-archive-keyring:"
all_packages="$demo_packages
    libarchive-tools:bsdtar tar:tar busybox-static: qemu-system-x86:qemu-system-x86_64
    acl:setfacl attr:setfattr libcap2-bin:setcap e2fsprogs:mkfs.ext4
    npm:npm python3-pip:pip3 xdelta3:xdelta3 bzip2:bzip2 xz-utils:xz shellcheck:shellcheck openssl:openssl
    curl:curl"

case ${1:-all} in
    demo) wanted=$demo_packages ;;
    all) wanted=$all_packages ;;
    *) die "demo or all, not $1" ;;
esac

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)

# Puts into `missing` the packages that are not there.
find_missing() {
    local item package command
    missing=()
    for item in $wanted; do
        package=${item%%:*} command=${item#*:}
        if [ -n "$command" ] && command -v "$command" >/dev/null; then continue; fi
        if [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]]; then continue; fi
        missing+=("$package")
    done
}

apt() {
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# Packages that bring a service would start and enable it. policy-rc.d keeps it from starting; what was enabled by this is disabled again.
install_missing() {
    local policy=/usr/sbin/policy-rc.d policy_is_ours='' unit
    say "installing ${missing[*]}"
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" install -m 0755 /dev/stdin $policy
        policy_is_ours=1
        # shellcheck disable=SC2064
        trap "${sudo[*]} rm -f $policy" EXIT
    fi
    apt update
    apt install -y --no-install-recommends "${missing[@]}" >&2
    for unit in containerd docker-registry; do
        if [[ " ${missing[*]} " == *" $unit "* ]]; then
            "${sudo[@]}" systemctl --quiet disable $unit.service ||
                "${sudo[@]}" rm -f "/etc/systemd/system/multi-user.target.wants/$unit.service"
        fi
    done
    if [ -n "$policy_is_ours" ]; then
        "${sudo[@]}" rm -f $policy
        trap - EXIT
    fi
}

# The Rust that rust-toolchain.toml pins, through rustup; apt has rustup from Debian 13 and Ubuntu 24.04 on.
setup_rust() {
    PATH=$PATH:$HOME/.cargo/bin
    if ! command -v cargo >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
        apt install -y --no-install-recommends rustup >&2
    fi
    if ! command -v cargo >/dev/null && ! command -v rustup >/dev/null; then
        lacking+=("Rust: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal")
    elif command -v rustup >/dev/null && ! (cd "$REPO" && rustup which cargo >/dev/null 2>&1); then
        (cd "$REPO" && rustup toolchain install)
    fi
}

# Go builds containerd 2.x and containerd's own test suites, nothing else.
setup_go() {
    local wanted
    wanted=$(sed -n 's/^go //p' "$REPO/integration/containerd2/go.mod")
    find_go "$wanted" || lacking+=("Go $wanted or newer (or any from 1.21 on with the module proxy in reach), for the tests on containerd 2.x: https://go.dev/dl, unpacked to /usr/local/go; Debian 13, Ubuntu 24.04: apt-get install golang-go")
}

command -v dpkg-query >/dev/null || die "only Debian and Ubuntu are known here: install the like of these by hand:$wanted"
lacking=()
find_missing
if [ ${#missing[@]} -gt 0 ]; then install_missing; fi
setup_rust
if [ "${1:-all}" = all ]; then setup_go; fi
for line in "${lacking[@]}"; do say "still to be installed: $line"; done
[ ${#lacking[@]} = 0 ]
