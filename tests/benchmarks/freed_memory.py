"""Time of training and scoring when freed memory is kept, against the C library's default.

OMP_NUM_THREADS=1 python tests/benchmarks/freed_memory.py [--batch-size 64] [--repeats 5]

The setting lasts for the life of a process, so each measurement has one of its own, and the
two settings take turns.
"""

import argparse
import multiprocessing
import statistics
import time

import pyro
import torch
from pyro.infer import SVI
from timing import print_table

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim, marginal_log_likelihood
from pyro_vlae.models import binary_vlae
from pyro_vlae.training import keep_freed_memory


def measure(keep: bool, batch_size: int, steps: int) -> tuple[float, float]:
    """Milliseconds of a step of SVI, and of scoring four images with 256 samples each."""
    if keep and not keep_freed_memory():
        raise RuntimeError("freed memory can be kept with glibc only")
    pyro.set_rng_seed(0)
    model, guide = binary_vlae(), GaussianGuide()
    x = torch.bernoulli(torch.full((batch_size, 1, 28, 28), 0.2))
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.001}, ema_decay=0.998)
    svi = SVI(model, guide, optimizer, FreeBitsELBO(7.84))
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        svi.step(x)
        times.append(1e3 * (time.perf_counter() - start))
    start = time.perf_counter()
    marginal_log_likelihood(model, guide, x[:4], 256)
    return statistics.median(times[2:]), 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Measure both in turn, and print medians over the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    names = {"default": False, "freed memory kept": True}
    training: dict[str, list[float]] = {name: [] for name in names}
    scoring: dict[str, list[float]] = {name: [] for name in names}
    context = multiprocessing.get_context("spawn")
    for _ in range(options.repeats):
        for name, keep in names.items():
            with context.Pool(1) as pool:
                step, score = pool.apply(measure, (keep, options.batch_size, options.steps))
            training[name].append(step)
            scoring[name].append(score)
    print_table(f"One SVI step, batch {options.batch_size}, cpu", training)
    print_table("Scoring 4 images x 256 samples, cpu", scoring)


if __name__ == "__main__":
    main()
