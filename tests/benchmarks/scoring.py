"""Importance-sampled scoring against bare decoder, likelihood and prior passes of the same size.

OMP_NUM_THREADS=1 python tests/benchmarks/scoring.py [--images 4] [--samples 512]
"""

import argparse

import pyro
import torch
from timing import interleaved, print_table

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.models import binary_vlae
from pyro_vlae.reproducible import evaluation_mode


def main() -> None:
    """Time both on the same number of codes, in chunks of the same size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    model, guide = binary_vlae().to(device), GaussianGuide().to(device)
    x = torch.rand(options.images, 1, 28, 28, device=device).round()
    model(x), guide(x)
    codes = options.images * options.samples
    z = torch.randn(options.chunk, 64, device=device)
    images = x[:1].expand(options.chunk, -1, -1, -1)

    def bare() -> None:
        with evaluation_mode(model):  # without TF32, like the estimator
            for _ in range(codes // options.chunk):
                likelihood = model.likelihood(model.decoder(z))
                likelihood.log_prob(images) + model.prior().log_prob(z.clone())

    calls = {
        "bare passes": bare,
        "marginal_log_likelihood": lambda: marginal_log_likelihood(
            model, guide, x, options.samples, max_codes_per_chunk=options.chunk
        ),
    }
    with pyro.validation_enabled(False):
        times = interleaved(calls, options.repeats, device, warm_up=1)
    print_table(f"{options.images} images x {options.samples} samples, {device}", times)


if __name__ == "__main__":
    with torch.no_grad():
        main()
