# shellcheck shell=bash
# Python packages with Cython parts (scikit-learn, pandas) and Rust parts (cryptography, pydantic-core) on Debian's base: two patch releases of each.
# shellcheck disable=SC2034
recipe=1

need python3 tar
import_base security
# make_science TAG REQUIREMENT…
make_science() {
    pip_install "$WORK/$1/usr/local/lib/python3.11/dist-packages" "${@:2}"
    add_layer "$1" "$WORK/$1"
}
make_science v1 scikit-learn==1.5.1 pandas==2.2.2 cryptography==43.0.0 pydantic-core==2.23.3
make_science v2 scikit-learn==1.5.2 pandas==2.2.3 cryptography==43.0.1 pydantic-core==2.23.4
umoci rm --image "$LAYOUT:base"
