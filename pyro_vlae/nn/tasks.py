"""The operations of a network as tasks: functions that compute one front with its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyro_vlae.nn.canvas_cache import CanvasCache
from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.fronts import FrontCache, Fronts, by_pixel
from pyro_vlae.nn.operations import OWN, Convolution, Operation, PixelFunction, Read
from pyro_vlae.nn.tracing import Plan, run_static
from pyro_vlae.nn.weight_norm import WeightNormLayer

Cache = FrontCache | CanvasCache
# Called with the values so far and a front.
Compute = Callable[[list[Any], int], Any]


@dataclass(frozen=True)
class Task:
    """The computation of features ``(P * N, channels)`` for the pixels of a front.

    Attributes:
        compute: the function that computes them.
        slot: index of the result among the values.
        lead: how many fronts it runs ahead of the pixels being sampled.
        after: the numbers of writes to these pixels after which it runs.
        cache: where its result is also stored, if other fronts read it.
    """

    compute: Compute
    slot: int
    lead: int
    after: tuple[int, ...] = (0,)
    cache: Cache | None = None


class TaskBuilder:
    """Converts the operations of a plan to tasks, with the network's current weights."""

    def __init__(
        self,
        network: nn.Module,
        context: Tensor | None,
        found: Plan,
        caches: dict[fx.Node, Cache],
        fronts: Fronts,
        size: int,
    ) -> None:
        self.network, self.plan, self.caches = network, found, caches
        self.fronts, self.size = fronts, size
        traced = found.trace
        self.static = run_static(network, traced.static, traced.context, context)
        self.tasks: list[Task] = []
        self.slots: dict[tuple[fx.Node, int], int] = {}
        self.slot(traced.image)
        self.first = {traced.image: 1}
        self.blanks: dict[int, int] = {}  # channels of slots

    def slot(self, node: fx.Node, lead: int | None = None) -> int:
        """The index of a node's values at fronts with this lead, by default the node's lead."""
        key = (node, self.plan.leads[node] if lead is None else lead)
        return self.slots.setdefault(key, len(self.slots))

    def add(self, operation: Operation) -> None:
        """Add the task of an operation, after the tasks that it depends on."""
        node, trace = operation.node, self.plan.trace
        lead = self.plan.leads[node]
        if isinstance(operation, Convolution):
            compute = self._convolution(operation, lead)
        else:
            compute = self._function(operation, lead)
        # Tasks ahead of the pixels being sampled or behind them need not wait for a write.
        after = trace.degrees[node] if lead == 0 else (0,)
        self.tasks.append(Task(compute, self.slot(node), lead, after, self.caches.get(node)))
        self.first[node] = after[0]
        for read in operation.reads:
            if lead == 0 and self.first[read.source] > after[0]:
                self.blanks[self.slot(read.source)] = trace.channels[read.source]

    def _own_pixel(self, node: fx.Node, lead: int) -> int:
        """The slot of a node's values at the pixel itself; adds a task to fetch them if needed."""
        known = (node, lead) in self.slots
        slot = self.slot(node, lead)
        if not known:
            if node in self.caches:
                cache = self.caches[node]
                self.tasks.append(Task(lambda _, front: cache.read(front, (OWN,)), slot, lead))
            else:
                fronts, maps = self.fronts, by_pixel(self._maps(node))
                self.tasks.append(Task(lambda _, front: fronts.pixels(maps, front), slot, lead))
        return slot

    def _maps(self, node: fx.Node) -> Tensor:
        """A tensor that does not depend on the image, ``(N, channels, H, W)``."""
        return self.static[node].expand(self.size, -1, self.fronts.height, self.fronts.width)

    def _function(self, operation: PixelFunction, lead: int) -> Compute:
        getters = [self._getter(argument, lead) for argument in operation.arguments]
        function, keywords = operation.function, operation.keywords
        return lambda values, front: function(*[get(values) for get in getters], **keywords)

    def _getter(self, argument: Any, lead: int) -> Callable[[list[Any]], Any]:
        """A function that looks up an argument among the values so far."""
        if isinstance(argument, list):
            getters = [self._getter(part, lead) for part in argument]
            return lambda values: [get(values) for get in getters]
        if isinstance(argument, fx.Node):
            if argument in self.plan.leads or isinstance(self.static[argument], Tensor):
                return itemgetter(self._own_pixel(argument, lead))
            argument = self.static[argument]
        return lambda values: argument

    def _convolution(self, operation: Convolution, lead: int) -> Compute:
        layer: Any = self.network.get_submodule(operation.layer)
        weight = layer.weight() if isinstance(layer, WeightNormLayer) else layer.weight
        positions = layer.positions if isinstance(layer, CausalConv2d) else (OWN,)
        reads: list[Compute] = []
        matrices = []
        for read in operation.reads:
            kernel = weight[:, read.channels].flatten(2).unbind(-1)
            seen = [kernel[positions.index(offset)].T for offset in read.offsets]
            matrices.append(torch.cat(seen))
            reads.append(self._read(read, lead))
        matrix, bias, fronts = torch.cat(matrices), layer.bias, self.fronts
        known = None
        if operation.static:
            # The contribution of the static inputs, bias included, is computed in advance.
            parts = [
                layer.apply_weight(self._maps(node), weight[:, channels], None)
                for node, channels in operation.static
            ]
            known = by_pixel(sum(parts[1:], parts[0]) + bias[:, None, None])

        gather = reads[0]
        if len(reads) > 1:

            def gather(values: list[Any], front: int) -> Tensor:
                return torch.cat([read(values, front) for read in reads], 1)

        def convolve(values: list[Any], front: int) -> Tensor:
            features = gather(values, front)
            if known is not None:
                return torch.addmm(fronts.pixels(known, front), features, matrix)
            return features @ matrix if bias is None else torch.addmm(bias, features, matrix)

        return convolve

    def _read(self, read: Read, lead: int) -> Compute:
        if read.offsets == (OWN,):
            slot = self._own_pixel(read.source, lead)
            return lambda values, front: values[slot]
        cache, offsets = self.caches[read.source], read.offsets
        return lambda values, front: cache.read(front, offsets)
