"""Weight-normalized layers with data-dependent initialization.

A layer computes ``y = scale * <direction / |direction|, x> + bias`` per output channel. Its
initialization sets ``scale`` and ``bias`` so that, on one batch, every output channel has mean 0
and standard deviation ``init_scale``.

`pyro_vlae.infer.initialize` runs it; otherwise the first training pass does (training mode,
gradients enabled). Only layers whose parameters are as constructed are initialized: the bias is
zero and the scale is the norm of the direction. Copies, running averages, broadcasts, and saved
weights of an initialized layer are therefore never initialized again, and no flag has to be stored
with them. Weights that you set by hand with a zero bias and exactly this scale look as constructed:
set them after `initialize`.

References:
    Salimans and Kingma, "Weight Normalization", 2016, arXiv:1602.07868, section 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# True or False: always or never initialize. None: initialize in training passes.
_initialize: ContextVar[bool | None] = ContextVar("initialize", default=None)

# Below this variance a channel counts as constant (a one-image batch in a linear layer, an empty
# border): there is no scale to normalize, so the plain weights are kept.
VARIANCE_FLOOR = 1e-6

# Residual branches start small, so that a deep network starts near the identity.
BRANCH_INIT_SCALE = 0.1


@contextmanager
def initialization(enabled: bool) -> Iterator[None]:
    """Enable or disable the initialization of the layers that run in a ``with`` block."""
    token = _initialize.set(enabled)
    try:
        yield
    finally:
        _initialize.reset(token)


def initialization_allowed() -> bool:
    """Whether initialization is not disabled by a surrounding `initialization`."""
    return _initialize.get() is not False


class WeightNormLayer(nn.Module):
    """Base class of the weight-normalized layers.

    Args:
        weight_shape: shape of the direction.
        channel_dim: the dimension of ``weight_shape`` for the output channels.
        init_scale: standard deviation of every output channel after initialization.
        fan_in: number of inputs of one output, for the scale of the random directions.
    """

    def __init__(
        self, weight_shape: tuple[int, ...], channel_dim: int, init_scale: float, fan_in: int
    ) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.init_scale = init_scale
        self.direction = nn.Parameter(torch.randn(weight_shape) / fan_in**0.5)
        self.scale = nn.Parameter(torch.ones(weight_shape[channel_dim]))
        self.bias = nn.Parameter(torch.zeros(weight_shape[channel_dim]))
        with torch.no_grad():
            self.scale.copy_(self._norm(self.direction))  # so that the plain weight is `direction`
        # Saves training passes from reading the parameters, which would stall a GPU.
        self._checked = False

    @property
    def initialized(self) -> bool:
        """Whether the parameters have changed since construction."""
        if self._checked:
            return True
        norm = self._norm(self.effective_direction())
        # The tolerance allows for conversions to lower precision, down to bfloat16.
        return bool(self.bias.any()) or not torch.allclose(self.scale, norm, rtol=0.02, atol=0)

    def effective_direction(self) -> Tensor:
        """The direction, masked if the layer has a mask."""
        return self.direction

    def weight(self) -> Tensor:
        """The normalized weight, in the shape of ``direction``."""
        direction = self.effective_direction()
        if not self._fused_kernel_pays(direction):
            return direction * self._per_channel(self.scale / self._norm(direction))
        scale = self._per_channel(self.scale)
        if self.channel_dim == 0:
            return torch._weight_norm(direction, scale, 0)
        # The kernel is for channels in dimension 0.
        direction, scale = (t.transpose(0, self.channel_dim) for t in (direction, scale))
        return torch._weight_norm(direction, scale, 0).transpose(0, self.channel_dim)

    def _fused_kernel_pays(self, direction: Tensor) -> bool:
        """Whether to normalize in one kernel instead of five (backward: instead of fifteen)."""
        if torch.compiler.is_compiling():  # the compiler fuses the five by itself
            return False
        if in_functional_transform(direction, self.scale):  # some derivatives are missing
            return False
        if direction.is_cuda:
            return True
        training = torch.is_grad_enabled() and direction.requires_grad
        return training and self.channel_dim == 0

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's linear map; channels of the result are in dimension 1."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if not self._checked:
            enabled = _initialize.get()
            if enabled is None:
                enabled = self.training and torch.is_grad_enabled()
            if enabled:
                self._initialize(x)
        return self.apply_weight(x, self.weight(), self.bias)

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        initialized, self._checked = self.initialized, True
        if initialized:
            return
        direction = self.effective_direction()
        unit = direction / self._per_channel(self._norm(direction))
        out = self.apply_weight(x, unit, None)
        dims = [d for d in range(out.dim()) if d != 1]
        variance, mean = torch.var_mean(out, dims, correction=0)
        # With few images, some of many channels vary little by chance and must not be amplified: n
        # images support standard deviations down to 1 / sqrt(n) of the layer's typical one.
        trusted = torch.maximum(variance, variance.mean() / len(out))
        scale = self.init_scale / trusted.clamp(min=VARIANCE_FLOOR).sqrt()
        self.scale.copy_(torch.where(variance < VARIANCE_FLOOR, self.scale, scale))
        self.bias.copy_(-mean * self.scale)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._checked = False  # the loaded parameters may be as constructed

    def _norm(self, direction: Tensor) -> Tensor:
        dims = [d for d in range(direction.dim()) if d != self.channel_dim]
        return direction.square().sum(dims).sqrt()

    def _per_channel(self, values: Tensor) -> Tensor:
        shape = [1] * self.direction.dim()
        shape[self.channel_dim] = -1
        return values.view(shape)


class WeightNormLinear(WeightNormLayer):
    """A weight-normalized linear layer: ``(*, in_features) -> (*, out_features)``."""

    def __init__(self, in_features: int, out_features: int, init_scale: float = 1.0) -> None:
        super().__init__((out_features, in_features), 0, init_scale, in_features)

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class WeightNormConv2d(WeightNormLayer):
    """A weight-normalized convolution, zero-padded by half its (odd) kernel size.

    Shapes: ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        init_scale: float = 1.0,
    ) -> None:
        super().__init__(
            (out_channels, in_channels, kernel_size, kernel_size),
            0,
            init_scale,
            in_channels * kernel_size**2,
        )
        self.stride = stride
        self.padding = kernel_size // 2

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class WeightNormConvTranspose2d(WeightNormLayer):
    """A weight-normalized transposed 3x3 convolution that doubles the size.

    Shapes: ``(N, in_channels, H, W) -> (N, out_channels, 2 H - 1 + p, 2 W - 1 + q)`` with
    ``output_padding = (p, q)``, each 0 or 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        output_padding: tuple[int, int] = (1, 1),
        init_scale: float = 1.0,
    ) -> None:
        # With stride 2, on average 9/4 weights of a 3x3 kernel contribute to an output pixel.
        super().__init__((in_channels, out_channels, 3, 3), 1, init_scale, in_channels * 9 // 4)
        self.output_padding = output_padding

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(x, weight, bias, 2, 1, self.output_padding)


def image_layout(x: Tensor) -> Tensor:
    """Feature maps ``(N, C, H, W)`` in the memory layout in which convolutions are fastest.

    Channels-last on a CPU, where a training step then takes about a quarter less time; unchanged on
    other devices and in `torch.func`. Weights are never converted: Pyro's parameter store would
    train a copy of them.
    """
    if x.device.type != "cpu" or in_functional_transform(x):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def in_functional_transform(*tensors: Tensor) -> bool:
    """Whether `torch.func` transforms a function of any of these tensors, as in ``vmap``."""
    if torch.compiler.is_compiling():  # the compiler cannot follow the question
        return False
    return any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors)
