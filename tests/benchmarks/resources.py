"""CPU time and peak memory of training and sampling the paper's binary model.

    python tests/benchmarks/resources.py 64

The argument is the batch size. CPU time hardly depends on other processes.
"""

import resource
import sys
import time

import pyro
import torch
from pyro.infer import SVI

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim
from pyro_vlae.models import binary_vlae

STEPS = 10


def main() -> None:
    """Print seconds of CPU time and the peak of the process's memory."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    size = int(sys.argv[1])
    model, guide = binary_vlae(), GaussianGuide()
    svi = SVI(model, guide, JointOptim(torch.optim.Adamax, {"lr": 0.002}), FreeBitsELBO(7.84))
    x = torch.rand(size, 1, 28, 28).round()
    svi.step(x)
    start = time.process_time()
    for _ in range(STEPS):
        svi.step(x)
    step = (time.process_time() - start) / STEPS
    start = time.process_time()
    with torch.no_grad():
        model(batch_size=size)
    sample = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"batch {size}: {step:.2f} s of CPU time for a training step ({size / step:.0f} images/s), "
        f"{sample:.2f} s to sample as many images, peak memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
