"""Evaluation of a causal network wavefront by wavefront, computing every feature only once.

All pixels with equal ``column + slope * row`` form a wavefront, or front for short. If a pixel
depends on at most ``slope - 1`` columns to its right per row above it, then everything that a front
depends on belongs to earlier fronts, and its pixels can be sampled together. For 3x3 kernels the
slope is 2, so a 28x28 image takes 82 fronts instead of 784 pixels.

`pyro_vlae.nn.tracing` derives from the network's forward pass which pixels each operation reads. An
operation whose result is read to the right of a pixel runs ahead by some fronts (its lead); results
that are read at other fronts are kept for as many fronts as needed.

References:
    Ramachandran et al., "Fast Generation for Convolutional Autoregressive Models", 2017,
    arXiv:1704.06001 (the cache).
"""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vlae.nn.canvas_cache import CanvasCache
from pyro_vlae.nn.causal import Offset
from pyro_vlae.nn.fronts import Front, FrontCache, Fronts, wavefront_slope
from pyro_vlae.nn.graph import NotCausal, UntraceableNetwork
from pyro_vlae.nn.pixel_network import PixelNetwork
from pyro_vlae.nn.tasks import TaskBuilder
from pyro_vlae.nn.tracing import plan

MANY = 64  # offsets from which on one gather is faster than a slice for each


class WavefrontEvaluator:
    """Evaluates a network once over a batch of images whose pixels become known front by front.

    Layers are not called; only their weights are read, so nothing is initialized. To use it::

        for rows, columns in evaluator:
            evaluator.write(choose(evaluator.parameters()))

    For a channel-autoregressive network, call `parameters` and `write` once per channel.

    Args:
        network: see `pyro_vlae.nn.PixelNetwork`.
        context: ``(N, K, H, W)`` or None.
        size: number of images N.
        height: rows of the images.
        width: columns of the images.

    Raises:
        UntraceableNetwork: the network cannot be evaluated front by front.
    """

    @torch.no_grad()
    def __init__(
        self, network: nn.Module, context: Tensor | None, size: int, height: int, width: int
    ) -> None:
        found = plan(network, context)
        traced = found.trace
        self.channels = max(traced.channels[node] for node in found.kept)
        self._size, self._fronts = size, Fronts(height, width, found.slope)
        self._like = next(network.parameters(), torch.empty(0)) if context is None else context
        self._writes = traced.degrees[traced.image][-1]
        self._caches = {
            node: (FrontCache if len(offsets) <= MANY else CanvasCache)(
                self._like, size, traced.channels[node], self._fronts, offsets
            )
            for node, offsets in found.kept.items()
        }
        self._image = self._caches[traced.image]
        builder = TaskBuilder(network, context, found, self._caches, self._fronts, size)
        for operation in traced.operations:
            builder.add(operation)
        self._slots = len(builder.slots)
        # The tasks to run after each number of writes to the front.
        self._due = [
            [task for task in builder.tasks if written in task.after]
            for written in range(self._writes + 1)
        ]
        self._output, self._own = builder.slot(traced.output), builder.slot(traced.image)
        self._blanks = builder.blanks
        if self._writes > 1:
            self._blanks[self._own] = self._writes
        # The current front, its pixels, the number of writes to it, and the values so far.
        self._front, self._count, self._written = 0, 0, 0
        self._values: list[Any] = []

    def __iter__(self) -> Iterator[Front]:
        """Iterate over the fronts, each as the rows and columns of its pixels."""
        indices = self._fronts.indices(self._like.device)
        ahead = max(task.lead for task in self._due[0])
        for front in range(-max(0, ahead), max(indices) + 1):
            self._front, self._written = front, 0
            self._values = [None] * self._slots
            self._count = len(self._fronts.rows(front)) if front in indices else 0
            count = self._count * self._size
            for slot, channels in self._blanks.items():
                self._values[slot] = self._like.new_zeros(count, channels)
            self._compute()
            if front in indices:
                yield indices[front]

    def parameters(self) -> Tensor:
        """Parameters of the front's P pixels, ``(N, channels, 1, P)``.

        For a channel-autoregressive network, only those of the next channel are valid.
        """
        values = self._values[self._output].unflatten(0, (self._count, self._size))
        return values.permute(1, 2, 0).unsqueeze(2).contiguous()

    @torch.no_grad()
    def write(self, pixels: Tensor) -> None:
        """Set the values ``(N, C, 1, P)`` of the front's pixels, or those of the next channel."""
        values = pixels.squeeze(2).permute(2, 0, 1).flatten(0, 1)
        if self._writes == 1:
            self._values[self._own] = values
        else:
            self._values[self._own][:, self._written] = values[:, 0]
        self._image.write(self._front, self._values[self._own])
        self._written += 1
        self._compute()

    def select(self, index: Tensor) -> None:
        """After a front, replace the images by those at ``index`` ``(N,)``, with equal contexts."""
        for cache in self._caches.values():
            cache.select(index)

    @torch.no_grad()
    def _compute(self) -> None:
        """Run all tasks that had to wait for the latest write."""
        values = self._values
        for task in self._due[self._written]:
            front = self._front + task.lead
            if self._fronts.rows(front):
                values[task.slot] = task.compute(values, front)
                if task.cache is not None:
                    task.cache.write(front, values[task.slot])


class FullPasses:
    """The slow way, for a network that cannot be traced: a full pass per front (and channel).

    Its methods are those of `WavefrontEvaluator`. If the window is unknown, every front is a single
    pixel, in raster order.
    """

    channels = None

    def __init__(
        self, network: nn.Module, context: Tensor | None, size: int, height: int, width: int
    ) -> None:
        self.network, self.context = network, context
        like = next(network.parameters(), torch.empty(0)) if context is None else context
        # Unknown pixels are zero, so that no pixel can depend on later ones.
        channels = int(network.image_channels)  # type: ignore[arg-type]
        self.image = like.new_zeros(size, channels, height, width)
        self.in_turn = getattr(network, "channel_autoregressive", False)
        window = window_of(network, context)
        slope = width if window is None else wavefront_slope(window)
        self.fronts = Fronts(height, width, slope).indices(like.device)
        self.front, self.written = next(iter(self.fronts.values())), 0

    def __iter__(self) -> Iterator[Front]:
        """See `WavefrontEvaluator`."""
        for front in self.fronts.values():
            self.front, self.written = front, 0
            yield front

    @torch.no_grad()
    def parameters(self) -> Tensor:
        """See `WavefrontEvaluator`."""
        rows, columns = self.front
        return self.network(self.image, self.context)[:, :, rows, columns].unsqueeze(2)

    def write(self, pixels: Tensor) -> None:
        """See `WavefrontEvaluator`."""
        rows, columns = self.front
        channels = slice(self.written, self.written + 1) if self.in_turn else slice(None)
        self.image[:, channels, rows, columns] = pixels.squeeze(2)
        self.written += 1

    def select(self, index: Tensor) -> None:
        """See `WavefrontEvaluator`."""
        self.image = self.image[index]


def window_of(network: nn.Module, context: Tensor | None) -> frozenset[Offset] | None:
    """The offsets (row, column) of the other pixels that a pixel's parameters depend on.

    The result of the network's own method ``window()``, if it has one; otherwise derived from its
    forward pass, or None if that cannot be traced.
    """
    if getattr(type(network), "window", None) is not PixelNetwork.window:
        stated = getattr(network, "window", None)
        if stated is not None:
            seen = stated()
            return None if seen is None else frozenset(seen)
    try:
        return plan(network, context).trace.window()
    except UntraceableNetwork:
        return None


def make_evaluator(
    network: nn.Module, context: Tensor | None, size: int, height: int, width: int
) -> WavefrontEvaluator | FullPasses:
    """The fastest evaluator that the network allows; arguments as for `WavefrontEvaluator`.

    Warns if the network is not causal.
    """
    try:
        return WavefrontEvaluator(network, context, size, height, width)
    except NotCausal as error:
        warnings.warn(
            f"{type(network).__name__} is not causal: {error}. Its log-probabilities do not sum to "
            "one, and samples do not follow them",
            stacklevel=2,
        )
    except UntraceableNetwork:
        pass
    return FullPasses(network, context, size, height, width)
