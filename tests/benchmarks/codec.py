"""Lossless compression of images against sampling as many, and lossy compression per candidate.

OMP_NUM_THREADS=1 python tests/benchmarks/codec.py [--images 256] [--log2-candidates 13]
"""

import argparse
import warnings

import pyro
import torch
from timing import interleaved, print_table

from pyro_vlae.codec import LosslessCodec, LossyCodec
from pyro_vlae.models import load_pretrained


def main() -> None:
    """Time all in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--log2-candidates", type=int, default=13)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # images of too high a rate for so few candidates
    model, guide = load_pretrained("static-mnist")
    pyro.set_rng_seed(0)
    x = model(batch_size=options.images)
    lossless, lossy = LosslessCodec(model, guide), LossyCodec(model, guide, options.log2_candidates)
    data, few = lossless.compress(x), lossy.compress(x)
    prior = model.prior()
    calls = {
        "sampling": lambda: model(batch_size=options.images),
        "lossless: compress": lambda: lossless.compress(x, verify=False),
        "lossless: decompress": lambda: lossless.decompress(data),
        f"lossy: compress, 2^{options.log2_candidates}": lambda: lossy.compress(x),
        "  of this, candidates": lambda: prior.sample((2**options.log2_candidates,)),
        "lossy: decompress": lambda: lossy.decompress(few),
    }
    with pyro.validation_enabled(False):
        times = interleaved(calls, options.repeats, torch.device("cpu"), warm_up=1)
    print_table(f"{options.images} images", times)


if __name__ == "__main__":
    with torch.no_grad():
        main()
