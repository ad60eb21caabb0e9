"""The graph of a network's forward pass, refused where torch.fx would not record all it does."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from torch import Tensor, fx, nn
from torch.nn import functional as F

from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.weight_norm import (
    WeightNormConv2d,
    WeightNormLayer,
    image_layout,
    initialization,
)

_IN_PLACE = {
    *("iadd", "iand", "iconcat", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow"),
    *("irshift", "isub", "itruediv", "ixor", "setitem", "delitem"),
}
# What the layers' weights are read and known by; a layer with its own is not a known one.
_LAYER_METHODS = {
    *("forward", "apply_weight", "weight", "effective_direction", "positions", "offsets"),
}


class UntraceableNetwork(Exception):
    """A network cannot be evaluated front by front; the message says why."""


class NotCausal(UntraceableNetwork):
    """A pixel's parameters depend on the pixel itself or on later ones."""


def make_graph(network: nn.Module, with_context: bool) -> tuple[fx.Graph, fx.Node, fx.Node | None]:
    """The graph of a network's forward pass, the image's node, and that of the context.

    Raises:
        UntraceableNetwork: the forward pass fails on stand-ins for tensors, has hooks, changes
            tensors in place, or sets attributes.
    """
    for name, module in network.named_modules():
        if hooked(module):
            raise UntraceableNetwork(f"{name or 'the network'} has hooks or another forward")
    tracer = _Tracer(with_context)
    try:
        with _unchanged(network), initialization(False):
            graph = tracer.trace(network)
    except UntraceableNetwork:
        raise
    except Exception as error:
        # User code may fail in any way. An error in forward itself will recur when it is called.
        raise UntraceableNetwork(f"torch.fx cannot trace it: {error}") from None
    modules = dict(network.named_modules())
    for node in graph.nodes:
        if _changes_its_input(node, modules):
            raise UntraceableNetwork(f"{node_name(node)} is not called out of place")
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    return graph, inputs[0], inputs[1] if with_context else None


def node_name(node: fx.Node) -> str:
    """The name of the function, method, or module that a node calls."""
    target: Any = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def is_causal(module: nn.Module | None) -> bool:
    """Whether this is a causal convolution that does what `CausalConv2d` does."""
    return isinstance(module, CausalConv2d) and all(
        getattr(type(module), name) is getattr(CausalConv2d, name) and name not in vars(module)
        for name in _LAYER_METHODS
    )


def is_1x1(module: nn.Module | None) -> bool:
    """Whether this is a 1x1 convolution that mixes the channels of each pixel by itself."""
    if module is None or not _LAYER_METHODS.isdisjoint(vars(module)):
        return False
    if type(module) is WeightNormConv2d:
        return module.direction.shape[2:] == (1, 1) and module.stride == 1
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == module.stride == (1, 1)
        and module.groups == 1
        and module.padding in ((0, 0), "valid", "same")
    )


def hooked(module: nn.Module) -> bool:
    """Whether calling a module does something besides the ``forward`` of its class."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """Undo what tracing does to attributes, and refuse a network that sets any."""
    before = [(module, dict(vars(module))) for module in network.modules()]
    changed = False
    try:
        yield
    finally:
        for module, old in before:
            now = vars(module)
            if now.keys() != old.keys() or any(now[name] is not old[name] for name in old):
                changed = True
                now.clear()
                now.update(old)
    if changed:
        raise UntraceableNetwork("forward sets attributes of modules")


class _Proxy(fx.Proxy):
    def _refuse(self, *_: Any) -> NoReturn:
        raise UntraceableNetwork("forward changes a tensor in place")

    # Else `h += ...` would be recorded as `h = h + ...`, and other names would keep the old h.
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = _refuse
    __imatmul__ = __iand__ = __ior__ = __ixor__ = __ilshift__ = __irshift__ = _refuse
    __setitem__ = __delitem__ = _refuse

    def __setattr__(self, name: str, value: Any) -> None:
        if "node" in vars(self):  # constructed
            self._refuse()
        super().__setattr__(name, value)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else what forward does to a buffer would be done to it

    def __init__(self, with_context: bool) -> None:
        super().__init__(autowrap_functions=(image_layout,))
        self.with_context = with_context

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Call forward as the distribution does, so that further arguments have their defaults."""
        image = self.create_proxy("placeholder", "image", (), {})
        context = self.create_proxy("placeholder", "context", (), {}) if self.with_context else None
        return root_fn, [self.root, image, context]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, WeightNormLayer):
            return type(m).forward is WeightNormLayer.forward
        return super().is_leaf_module(m, module_qualified_name)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not any(
            a is own for own in (*self.root.parameters(), *self.root.buffers())
        ):
            # The graph would keep its current value, even when the network is moved.
            raise UntraceableNetwork(
                "forward uses a tensor that is neither a parameter nor a buffer"
            )
        return super().create_arg(a)


def _changes_its_input(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    name = node_name(node)
    in_place = (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE
    keywords = dict(node.kwargs)
    if node.op == "call_function" and getattr(F, name, None) is node.target:
        with suppress(TypeError, ValueError):  # built in, or called wrongly
            keywords = inspect.signature(node.target).bind(*node.args, **keywords).arguments
    return node.op.startswith("call") and bool(
        in_place or keywords.get("inplace") or keywords.get("out") is not None
    )
