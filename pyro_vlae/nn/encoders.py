"""Encoders and decoders: ResNets for vector codes, stages of blocks for codes that are maps.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, sections 4.1 and 4.3 and
    appendix.
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
    arXiv:1606.04934, appendix B (the ResNet).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.blocks import DENSE_STEPS, DenseBlock, ResidualBlock
from pyro_vlae.nn.weight_norm import (
    BRANCH_INIT_SCALE,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    image_layout,
)


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


@dataclass(frozen=True)
class Architecture:
    """What encoder and decoder have in common; the defaults are the paper's.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        code_maps: maps of the code.
        widths: maps of each stage, from the image's size down; each stage has half the size of the
            one before.
        blocks: residual blocks of each stage.
        dense: each pair of residual blocks (a single one left over, too) becomes a `DenseBlock`.

    Raises:
        ValueError: the stages are not as many as the widths, or the image cannot be halved that
            often.
    """

    image_shape: tuple[int, int, int] = (3, 32, 32)
    code_maps: int = 16
    widths: Sequence[int] = (48, 96, 96)
    blocks: Sequence[int] = (2, 2, 3)
    dense: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks) or not self.widths:
            raise ValueError(
                f"widths and blocks must have one number for each stage, got {self.widths} and "
                f"{self.blocks}"
            )
        if any(size % self.shrinkage for size in self.image_shape[1:]):
            raise ValueError(
                f"{len(self.widths)} stages need a height and width divisible by "
                f"{self.shrinkage}, got images of shape {self.image_shape}: use fewer stages, or "
                "pad the images"
            )

    @property
    def shrinkage(self) -> int:
        """How many pixels of the image a code position spans on a side."""
        return 2 ** (len(self.widths) - 1)

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """``(maps, height, width)`` of the code."""
        _, height, width = self.image_shape
        return self.code_maps, height // self.shrinkage, width // self.shrinkage

    def entry(self, stage: int) -> int:
        """Maps with which a stage begins."""
        return self.widths[stage] // 2 if self.dense else self.widths[stage]

    def exit(self, stage: int) -> int:
        """Maps with which a stage ends."""
        if not self.dense:
            return self.widths[stage]
        return self.entry(stage) + DENSE_STEPS * growth_rate(self.widths[stage])

    def stage(self, stage: int) -> nn.Module:
        """The blocks of a stage, which keep the size."""
        if not self.dense:
            width = self.widths[stage]
            return nn.Sequential(*(ResidualBlock(width, width) for _ in range(self.blocks[stage])))
        entry, growth = self.entry(stage), growth_rate(self.widths[stage])
        modules: list[nn.Module] = []
        for k in range((self.blocks[stage] + 1) // 2):
            if k:
                modules += [nn.ELU(), WeightNormConv2d(self.exit(stage), entry, 1)]
            modules.append(DenseBlock(entry, growth))
        return nn.Sequential(*modules)


def growth_rate(width: int) -> int:
    """Maps that each step of a dense block adds, in place of residual blocks of this width.

    The paper gives no number, only that a block ends slightly wider than the residual stage: it
    begins here with half of the width and ends with the width and three to five maps more (51 for
    48, 99 for 96).
    """
    return -(-(width - width // 2) // DENSE_STEPS) + 1


class MapEncoder(nn.Module):
    """Image to the code's feature maps, each stage half the size of the one before.

    A 3x3 convolution, the blocks of the first stage, a strided convolution, the blocks of the
    second, and so on; a 1x1 convolution at the end gives ``2 code_maps`` maps: means, then raw
    scales.

    Args:
        architecture: see `Architecture`.

    Shapes: ``(*batch, *image_shape) -> (*batch, 2 * code_dim)``, the maps flattened.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.image_shape = a.image_shape
        self.first = WeightNormConv2d(a.image_shape[0], a.entry(0))
        modules: list[nn.Module] = [a.stage(0)]
        for k in range(1, len(a.widths)):
            modules += [nn.ELU(), WeightNormConv2d(a.exit(k - 1), a.entry(k), stride=2), a.stage(k)]
        self.stages = nn.Sequential(*modules)
        self.last = WeightNormConv2d(a.exit(-1), 2 * a.code_maps, 1, init_scale=BRANCH_INIT_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        check_image_shape(x, self.image_shape)
        h = self.stages(self.first(image_layout(x.reshape(-1, *self.image_shape))))
        return self.last(F.elu(h)).flatten(1).reshape(*x.shape[:-3], -1)


class MapDecoder(nn.Module):
    """Code to feature maps of the image's size: the mirror image of `MapEncoder`.

    It ends with the maps of the stage at the image's size, after a last ELU, for the likelihood to
    read; ``feature_maps`` says how many.

    Args:
        architecture: see `Architecture`.

    Shapes: ``(*batch, code_dim) -> (*batch, feature_maps, height, width)``.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.code_shape = a.code_shape
        self.feature_maps = a.exit(0)
        self.first = WeightNormConv2d(a.code_maps, a.entry(-1), 1)
        modules: list[nn.Module] = [a.stage(-1)]
        for k in reversed(range(len(a.widths) - 1)):
            up = WeightNormConvTranspose2d(a.exit(k + 1), a.entry(k))
            modules += [nn.ELU(), up, a.stage(k)]
        self.stages = nn.Sequential(*modules)

    def forward(self, z: Tensor) -> Tensor:
        if z.shape[-1] != prod(self.code_shape):
            raise ValueError(
                f"the decoder expects codes of {prod(self.code_shape)} dimensions in the last "
                f"axis, the flat form of maps {self.code_shape}, got a tensor of shape "
                f"{tuple(z.shape)}; build prior, guide and decoder for the same code"
            )
        h = self.first(image_layout(z.reshape(-1, *self.code_shape)))
        h = F.elu(self.stages(h))
        return h.reshape(*z.shape[:-1], *h.shape[1:])
