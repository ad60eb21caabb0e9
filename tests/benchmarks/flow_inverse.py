"""Sampling the flow prior: our inverse against Pyro's, with the very same weights.

OMP_NUM_THREADS=1 python tests/benchmarks/flow_inverse.py [--batch-size 64] [--device cpu]
"""

import argparse

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
from timing import interleaved, print_table

from pyro_vlae.models import FlowPrior
from pyro_vlae.transforms import IncrementalAffineAutoregressive


def stock(steps: list[AffineAutoregressive], like: torch.Tensor) -> dist.TransformedDistribution:
    """The same distribution as a `FlowPrior` of these steps, with Pyro's own inverse."""
    base = dist.Normal(like.new_zeros(64), like.new_ones(64)).to_event(1)
    return dist.TransformedDistribution(base, [step.inv for step in reversed(steps)])


def main() -> None:
    """Time both on 4 steps of 64 dimensions and 2 x 640 hidden units, and the mean-only prior."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    like = torch.empty(0, device=device)
    steps = [AffineAutoregressive(AutoRegressiveNN(64, [640, 640])).to(device) for _ in range(4)]
    ours = FlowPrior(transforms=[IncrementalAffineAutoregressive(step.arn) for step in steps])
    default = FlowPrior().to(device)
    shape = (options.batch_size,)
    calls = {
        "Pyro's AffineAutoregressive": lambda: stock(steps, like).sample(shape),
        "ours, same weights": lambda: ours.to(device)().sample(shape),
        "our default, mean-only": lambda: default().sample(shape),
    }
    times = interleaved(calls, options.repeats, device)
    print_table(f"{options.batch_size} draws through 4 steps, {device}", times)


if __name__ == "__main__":
    main()
