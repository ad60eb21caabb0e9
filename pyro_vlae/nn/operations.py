"""The operations of a causal network on features of single pixels, and the pixels they read.

The degree of a channel, as in MADE (Germain et al., "MADE: Masked Autoencoder for Distribution
Estimation", 2015, arXiv:1502.03509), is the number of writes to the pixel itself that it must wait
for: 0 if it depends on other pixels alone. A write sets all channels of the image or, for a
channel-autoregressive network, the next one.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pyro_vlae.nn.causal import Offset
from pyro_vlae.nn.graph import UntraceableNetwork, is_1x1, is_causal, node_name
from pyro_vlae.nn.weight_norm import WeightNormLayer, image_layout

OWN: Offset = (0, 0)
ALL = slice(None)

# Names of elementwise functions and methods, out of place.
_NAMES = {
    *("abs", "add", "addcmul", "celu", "clamp", "cos", "div", "elu", "erf", "exp", "expm1"),
    *("gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "lerp", "log", "log1p"),
    *("logsigmoid", "maximum", "minimum", "mish", "mul", "neg", "pow", "relu", "relu6", "rsqrt"),
    *("selu", "sigmoid", "silu", "sin", "softplus", "softsign", "sqrt", "square", "sub", "tanh"),
    *("truediv", "where"),
}
POINTWISE = {
    getattr(place, name)
    for place in (torch, F, operator)
    for name in _NAMES
    if hasattr(place, name)
}
POINTWISE_METHODS = {name for name in _NAMES if hasattr(Tensor, name)}
POINTWISE_MODULES = {
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus),
    *(nn.Softsign, nn.Tanh),
}
DROPOUT = {nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout}
BLANKS = (torch.ones_like, torch.zeros_like)
# Calls whose results may be left unused: they change nothing.
PURE = {
    *_NAMES,
    *("_assert", "cat", "chunk", "clone", "concat", "contiguous", "detach", "dim", "getattr"),
    *("getitem", "image_layout", "ones_like", "size", "split", "zeros_like"),
}


@dataclass(frozen=True)
class Read:
    """The pixels of one node that an operation reads, and the input channels that they fill."""

    source: fx.Node
    offsets: tuple[Offset, ...]
    channels: slice


@dataclass(frozen=True)
class Convolution:
    """A convolution, causal or 1x1.

    Attributes:
        node: its node in the graph.
        reads: its reads of nodes that depend on the image.
        layer: the layer's name in the network.
        static: its inputs that do not depend on the image, and the input channels that each fills.
    """

    node: fx.Node
    reads: tuple[Read, ...]
    layer: str
    static: tuple[tuple[fx.Node, slice], ...]

    @property
    def inputs(self) -> list[fx.Node]:
        """All nodes that it reads."""
        return [*(read.source for read in self.reads), *(node for node, _ in self.static)]


@dataclass(frozen=True)
class PixelFunction:
    """A function of features ``(pixels, channels)`` that acts on each pixel separately.

    Attributes:
        node: its node in the graph.
        reads: its reads of nodes that depend on the image.
        function: the function.
        arguments: nodes, lists of nodes, and constants.
        keywords: constants.
    """

    node: fx.Node
    reads: tuple[Read, ...]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def inputs(self) -> list[fx.Node]:
        """All nodes that it reads."""
        return _nodes(self.arguments)


Operation = Convolution | PixelFunction


class OperationReader:
    """Converts nodes to operations, in the order of the graph."""

    def __init__(
        self,
        network: nn.Module,
        image: fx.Node,
        dynamic: set[fx.Node],
        values: dict[fx.Node, Any],
    ) -> None:
        self.modules = dict(network.named_modules())
        self.dynamic, self.values = dynamic, values
        self.cuts: dict[fx.Node, Any] = {}  # what is cut by chunk and split
        channels = int(network.image_channels)  # type: ignore[arg-type]
        degrees = torch.ones(1, channels, dtype=torch.long, device="cpu")
        in_turn = getattr(network, "channel_autoregressive", False)
        self.degrees: dict[fx.Node, Any] = {image: degrees.cumsum(1) if in_turn else degrees}

    def add(self, node: fx.Node) -> Operation:
        """Return the operation of a node and store the degrees of its channels."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if is_causal(module) or is_1x1(module):
            return self._convolution(node, module)
        function, arguments, keywords = _canonical(node, module)
        if function in (_chunk, _split):
            self.cuts[node] = arguments[0]
        if function is _take and arguments[0] in self.cuts and isinstance(arguments[1], int):
            # Parts may be needed at different fronts, so each is taken by itself.
            source, k = arguments
            ends = list(accumulate(part.shape[1] for part in self.degrees[source]))
            arguments = (self.cuts[source], (ALL, slice([0, *ends[:-1]][k], ends[k])))
        degrees = [
            [self._degree(part) for part in a] if isinstance(a, list) else self._degree(a)
            for a in arguments
        ]
        if function in _ON_CHANNELS:
            self.degrees[node] = function(*degrees, **keywords)
        else:
            found = torch.broadcast_tensors(*[d for d in degrees if isinstance(d, Tensor)])
            self.degrees[node] = torch.stack(found).amax(0) * (function not in BLANKS)
        reads = tuple(
            Read(source, (OWN,), ALL) for source in _nodes(arguments) if source in self.dynamic
        )
        return PixelFunction(node, reads, function, arguments, keywords)

    def _convolution(self, node: fx.Node, layer: Any) -> Operation:
        if len(node.args) != 1 or node.kwargs:
            raise UntraceableNetwork(f"{node.target} is not called with exactly one tensor")
        source: Any = node.args[0]
        masked = is_causal(layer)
        # Concatenated inputs are read part by part: they may be visible at different pixels.
        parts = self._joined(source) if masked else [source]
        reads, static, start = [], [], 0
        weight = layer.direction if isinstance(layer, WeightNormLayer) else layer.weight
        degrees = torch.zeros(len(weight), dtype=torch.long, device="cpu")
        for part in parts:
            degree = self._degree(part)
            channels = slice(start, start + degree.shape[1])
            start = channels.stop
            if part not in self.dynamic:
                static.append((part, channels))
                continue
            offsets = layer.offsets(channels) if masked else (OWN,)
            if OWN in offsets:
                own = degree
                if masked:
                    mask = layer.mask.expand_as(weight)[:, channels].flatten(2)
                    own = degree * mask[:, :, layer.positions.index(OWN)].cpu().long()
                degrees = torch.maximum(degrees, own.amax(1))
            if offsets:
                reads.append(Read(part, offsets, channels))
        self.degrees[node] = degrees[None]
        return Convolution(node, tuple(reads), str(node.target), tuple(static))

    def _joined(self, source: fx.Node) -> list[fx.Node]:
        """The nodes whose channels are concatenated in this one."""
        module = self.modules.get(str(source.target)) if source.op == "call_module" else None
        convolution = is_causal(module) or is_1x1(module)
        if source in self.dynamic and source.op.startswith("call") and not convolution:
            function, arguments, _ = _canonical(source, module)
            if function is _same:
                return self._joined(arguments[0])
            if function is _join:
                return [part for a in arguments[0] for part in self._joined(a)]
        return [source]

    def _degree(self, argument: Any) -> Any:
        """Degrees of an argument's channels; constants and slices are left as they are."""
        if not isinstance(argument, fx.Node):
            return argument
        if argument in self.dynamic:
            return self.degrees[argument]
        value = self.values[argument]
        if not isinstance(value, Tensor):
            return None
        return torch.zeros(1, value.shape[1], dtype=torch.long, device="cpu")


def _canonical(
    node: fx.Node, module: nn.Module | None
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A node as a function of features ``(pixels, channels)``, its arguments, and keywords."""
    target: Any = node.target
    name = node_name(node)
    arguments = tuple(list(a) if isinstance(a, tuple | list) else a for a in node.args)
    keywords = dict(node.kwargs)
    function: Callable[..., Any] | None = None
    if module is not None:
        name = f"{target} ({type(module).__name__})"
        if type(module) is nn.Identity or (type(module) in DROPOUT and not module.training):
            function = _same
        elif type(module) in POINTWISE_MODULES and not getattr(module, "inplace", False):
            function = module.forward
    elif target is image_layout:
        function = _same
    elif target is operator.getitem:
        function, arguments = _take, node.args
    elif name in _JOINS_AND_CUTS:
        function = _JOINS_AND_CUTS[name]
    elif target in POINTWISE or target in BLANKS:
        function = target
    elif node.op == "call_method" and target in POINTWISE_METHODS:
        function = getattr(Tensor, name)
    in_place = keywords.get("inplace") or any(a is True for a in arguments)
    if function is None or in_place or set(_nodes(arguments)) != set(node.all_input_nodes):
        raise UntraceableNetwork(
            f"{name} is neither a CausalConv2d nor a 1x1 convolution, nor an out-of-place call of "
            "a known function of single pixels"
        )
    return function, arguments, keywords


def _same(features: Any) -> Any:
    return features


def _join(tensors: list[Tensor], dim: int = 0) -> Tensor:
    return torch.cat(tensors, _channel_dim(dim))


def _chunk(features: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    return features.chunk(chunks, _channel_dim(dim))


def _split(features: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    return features.split(split_size, _channel_dim(dim))


def _take(features: Any, index: Any) -> Any:
    """A channel slice, or one of several results."""
    if isinstance(features, Tensor):
        index = index if isinstance(index, tuple) else (index,)
        kept = all(part == ALL for part in (*index[:1], *index[2:]))
        if not kept or len(index) < 2 or not isinstance(index[1], slice):
            raise UntraceableNetwork(f"[{index}] selects something other than a slice of channels")
        index = index[:2]
    return features[index]


def _channel_dim(dim: int) -> int:
    if dim not in (1, -3):
        raise UntraceableNetwork(f"tensors are concatenated or split along dimension {dim}, not 1")
    return 1


_JOINS_AND_CUTS: dict[str, Callable[..., Any]] = {
    **{"cat": _join, "concat": _join},
    **{"chunk": _chunk, "split": _split},
}
_ON_CHANNELS = (_same, _join, _chunk, _split, _take)


def _nodes(arguments: Sequence[Any]) -> list[fx.Node]:
    """All nodes among arguments, which may be lists of nodes."""
    flat = [a for group in arguments for a in (group if isinstance(group, list) else [group])]
    return [a for a in flat if isinstance(a, fx.Node)]
