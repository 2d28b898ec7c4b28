#!/usr/bin/env bash
# Installs what `make build` left: install.sh BIN-DIR PREFIX [DESTDIR]
. "$(dirname "$0")/lib.sh"

bin=${1:?} prefix=${2:?} root=${3:-}$2
[ -x "$bin/d4c" ] || die "no $bin/d4c: run make build first"

for name in d4c di3fs-snapshotter di3fs-virtiofsd; do
    [ -x "$bin/$name" ] || continue
    install -D -m 0755 "$bin/$name" "$root/bin/$name"
    # Two thirds are lines of source for profilers.
    strip --strip-debug "$root/bin/$name"
done
for unit in "$REPO"/plugin/systemd/*.service; do
    sed "s|/usr/local/bin/|$prefix/bin/|" "$unit" | install -D -m 0644 /dev/stdin "$root/lib/systemd/system/$(basename "$unit")"
done
"$bin/d4c" completions bash | install -D -m 0644 /dev/stdin "$root/share/bash-completion/completions/d4c"
"$bin/d4c" completions zsh | install -D -m 0644 /dev/stdin "$root/share/zsh/site-functions/_d4c"
"$bin/d4c" completions fish | install -D -m 0644 /dev/stdin "$root/share/fish/vendor_completions.d/d4c.fish"
install -d "$root/share/man/man1"
"$bin/d4c" man "$root/share/man/man1"
