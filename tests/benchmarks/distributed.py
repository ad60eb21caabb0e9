"""Images per second of two processes with one thread each against one process with two threads.

python tests/benchmarks/distributed.py [--batch-size 64]

Also the size and time of the all-reduce of the gradients, and its share of a step at 1, 2, 4, and 8
ranks. The shares are a model of the measured times, in which every rank has a core of its own and
as many images as here: a ring all-reduce moves 2 (W - 1) / W times the bytes through each rank, in
2 (W - 1) messages.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pyro
import torch
import torch.distributed as dist
from pyro.infer import SVI
from timing import print_table

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim, initialize
from pyro_vlae.infer.distributed import rank, sum_over_ranks, world_size
from pyro_vlae.models import binary_vlae

WARM_UP = 2


class Step:
    """An SVI step of the binary VLAE on random images, of which each rank takes a part."""

    def __init__(self, images: int) -> None:
        pyro.set_rng_seed(0)
        x = torch.rand(images, 1, 28, 28).round()
        model, guide = binary_vlae(), GaussianGuide()
        initialize(model, guide, x)
        self.parameters = [*model.parameters(), *guide.parameters()]
        optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.002}, ema_decay=0.998)
        self.svi = SVI(model, guide, optimizer, FreeBitsELBO(7.84))
        self.x = x[rank() :: world_size()]

    def __call__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        with pyro.validation_enabled(False):
            self.svi.step(self.x)


def milliseconds(call: Callable[[], Any]) -> float:
    """The time of one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def be_a_rank(number: int, folder: str, images: int, pipe: Connection) -> None:
    """Take steps and reduce gradients with one thread, whenever the pipe says so."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    step = Step(images)
    gradients = [torch.zeros_like(p) for p in step.parameters]
    one, flat = [torch.zeros(4)], torch.cat([gradient.flatten() for gradient in gradients])
    while (what := pipe.recv()) != "stop":
        if what == "step":
            step(1)
            pipe.send(None)
        else:
            for tensors in (one, gradients):  # the processes wake up
                sum_over_ranks(tensors)
            reductions = [milliseconds(lambda t=t: sum_over_ranks(t)) for t in (one, gradients)]
            pipe.send((milliseconds(lambda: dist.all_reduce(flat)), *reductions))
    pipe.send(None)


def main() -> None:
    """Time the steps of one process and of two ranks in turn, and the all-reduce."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=64, help="images of all ranks")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    images = options.batch_size
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(2)]
        for number, (_, theirs) in enumerate(pipes):
            arguments = (number, folder, images, theirs)
            context.Process(target=be_a_rank, args=arguments, daemon=True).start()

        def ask(what: str) -> Any:
            for ours, _ in pipes:
                ours.send(what)
            return [ours.recv() for ours, _ in pipes]

        whole, half = Step(images), Step(images // 2)
        calls = {
            "one process, two threads": lambda: whole(2),
            "two ranks, one thread each": lambda: ask("step"),
            "half a batch, one thread": lambda: half(1),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        reductions = []
        for repeat in range(WARM_UP + options.repeats):
            for name, call in calls.items():
                elapsed = milliseconds(call)
                if repeat >= WARM_UP:
                    times[name].append(elapsed)
            reductions += ask("reduce")
        ask("stop")
    print_table(f"One SVI step, {images} images in all", times)
    together, ranks, alone = (statistics.median(values) for values in times.values())
    print(
        f"{1e3 * images / together:.0f} images/s in one process, {1e3 * images / ranks:.0f} in two "
        f"ranks: {together / ranks:.2f} times as many"
    )
    transfer, small, whole_reduction = map(statistics.median, zip(*reductions, strict=True))
    number = sum(p.numel() for p in half.parameters)
    print(
        f"all-reduce of {number:,} gradients, {4 * number:,} bytes: {whole_reduction:.2f} ms, "
        f"{transfer:.2f} ms of it in the transfer; of four numbers: {small:.2f} ms"
    )
    copying = max(0.0, whole_reduction - transfer)
    for size in (1, 2, 4, 8):
        # Relative to two ranks: the bytes through each, and the messages (also of the rate).
        volume, messages = 2 * (size - 1) / size, size - 1
        spent = copying * (size > 1) + max(0.0, transfer - small) * volume + 2 * small * messages
        print(f"{size} ranks of {images // 2} images: {spent / (alone + spent):.1%} (model)")


if __name__ == "__main__":
    main()
