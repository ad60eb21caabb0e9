"""Images per second of an SVI step: the layout of activations, batch size, precision, compilation.

OMP_NUM_THREADS=2 python tests/benchmarks/training_throughput.py [--precision bf16] [--compiled]
"""

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable
from unittest import mock

import pyro
import torch
from pyro.infer import SVI
from timing import interleaved, print_table

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim, initialize
from pyro_vlae.models import binary_vlae
from pyro_vlae.nn import blocks, encoders, masked_resnet
from pyro_vlae.training import HalfPrecision, compiled, resolve_precision
from pyro_vlae.training.acceleration import PRECISIONS


def half_precision_step(svi: SVI, x: torch.Tensor) -> Callable[[], None]:
    """A step with the networks in bfloat16."""
    half_precision = HalfPrecision([svi.model, svi.guide])

    def step() -> None:
        with half_precision:
            svi.step(x)

    return step


def main() -> None:
    """Time steps with activations as PyTorch lays them out, and as we do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of another row")
    parser.add_argument("--compiled", action="store_true", help="also under torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    x = torch.rand(options.batch_size, 1, 28, 28, device=device).round()
    model, guide = binary_vlae().to(device), GaussianGuide().to(device)
    initialize(model, guide, x)  # once, so that all start from the same weights

    def svi() -> SVI:
        optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.002}, ema_decay=0.998)
        return SVI(copy.deepcopy(model), copy.deepcopy(guide), optimizer, FreeBitsELBO(7.84))

    plain, ours = svi(), svi()

    def plain_step() -> None:
        with contextlib.ExitStack() as stack:
            for module in (blocks, encoders, masked_resnet):
                stack.enter_context(mock.patch.object(module, "image_layout", lambda maps: maps))
            plain.step(x)

    with pyro.validation_enabled(False), contextlib.ExitStack() as stack:
        calls = {"contiguous activations": plain_step, "ours": lambda: ours.step(x)}
        bf16 = resolve_precision(options.precision, device) == "bf16"
        if bf16:
            calls["ours, bf16"] = half_precision_step(svi(), x)
        if options.compiled:
            fast = svi()
            # As `fit` does.
            mode = "reduce-overhead" if device.type == "cuda" else None
            stack.enter_context(compiled([fast.model, fast.guide], mode=mode))
            name, step = "ours, compiled", lambda: fast.step(x)
            if bf16:
                name, step = "ours, bf16, compiled", half_precision_step(fast, x)
            start = time.perf_counter()
            step()
            print(f"compilation and the first step: {time.perf_counter() - start:.0f} s")
            calls[name] = step
        times = interleaved(calls, options.repeats, device)
    print_table(f"One SVI step, batch {options.batch_size}, {device}", times)
    for name, values in times.items():
        print(f"{name}: {1e3 * options.batch_size / statistics.median(values):.0f} images/s")


if __name__ == "__main__":
    main()
