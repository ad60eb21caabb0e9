"""Tensors of transforms that are not modules, such as Pyro's `Permute`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform
from torch.distributions.transforms import IndependentTransform, _InverseTransform
from torch.distributions.utils import lazy_property

from pyro_vlae.transforms.cache import clear_cache


class TransformTensors(nn.Module):
    """Owns the tensors of a transform that is not a module, so that they are saved and moved.

    Args:
        transform: its public attributes that are tensors become buffers, and parameters become
            parameters, under their names. Call `bind` before it is used.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        for name in tensor_names(transform):
            value = getattr(transform, name)
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:  # copied, as two transforms may share it
                self.register_buffer(name, value if value.requires_grad else value.clone())
        self.bind()

    def bind(self) -> None:
        """Give the transform these tensors, and drop what it has computed from others."""
        clear_cache([self.transform])
        for name in [name for name in vars(self.transform) if _is_computed(self.transform, name)]:
            delattr(self.transform, name)
        for name, tensor in (*self._parameters.items(), *self._buffers.items()):
            setattr(self.transform, name, tensor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.bind()
        return self


def leaves(transform: Transform) -> list[Transform]:
    """The transforms within compositions, inverses, and independent transforms."""
    if isinstance(transform, ComposeTransform):
        return [leaf for part in transform.parts for leaf in leaves(part)]
    if isinstance(transform, _InverseTransform):
        return leaves(transform.inv)
    if isinstance(transform, IndependentTransform):
        return leaves(transform.base_transform)
    return [transform]


def tensor_names(transform: Transform) -> list[str]:
    """Public attributes of a transform that are tensors, without those computed from others."""
    return [
        name
        for name, value in vars(transform).items()
        if isinstance(value, Tensor)
        and not name.startswith("_")
        and not _is_computed(transform, name)
    ]


def _is_computed(transform: Transform, name: str) -> bool:
    return isinstance(vars(type(transform)).get(name), lazy_property)
