"""Alter lossless files in random ways: each must be refused, or decode to the very same images.

OMP_NUM_THREADS=1 python tests/benchmarks/altered_files.py [--files 500] [--images 3]
"""

import argparse
import re
import struct
import sys
import zlib
from collections import Counter

import numpy as np
import torch

from pyro_vlae.codec import CodecError, LosslessCodec
from pyro_vlae.models import load_pretrained


def alter(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut, repeat, exchange, or zero a part; half of the time, correct the checksum."""
    kind = rng.integers(5)
    a, b = sorted(rng.integers(len(data), size=2).tolist())
    if kind == 0:
        altered = bytearray(data)
        for position in rng.integers(len(data), size=rng.integers(1, 4)):
            altered[position] ^= 1 << int(rng.integers(8))
        data = bytes(altered)
    elif kind == 1:
        data = data[:a]
    elif kind == 2:
        data = data[:b] + data[a:]
    elif kind == 3:
        data = data[:a] + data[b:] + data[a:b]
    else:
        data = data[:a] + bytes(b - a) + data[b:]
    if rng.random() < 0.5:
        data = data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))
    return data


def main() -> int:
    """Alter files, print what happened to them, and return 1 if an image was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--images", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, guide = load_pretrained("static-mnist")
    torch.manual_seed(0)
    x = model(batch_size=options.images)
    codec = LosslessCodec(model, guide)
    data, rng = codec.compress(x), np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    for _ in range(options.files):
        altered = alter(data, rng)
        try:
            same = torch.equal(codec.decompress(altered), x)
            outcomes["exact" if same else "WRONG"] += 1
        except CodecError as error:
            outcomes["refused: " + re.split(r"[(:]|with |method ", str(error))[0]] += 1
    for outcome, count in outcomes.most_common():
        print(f"{count:5} {outcome}")
    return int("WRONG" in outcomes)


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
