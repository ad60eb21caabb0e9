"""The ResNet encoder and decoder of the paper's binary-image models.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.1 and appendix.
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
    arXiv:1606.04934, appendix B (the ResNet).
"""

from collections.abc import Sequence
from math import prod
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.layout import image_layout
from pyro_vlae.nn.weight_norm import (
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
)

# Residual branches start small, so that a deep network starts near the identity.
BRANCH_INIT_SCALE = 0.1


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with ELU before each, added to a skip connection.

    Args:
        in_channels: maps coming in.
        out_channels: maps going out.
        resample: ``"down"`` halves the size (stride 2), ``"up"`` doubles it (transposed), ``None``
            keeps it. Where shapes change, the skip is a convolution of the same stride.
        output_padding: with ``"up"``, (rows, columns) added to ``2 size - 1``, each 0 or 1.

    Shapes: ``(N, in_channels, H, W) -> (N, out_channels, H', W')``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resample: Literal["down", "up"] | None = None,
        output_padding: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.skip: nn.Module
        if resample == "up":
            self.first: nn.Module = WeightNormConvTranspose2d(
                in_channels, out_channels, output_padding
            )
            self.skip = WeightNormConvTranspose2d(in_channels, out_channels, output_padding)
        elif resample == "down":
            self.first = WeightNormConv2d(in_channels, out_channels, stride=2)
            self.skip = WeightNormConv2d(in_channels, out_channels, stride=2)
        else:
            self.first = WeightNormConv2d(in_channels, out_channels)
            same = in_channels == out_channels
            self.skip = nn.Identity() if same else WeightNormConv2d(in_channels, out_channels, 1)
        self.second = WeightNormConv2d(out_channels, out_channels, init_scale=BRANCH_INIT_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        x = image_layout(x)
        return self.skip(x) + self.second(F.elu(self.first(F.elu(x))))


def _halved(size: int) -> int:
    return (size + 1) // 2


class ResNetEncoder(nn.Module):
    """Image to features: strided residual blocks with a stride-1 block between them, then linear.

    With the default ``channels`` and a 28x28 image the maps shrink 28 -> 14 -> 7 -> 4.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        channels: maps of the strided blocks.
        features: size of the output.

    Shapes: ``(*batch, *image_shape) -> (*batch, features)``.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        channels: Sequence[int] = (16, 32, 32),
        features: int = 450,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.out_features = features
        maps, height, width = image_shape
        blocks: list[nn.Module] = []
        for k, out in enumerate(channels):
            if k:
                blocks.append(ResidualBlock(maps, maps))
            blocks.append(ResidualBlock(maps, out, "down"))
            maps, height, width = out, _halved(height), _halved(width)
        self.blocks = nn.Sequential(*blocks)
        self.linear = WeightNormLinear(maps * height * width, features)

    def forward(self, x: Tensor) -> Tensor:
        check_image_shape(x, self.image_shape)
        batch = x.shape[:-3]
        h = self.blocks(x.reshape(-1, *self.image_shape))
        h = F.elu(self.linear(F.elu(h).flatten(1)))
        return h.reshape(*batch, self.out_features)


class ResNetDecoder(nn.Module):
    """Code to feature maps of the image's size: the mirror image of `ResNetEncoder`.

    Args:
        code_dim: size of the code.
        image_shape: ``(channels, height, width)`` of the images; the channels do not matter here.
        channels: maps of the encoder's strided blocks, in the encoder's order.
        features: size of the linear layer.
        feature_maps: maps going out (not a mean image: the likelihood reads them).

    Shapes: ``(*batch, code_dim) -> (*batch, feature_maps, height, width)``.
    """

    def __init__(
        self,
        code_dim: int = 64,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        channels: Sequence[int] = (16, 32, 32),
        features: int = 450,
        feature_maps: int = 4,
    ) -> None:
        super().__init__()
        self.code_dim = code_dim
        self.feature_maps = feature_maps
        sizes = [image_shape[1:]]
        for _ in channels:
            sizes.append((_halved(sizes[-1][0]), _halved(sizes[-1][1])))
        maps = channels[-1]
        self.smallest = (maps, *sizes[-1])
        self.first = WeightNormLinear(code_dim, features)
        self.second = WeightNormLinear(features, prod(self.smallest))
        blocks: list[nn.Module] = []
        for k in reversed(range(len(channels))):
            out = channels[max(k - 1, 0)]
            (height, width), (full_height, full_width) = sizes[k + 1], sizes[k]
            padding = (full_height - 2 * height + 1, full_width - 2 * width + 1)
            blocks.append(ResidualBlock(maps, out, "up", padding))
            if k:
                blocks.append(ResidualBlock(out, out))
            maps = out
        self.blocks = nn.Sequential(*blocks)
        self.last = WeightNormConv2d(maps, feature_maps)

    def forward(self, z: Tensor) -> Tensor:
        if z.shape[-1] != self.code_dim:
            raise ValueError(
                f"the decoder expects codes of {self.code_dim} dimensions in the last axis, "
                f"got a tensor of shape {tuple(z.shape)}; build prior, guide and decoder with the "
                "same code_dim"
            )
        batch = z.shape[:-1]
        h = F.elu(self.first(z.reshape(-1, self.code_dim)))
        h = self.second(h).view(-1, *self.smallest)
        h = self.last(F.elu(self.blocks(h)))
        return h.view(*batch, *h.shape[1:])


def check_image_shape(x: Tensor, image_shape: Sequence[int]) -> None:
    """Raise a ValueError unless x is floating point and ``(*batch, *image_shape)``."""
    if not x.is_floating_point():
        raise ValueError(f"expected floating-point images, got {x.dtype}: convert with x.float()")
    if tuple(x.shape[-3:]) != tuple(image_shape) or x.dim() < 3:
        raise ValueError(
            f"expected images of shape (*batch, {', '.join(map(str, image_shape))}) "
            f"(channels, height, width), got {tuple(x.shape)}; resize the images, or build the "
            "model and guide with the images' own image_shape"
        )
