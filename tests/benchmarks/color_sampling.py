"""Sampling 32x32 color images channel by channel: wavefronts against full passes of the network.

OMP_NUM_THREADS=2 python tests/benchmarks/color_sampling.py [--window 7x4] [--images 4]

The plain way makes a full pass for each of the 1024 pixels and 3 channels. So many take minutes to
hours; by default 24 are timed and the whole is extrapolated, which the table says.
"""

import argparse
from collections.abc import Callable

import torch
from timing import interleaved, print_table

from pyro_vlae.distributions import DiscretizedLogisticEmission, PixelCNN
from pyro_vlae.nn import PixelCNNPlusPlusNet

SIZE = 32
PASSES = 3 * SIZE * SIZE


def full_passes(
    network: PixelCNNPlusPlusNet, context: torch.Tensor, count: int
) -> Callable[[], None]:
    """The first `count` passes of sampling images by a full pass per pixel and channel."""
    emission = DiscretizedLogisticEmission()

    def sample() -> None:
        image = torch.zeros(len(context), 3, SIZE, SIZE, device=context.device)
        for k in range(count):
            (row, column), channel = divmod(k // 3, SIZE), k % 3
            here = (..., slice(row, row + 1), slice(column, column + 1))
            distribution = emission(network(image, context)[here])
            pixels = image[here].movedim(1, -1)
            image[here][:, channel] = distribution.sample_channel(channel, pixels)

    return sample


def main() -> None:
    """Time one batch both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", default="7x4")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--context-maps", type=int, default=48)
    parser.add_argument("--full-passes", type=int, default=24, help=f"of {PASSES}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    network = PixelCNNPlusPlusNet(options.context_maps, options.filters, options.window).to(device)
    context = torch.randn(options.images, options.context_maps, SIZE, SIZE, device=device)
    levels = torch.randint(256, (options.images, 3, SIZE, SIZE), device=device)
    network(levels / 127.5 - 1, context)
    count = min(options.full_passes, PASSES)
    calls = {
        "full": full_passes(network, context, count),
        "ours": PixelCNN(network, context).sample,
    }
    times = interleaved(calls, options.repeats, device, warm_up=1)
    how = "" if count == PASSES else f" (from {count})"
    table = {
        f"{PASSES} full passes{how}": [t * PASSES / count for t in times["full"]],
        "ours": times["ours"],
    }
    title = f"{options.images} images 3x{SIZE}x{SIZE}, window {options.window}, "
    print_table(f"{title}{options.filters} filters, {device}", table)
    if count < PASSES:
        print(
            f"The first row is extrapolated: {count} passes were timed, times {PASSES / count:g}."
        )


if __name__ == "__main__":
    with torch.no_grad():
        main()
