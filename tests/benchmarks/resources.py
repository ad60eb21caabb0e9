"""Time and peak memory of training and sampling the paper's binary model.

    python tests/benchmarks/resources.py 64 [cuda]

The first argument is the batch size. On a CPU the time is CPU time, which hardly depends on other
processes; on a GPU, it is wall-clock time, and the memory is that of PyTorch's allocator.
"""

import resource
import sys
import time
from collections.abc import Callable

import pyro
import torch
from pyro.infer import SVI
from timing import synchronize

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim
from pyro_vlae.models import binary_vlae

STEPS = 10


def main() -> None:
    """Print the seconds of a step and of sampling, and the peak of the memory."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    size = int(sys.argv[1])
    device = torch.device(*sys.argv[2:] or ["cpu"])
    model, guide = binary_vlae().to(device), GaussianGuide().to(device)
    svi = SVI(model, guide, JointOptim(torch.optim.Adamax, {"lr": 0.002}), FreeBitsELBO(7.84))
    x = torch.rand(size, 1, 28, 28, device=device).round()
    step = seconds(lambda: svi.step(x), STEPS, device)
    with torch.no_grad():
        sample = seconds(lambda: model(batch_size=size), 1, device)
    if device.type == "cuda":
        kind, peak = "wall-clock time", torch.cuda.max_memory_allocated() / 2**30
    else:
        kind, peak = "CPU time", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"batch {size}: {step:.3f} s of {kind} for a training step ({size / step:.0f} images/s), "
        f"{sample:.3f} s to sample as many images, peak memory {peak:.2f} GiB"
    )


def seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Mean time of a call, after one that is not timed."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    call()
    synchronize(device)
    start = clock()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (clock() - start) / repeats


if __name__ == "__main__":
    main()
