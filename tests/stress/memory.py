"""Memory over many SVI steps, and over many models built and dropped.

The steps leave nothing to Python's garbage collector. Models do, since a transform of Pyro and its
inverse refer to each other, so memory is read after a collection.

OMP_NUM_THREADS=1 python tests/stress/memory.py --count 3000 --models 300
"""

import argparse
import ctypes
import gc
import sys
import weakref
from pathlib import Path
from statistics import median

import pyro
import torch
from pyro.infer import SVI

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim
from pyro_vlae.models import binary_vlae

ALLOWED = 4.0, 10.0  # MB by which the second median may exceed the first; a model takes 50


def resident():
    """Memory in use, in MB, without what is free but not yet returned to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024


def build():
    model = binary_vlae(masked_layers=2, pixelcnn_channels=4)
    return model, GaussianGuide()


def steps(count, x):
    """Memory after each tenth of `count` steps of SVI."""
    model, guide = build()
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 1e-3}, ema_decay=0.99)
    svi = SVI(model, guide, optimizer, FreeBitsELBO(1.0))
    used = []
    for step in range(count):
        svi.step(x)
        if (step + 1) % max(1, count // 10) == 0:
            used.append(resident())
    return used


def models(count, x):
    """Memory after each tenth of `count` models trained for a step, and how many are alive."""
    used, alive = [], []
    for number in range(count):
        pyro.clear_param_store()
        model, guide = build()
        optimizer = JointOptim(torch.optim.Adamax, {"lr": 1e-3}, ema_decay=0.99)
        SVI(model, guide, optimizer, FreeBitsELBO(1.0)).step(x)
        alive.append(weakref.ref(model))
        if (number + 1) % max(1, count // 10) == 0:
            gc.collect()
            used.append(resident())
    return used, sum(reference() is not None for reference in alive)


def main(arguments=None):
    """Measure both; the exit status is 1 if memory grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3000, help="steps")
    parser.add_argument("--models", type=int, default=300)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)
    x = torch.rand(4, 1, 28, 28).round()
    by_steps = steps(options.count, x)
    by_models, alive = models(options.models, x)
    halves = [(used[: len(used) // 2], used[len(used) // 2 :]) for used in (by_steps, by_models)]
    # Of medians: a leak raises all later readings, other work of the process a single one.
    grown = [median(second) - median(first) for first, second in halves]
    print(f"{options.count} steps: {[round(mb) for mb in by_steps]} MB")
    print(
        f"{options.models} models: {[round(mb) for mb in by_models]} MB, {alive} alive at the end"
    )
    print(
        f"median of the second half over that of the first: {grown[0]:+.1f} and {grown[1]:+.1f} MB"
    )
    return int(any(mb > most for mb, most in zip(grown, ALLOWED, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
