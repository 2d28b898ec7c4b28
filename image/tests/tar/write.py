"""Writes a tree with Python's tarfile: write.py FORMAT TREE OUT."""

import sys
import tarfile

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def main(name, tree, out):
    with tarfile.open(out, "w", format=FORMATS[name]) as tar:
        add(tar, tree, "./")


def add(tar, path, name):
    import os

    for entry in sorted(os.listdir(path)):
        inner = os.path.join(path, entry)
        try:
            tar.add(inner, name + entry, recursive=False)
        except ValueError as error:  # A name that the format cannot hold: the member is left out.
            print("write.py: left out:", ascii(error), file=sys.stderr)
        if os.path.isdir(inner) and not os.path.islink(inner):
            add(tar, inner, name + entry + "/")


main(*sys.argv[1:])
