"""Sampling the flow prior: our inverse against Pyro's, with the very same weights.

OMP_NUM_THREADS=1 python tests/benchmarks/flow_inverse.py [--batch-size 64] [--device cpu]
"""

import argparse
from functools import partial

import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
from timing import interleaved, print_table

from pyro_vlae.models import FlowPrior
from pyro_vlae.transforms import IncrementalAffineAutoregressive


def sample(prior: FlowPrior, shape: tuple[int]) -> torch.Tensor:
    """Draw codes."""
    return prior().sample(shape)


def main() -> None:
    """Time both on 4 steps of 64 dimensions and 2 x 640 hidden units, and the mean-only prior."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    networks = [AutoRegressiveNN(64, [640, 640]) for _ in range(4)]
    priors = {
        "Pyro's AffineAutoregressive": FlowPrior(
            transforms=[AffineAutoregressive(n) for n in networks]
        ),
        "ours, same weights": FlowPrior(
            transforms=[IncrementalAffineAutoregressive(n) for n in networks]
        ),
        "our default, mean-only": FlowPrior(),
    }
    shape = (options.batch_size,)
    calls = {name: partial(sample, prior.to(device), shape) for name, prior in priors.items()}
    times = interleaved(calls, options.repeats, device)
    print_table(f"{options.batch_size} draws through 4 steps, {device}", times)


if __name__ == "__main__":
    main()
