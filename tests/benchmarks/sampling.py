"""Sampling images from the default likelihood: wavefronts against full passes of the network.

OMP_NUM_THREADS=2 python tests/benchmarks/sampling.py [--images 64] [--device cpu]
"""

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import pyro
import torch
from timing import interleaved, print_table
from torch import nn

from pyro_vlae.distributions import PixelCNN
from pyro_vlae.models import binary_vlae
from pyro_vlae.nn import PixelNetwork, masked_resnet


class FullPassesOnly(PixelNetwork):
    """The same network, its window unknown and its forward pass untraceable: a pass per pixel."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.image_channels, self.context_channels = (
            network.image_channels,
            network.context_channels,
        )
        self.outputs = network.outputs

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.network(x, context) if x.dim() == 4 else x


def contiguous(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same call with activations as PyTorch lays them out."""

    def run() -> None:
        with mock.patch.object(masked_resnet, "image_layout", lambda maps: maps):
            call()

    return run


def captured(draw: Callable[[], Any]) -> Callable[[], Any]:
    """The same samples from one CUDA graph: it synchronizes with the host once at the end."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        draw()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        draw()
    return graph.replay


def main() -> None:
    """Time one batch both ways, and many images our way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    model = binary_vlae().to(device)
    network = model.likelihood.network
    with torch.no_grad():
        context = model.decoder(torch.randn(options.images, 64, device=device))
        network(torch.rand(options.images, 1, 28, 28, device=device).round(), context)
    full = PixelCNN(FullPassesOnly(network), context).sample
    calls = {
        "784 full passes, contiguous": contiguous(full),
        "784 full passes, channels-last": full,
        "ours": PixelCNN(network, context).sample,
    }
    fast = {"ours": calls["ours"]}
    times = interleaved(calls, options.repeats, device, warm_up=1)
    if device.type == "cuda":
        fast["ours, captured"] = captured(calls["ours"])
    # The fast ones alone are measured more often than the slow ones allow.
    times |= interleaved(fast, 10, device)
    print_table(f"{options.images} images 28x28, {device}", times)
    many = {"whole model": lambda: model(batch_size=options.many)}
    if device.type == "cuda":
        many["whole model, captured"] = captured(many["whole model"])
    for name, values in interleaved(many, 2, device, warm_up=0).items():
        print(f"{options.many} images from the {name}: {min(values) / 1e3:.1f} s")


if __name__ == "__main__":
    with torch.no_grad(), pyro.validation_enabled(False):
        main()
