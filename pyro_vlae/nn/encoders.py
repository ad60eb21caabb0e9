"""Encoders and decoders, built from a common `Architecture`.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, sections 4.1 and 4.3 and
    appendix.
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
    arXiv:1606.04934, appendix B (the ResNet).
"""

from collections.abc import Sequence
from math import ceil, prod

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.architecture import MapArchitecture, ResNetArchitecture
from pyro_vlae.nn.blocks import DenseBlock, ResidualBlock
from pyro_vlae.nn.weight_norm import (
    BRANCH_INIT_SCALE,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    image_layout,
)


class ResNetEncoder(nn.Module):
    """Images to features: strided residual blocks with stride-1 blocks between them, then dense.

    In the paper's architecture, the feature maps of a 28x28 image have size 14, 7, and 4.

    Args:
        architecture: the sizes.

    Shapes: ``(*batch, *image_shape) -> (*batch, features)``.
    """

    def __init__(self, architecture: ResNetArchitecture = ResNetArchitecture()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.image_shape = architecture.image_shape
        self.out_features = architecture.features
        channels = architecture.image_shape[0]
        drop = architecture.dropout
        blocks: list[nn.Module] = []
        for out in architecture.channels:
            if blocks:
                blocks.append(ResidualBlock(channels, channels, dropout=drop))
            blocks.append(ResidualBlock(channels, out, "down", dropout=drop))
            channels = out
        self.blocks = nn.Sequential(*blocks)
        inputs = channels * prod(architecture.sizes[-1])
        self.linear = WeightNormLinear(inputs, architecture.features)
        self.dropout = nn.Dropout(drop) if drop else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(_flat_images(x, self.image_shape))
        h = self.dropout(F.elu(self.linear(F.elu(h).flatten(1))))
        return h.reshape(*x.shape[:-3], self.out_features)


class ResNetDecoder(nn.Module):
    """Codes to feature maps of the image's size, mirroring `ResNetEncoder`.

    Args:
        architecture: the sizes.

    Shapes: ``(*batch, code_dim) -> (*batch, feature_channels, height, width)``. The output is not a
    mean image, but features for the likelihood.
    """

    def __init__(self, architecture: ResNetArchitecture = ResNetArchitecture()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.code_shape = architecture.code_shape
        self.feature_channels = architecture.feature_channels
        channels, sizes = architecture.channels[-1], architecture.sizes
        drop = architecture.dropout
        self.smallest = (channels, *sizes[-1])
        self.first = WeightNormLinear(architecture.code_dim, architecture.features)
        self.second = WeightNormLinear(architecture.features, prod(self.smallest))
        blocks: list[nn.Module] = []
        for k in reversed(range(len(architecture.channels))):
            out = architecture.channels[max(k - 1, 0)]
            (height, width), (full_height, full_width) = sizes[k + 1], sizes[k]
            padding = (full_height - 2 * height + 1, full_width - 2 * width + 1)
            blocks.append(ResidualBlock(channels, out, "up", padding, drop))
            if k:
                blocks.append(ResidualBlock(out, out, dropout=drop))
            channels = out
        self.blocks = nn.Sequential(*blocks)
        self.last = WeightNormConv2d(channels, self.feature_channels)
        self.dropout = nn.Dropout(drop) if drop else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        h = F.elu(self.first(_flat_codes(z, self.code_shape)))
        h = self.second(self.dropout(h)).view(-1, *self.smallest)
        h = self.last(F.elu(self.blocks(h), inplace=True))
        return h.view(*z.shape[:-1], *h.shape[1:])


class MapEncoder(nn.Module):
    """Images to the means and raw scales of a code that consists of feature maps.

    A 3x3 convolution is followed by the stages, with strided convolutions between them that halve
    the size. A final 1x1 convolution returns ``2 code_channels`` channels: means, then raw scales.

    Args:
        architecture: the sizes.

    Shapes: ``(*batch, *image_shape) -> (*batch, 2 * code_dim)``, flattened feature maps.
    """

    def __init__(self, architecture: MapArchitecture = MapArchitecture()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.image_shape = architecture.image_shape
        first, *others = _stages(architecture)
        self.first = WeightNormConv2d(self.image_shape[0], first.in_channels)
        modules: list[nn.Module] = [first]
        channels = first.out_channels
        for stage in others:
            down = WeightNormConv2d(channels, stage.in_channels, stride=2)
            modules += [nn.ELU(), down, stage]
            channels = stage.out_channels
        self.stages = nn.Sequential(*modules)
        self.last = WeightNormConv2d(
            channels, 2 * architecture.code_channels, 1, init_scale=BRANCH_INIT_SCALE
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(image_layout(_flat_images(x, self.image_shape)))
        return self.last(F.elu(self.stages(h))).flatten(1).reshape(*x.shape[:-3], -1)


class MapDecoder(nn.Module):
    """Codes to feature maps of the image's size, mirroring `MapEncoder`.

    Its output, which the likelihood reads, is that of the last stage after an ELU, with
    ``feature_channels`` channels.

    Args:
        architecture: the sizes.

    Shapes: ``(*batch, code_dim) -> (*batch, feature_channels, height, width)``.
    """

    def __init__(self, architecture: MapArchitecture = MapArchitecture()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.code_shape = architecture.code_shape
        first, *others = reversed(_stages(architecture))
        self.first = WeightNormConv2d(architecture.code_channels, first.in_channels, 1)
        modules: list[nn.Module] = [first]
        channels = first.out_channels
        for stage in others:
            up = WeightNormConvTranspose2d(channels, stage.in_channels)
            modules += [nn.ELU(), up, stage]
            channels = stage.out_channels
        self.stages = nn.Sequential(*modules)
        self.feature_channels = channels

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(image_layout(_flat_codes(z, self.code_shape)))
        h = F.elu(self.stages(h), inplace=True)
        return h.reshape(*z.shape[:-1], *h.shape[1:])


class Stage(nn.Sequential):
    """Blocks that keep the size of the feature maps.

    Args:
        modules: the blocks, in order.
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, modules: Sequence[nn.Module], in_channels: int, out_channels: int) -> None:
        super().__init__(*modules)
        self.in_channels, self.out_channels = in_channels, out_channels


def residual_stage(channels: int, blocks: int) -> Stage:
    """Residual blocks with the same number of channels throughout."""
    modules = [ResidualBlock(channels, channels) for _ in range(blocks)]
    return Stage(modules, channels, channels)


def dense_stage(channels: int, blocks: int) -> Stage:
    """Dense blocks that replace a residual stage, one for every two residual blocks.

    The paper does not state a growth rate, only that a block ends slightly wider than the residual
    stage. Here a block starts with half of the channels; its three layers add the other half and
    one more channel each: 48 channels become 24 + 3 x 9 = 51, and 96 become 48 + 3 x 17 = 99.
    """
    start = channels // 2
    growth = ceil((channels - start) / DenseBlock.LAYERS) + 1
    end = start + DenseBlock.LAYERS * growth
    modules: list[nn.Module] = []
    for _ in range(ceil(blocks / 2)):
        if modules:
            modules += [nn.ELU(), WeightNormConv2d(end, start, 1)]
        modules.append(DenseBlock(start, growth))
    return Stage(modules, start, end if blocks else start)


def _stages(architecture: MapArchitecture) -> list[Stage]:
    """The stages of an encoder or decoder, starting at full resolution."""
    stage = dense_stage if architecture.dense else residual_stage
    sizes = zip(architecture.channels, architecture.blocks, strict=True)
    return [stage(channels, blocks) for channels, blocks in sizes]


def _flat_images(x: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Check images ``(*batch, *image_shape)`` and flatten them to ``(N, *image_shape)``."""
    if not x.is_floating_point():
        raise ValueError(f"expected floating-point images, got {x.dtype}: convert with x.float()")
    if x.shape[-3:] != image_shape:
        raise ValueError(
            f"expected images of shape (*batch, {', '.join(map(str, image_shape))}), got "
            f"{tuple(x.shape)}; resize the images, or build model and guide for this "
            "image_shape"
        )
    return x.reshape(-1, *image_shape)


def _flat_codes(z: Tensor, code_shape: tuple[int, ...]) -> Tensor:
    """Check codes ``(*batch, code_dim)`` and reshape them to ``(N, *code_shape)``."""
    if z.shape[-1] != prod(code_shape):
        flat = "" if len(code_shape) == 1 else f" (flattened feature maps {code_shape})"
        raise ValueError(
            f"the decoder expects codes of {prod(code_shape)} dimensions in the last axis{flat}, "
            f"got a tensor of shape {tuple(z.shape)}; build prior, guide, and decoder for the same "
            "code"
        )
    return z.reshape(-1, *code_shape)
