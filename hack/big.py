#!/usr/bin/env python3
"""Makes a pair of large files for the tests of memory and time: big.py OLD NEW MEGABYTES [SEED].

NEW is OLD after the edits that a rebuild makes: bytes changed in place everywhere, runs inserted and removed, blocks moved, some of
them new. Deterministic: the same arguments give the same bytes. About 100 MB/s.
"""

import random
import sys

CHUNK = 1 << 20


def chunk(seed: int, number: int) -> bytes:
    """One megabyte that compresses to roughly half: skewed byte values, with runs of zeros."""
    rng = random.Random(seed * 1_000_003 + number)
    table = bytes(min(value // 8 if value < 200 else value, 255) for value in range(256))
    out = bytearray(rng.randbytes(CHUNK).translate(table))
    for _ in range(40):
        at = rng.randrange(CHUNK - 4096)
        length = rng.randint(16, 4096)
        out[at : at + length] = bytes(length)
    return bytes(out)


def edited(data: bytes, rng: random.Random) -> bytes:
    """About 200 changed addresses, a few insertions and removals."""
    out = bytearray(data)
    for _ in range(200):
        at = rng.randrange(len(out) - 8)
        out[at : at + 3] = rng.randbytes(3)
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(out))
        out[at:at] = rng.randbytes(rng.randint(1, 3000))
        at = rng.randrange(len(out) - 4096)
        del out[at : at + rng.randint(1, 3000)]
    return bytes(out)


def main(old: str, new: str, megabytes: int, seed: int) -> None:
    rng = random.Random(seed)
    order = list(range(megabytes))
    for _ in range(megabytes // 50):
        order.insert(rng.randrange(megabytes), order.pop(rng.randrange(megabytes)))
    with open(old, "wb") as out:
        for number in range(megabytes):
            out.write(chunk(seed, number))
    with open(new, "wb") as out:
        for number in order:
            share = rng.random()
            if share < 0.01:
                out.write(chunk(seed + 1, number))
            elif share < 0.6:
                out.write(edited(chunk(seed, number), rng))
            else:
                out.write(chunk(seed, number))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__.splitlines()[0])
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) == 5 else 1)
