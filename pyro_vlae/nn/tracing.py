"""Plans to evaluate causal networks front by front, derived from their forward pass.

`torch.fx` traces the network with its convolutions as leaves. The pixels that each operation reads
determine the slope of the fronts, how many fronts an operation must run ahead of the pixels being
sampled, and how long its results are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from pyro_vlae.nn.causal import Offset
from pyro_vlae.nn.fingerprint import fingerprint
from pyro_vlae.nn.graph import (
    NotCausal,
    UntraceableNetwork,
    make_graph,
    node_name,
)
from pyro_vlae.nn.operations import BLANKS, OWN, PURE, Operation, OperationReader, PixelFunction


@dataclass(frozen=True)
class Trace:
    """A network's computation.

    Attributes:
        image: node of the image.
        context: node of the context, None if there is none.
        output: node of the parameters.
        operations: the operations that depend on the image, in order.
        static: nodes that do not depend on the image, in order.
        degrees: for each node that depends on the image, the degrees of its channels
            (`pyro_vlae.nn.operations`), distinct and ascending.
        channels: number of channels of each such node that has a single result.
    """

    image: fx.Node
    context: fx.Node | None
    output: fx.Node
    operations: tuple[Operation, ...]
    static: tuple[fx.Node, ...]
    degrees: dict[fx.Node, tuple[int, ...]]
    channels: dict[fx.Node, int]

    def window(self) -> frozenset[Offset]:
        """The offsets of all other pixels that a pixel's parameters depend on."""
        seen = {self.image: {OWN}}
        for operation in self.operations:
            blank = isinstance(operation, PixelFunction) and operation.function in BLANKS
            seen[operation.node] = {
                (row + i, column + j)
                for read in operation.reads
                for row, column in seen[read.source]
                for i, j in read.offsets
                if not blank
            }
        return frozenset(seen[self.output] - {OWN})


def trace(network: nn.Module, context: Tensor | None) -> Trace:
    """Trace a network.

    Args:
        network: see `pyro_vlae.nn.PixelNetwork`.
        context: an example ``(1, K, H, W)``, or None.

    Raises:
        UntraceableNetwork: the forward pass depends on values or shapes of tensors, or does
            something other than causal and 1x1 convolutions and functions of single pixels.
        NotCausal: a pixel's parameters depend on the pixel itself or on later ones.
    """
    graph, image, context_node = make_graph(network, context is not None)
    *nodes, end = graph.nodes
    dynamic = {image}
    for node in nodes:
        if any(source in dynamic for source in node.all_input_nodes):
            dynamic.add(node)
    output = end.args[0]
    if not isinstance(output, fx.Node) or output not in dynamic:
        raise UntraceableNetwork("forward does not return one tensor computed from the image")
    alive = _ancestors({output}, nodes)
    for node in nodes:
        called = node.op in ("call_function", "call_method")
        if called and node not in alive and node_name(node) not in PURE:
            raise UntraceableNetwork(f"the result of {node_name(node)} is not used")
    static = [node for node in nodes if node in alive and node not in dynamic]
    reader = OperationReader(
        network, image, dynamic, run_static(network, static, context_node, context)
    )
    operations = [reader.add(n) for n in nodes if n in alive and n in dynamic and n is not image]
    degrees = {
        node: tuple(
            torch.cat([*d], 1).unique().tolist() if isinstance(d, tuple) else d.unique().tolist()
        )
        for node, d in reader.degrees.items()
    }
    channels = {n: d.shape[1] for n, d in reader.degrees.items() if isinstance(d, Tensor)}
    if degrees[output][0] > 0 or degrees[output][-1] >= degrees[image][-1]:
        raise NotCausal("a pixel's parameters depend on its own values")
    _check_channels(network, reader.degrees[output].flatten())
    # A convolution reads concatenated channels part by part: some concatenations are unused.
    needed = {output}
    for operation in reversed(operations):
        if operation.node in needed:
            needed.update(operation.inputs)
    operations = [operation for operation in operations if operation.node in needed]
    alive = _ancestors(needed - dynamic, static)
    static = [node for node in static if node in alive]
    traced = Trace(image, context_node, output, tuple(operations), tuple(static), degrees, channels)
    if any(offset > OWN for offset in traced.window()):
        raise NotCausal("a pixel's parameters depend on later pixels")
    return traced


def _check_channels(network: Any, degrees: Tensor) -> None:
    """Raise `NotCausal` if parameters of a channel's logistics wait for its own or later values."""
    known = getattr(network, "outputs", None) == "discretized_logistic_mixture"
    in_turn = getattr(network, "channel_autoregressive", False)
    if not (known and in_turn) or hasattr(network, "emission"):
        return
    channels = torch.arange(int(network.image_channels), device="cpu")
    sizes = 3 + channels  # parameters of a component, see `DiscretizedLogisticEmission`
    channel = channels.repeat_interleave(sizes * (len(degrees) // int(sizes.sum())))
    if len(channel) == len(degrees) and (degrees > channel).any():
        raise NotCausal("a channel's parameters depend on its own value or on later channels")


@torch.no_grad()
def run_static(
    network: nn.Module,
    nodes: Sequence[fx.Node],
    context_node: fx.Node | None,
    context: Tensor | None,
) -> dict[fx.Node, Any]:
    """Compute the nodes that do not depend on the image in one ordinary pass.

    Tensors are reshaped to four dimensions, ``(N or 1, channels, H or 1, W or 1)``.
    """
    if not nodes:
        return {}
    interpreter = fx.Interpreter(network, garbage_collect_values=False, graph=nodes[0].graph)
    values = interpreter.env
    for node in nodes:
        values[node] = context if node is context_node else interpreter.run_node(node)
    return {
        node: value.reshape((1,) * (4 - value.dim()) + value.shape)
        if isinstance(value, Tensor)
        else value
        for node, value in values.items()
    }


def _ancestors(nodes: set[fx.Node], order: Sequence[fx.Node]) -> set[fx.Node]:
    """These nodes and all nodes that they depend on."""
    found = set(nodes)
    for node in reversed(order):
        if node in found:
            found.update(node.all_input_nodes)
    return found


@dataclass(frozen=True)
class Plan:
    """How to evaluate a network front by front, for images of any size.

    Attributes:
        trace: the network's computation.
        slope: slope of the fronts.
        leads: for each node, how many fronts it runs ahead of the pixels being sampled.
        kept: for each node that is read at other fronts, the offsets from its own front.
    """

    trace: Trace
    slope: int
    leads: dict[fx.Node, int]
    kept: dict[fx.Node, list[Offset]]


# Cached: tracing takes as long as sampling a few images. A plan contains no weights.
_plans: WeakKeyDictionary[nn.Module, dict[Any, Plan | tuple[type[UntraceableNetwork], str]]] = (
    WeakKeyDictionary()
)


def plan(network: nn.Module, context: Tensor | None = None) -> Plan:
    """Plan how to evaluate a network front by front; plans are cached.

    The cache notices hooks, replaced modules, and changes of their attributes and code.

    Args:
        network: see `pyro_vlae.nn.PixelNetwork`.
        context: an example ``(N, K, H, W)``, None for a network without a context.

    Raises:
        UntraceableNetwork: the network cannot be evaluated front by front; the message says why.
    """
    try:
        current: Any = fingerprint(network)
    except Exception:  # objects of any kind: without a fingerprint, it is traced each time
        current = object()
    key = (current, None if context is None else context.shape[1])
    plans = _plans.setdefault(network, {})
    if key not in plans:
        plans.clear()
        try:
            plans[key] = _make_plan(trace(network, None if context is None else context[:1]))
        except UntraceableNetwork as error:
            plans[key] = (type(error), str(error))
        except Exception as error:
            # Operations called in ways that are not foreseen here: full passes can do without.
            plans[key] = (UntraceableNetwork, f"{type(error).__name__}: {error}")
    found = plans[key]
    if isinstance(found, tuple):
        kind, reason = found
        raise kind(reason)
    return found


def _make_plan(traced: Trace) -> Plan:
    """Find the smallest slope that works, and derive the plan from it."""
    reach = [max(j for _, j in r.offsets) for o in traced.operations for r in o.reads]
    for slope in range(1, 2 + sum(j for j in reach if j > 0) + max(0, *reach)):
        leads = _leads(traced, slope)
        if leads is not None:
            break
    else:
        raise UntraceableNetwork("it reads pixels before they are known")
    kept: dict[fx.Node, list[Offset]] = {traced.image: [OWN]}
    for operation in traced.operations:
        for read in operation.reads:
            ahead = leads[read.source] - leads[operation.node]
            if ahead or read.offsets != (OWN,):
                kept.setdefault(read.source, [OWN]).extend((i, j - ahead) for i, j in read.offsets)
    if not kept.keys() <= traced.channels.keys():
        raise UntraceableNetwork("other pixels are read of several tensors at once")
    return Plan(traced, slope, leads, kept)


def _leads(traced: Trace, slope: int) -> dict[fx.Node, int] | None:
    """How many fronts each node must run ahead; None if the slope is too small."""
    leads = {traced.output: 0}
    for operation in reversed(traced.operations):
        lead = leads[operation.node]
        for read in operation.reads:
            fronts = {(i, j): lead + j + slope * i for i, j in read.offsets}
            # Features of a pixel's own values are complete only when the next front begins.
            late = traced.degrees[read.source][-1] > 0
            if late and any(front > (-1 if at != OWN else 0) for at, front in fronts.items()):
                return None
            leads[read.source] = max(leads.get(read.source, min(fronts.values())), *fronts.values())
    return leads | {traced.image: 0}
