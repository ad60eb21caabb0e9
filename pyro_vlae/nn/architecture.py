"""Descriptions of encoders and decoders.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, sections 4.1 and 4.3 and
    appendix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

Kind = TypeVar("Kind", bound="Architecture")


@dataclass(frozen=True)
class Architecture:
    """The sizes of an encoder and of the decoder that mirrors it.

    It is only a description: pass the same object to the model's builder and to the guide. The code
    of a `ResNetArchitecture` is a vector; that of a `MapArchitecture` consists of feature maps.

    Args:
        image_shape: ``(channels, height, width)`` of the images.

    Raises:
        ValueError: a size is not a positive integer.
    """

    image_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.image_shape) != 3:
            raise ValueError(
                f"image_shape must be (channels, height, width), got {self.image_shape}"
            )
        for name, value in vars(self).items():
            if name == "dropout":
                continue
            sizes = value if isinstance(value, Sequence) else (value,)
            smallest = 0 if name in ("blocks", "dense") else 1
            if not sizes or any(not isinstance(s, int) or s < smallest for s in sizes):
                kind = "a positive integer" if smallest else "an integer, 0 or more,"
                raise ValueError(f"{name} must be {kind} everywhere, got {value!r}")

    @property
    def code_shape(self) -> tuple[int, ...]:
        """``(code_dim,)`` for a vector, ``(channels, height, width)`` for feature maps."""
        raise NotImplementedError

    @property
    def code_dim(self) -> int:
        """Number of dimensions of the code as a flat vector."""
        return prod(self.code_shape)


@dataclass(frozen=True)
class ResNetArchitecture(Architecture):
    """Strided residual blocks and a dense layer, for codes that are vectors.

    The defaults are those of the paper's binary images.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        code_dim: dimensions of the code.
        channels: channels of the encoder's strided blocks, each of which halves the size.
        features: units of the dense layer between the smallest feature maps and the code.
        feature_channels: channels of the decoder's output, which the likelihood reads.
        dropout: probability of dropping a hidden unit in training, before the second convolution
            of each residual block and after the dense layer.

    Raises:
        ValueError: a size is not a positive integer, or dropout is not a probability below 1.
    """

    image_shape: tuple[int, int, int] = (1, 28, 28)
    code_dim: int = 64
    channels: Sequence[int] = (16, 32, 32)
    features: int = 450
    feature_channels: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    @property
    def code_shape(self) -> tuple[int]:
        """``(code_dim,)``."""
        return (self.code_dim,)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """``(height, width)`` of the image and after each strided block, rounded up."""
        sizes = [self.image_shape[1:]]
        for _ in self.channels:
            height, width = sizes[-1]
            sizes.append(((height + 1) // 2, (width + 1) // 2))
        return sizes


@dataclass(frozen=True)
class MapArchitecture(Architecture):
    """Stages of residual or dense blocks, for codes that are feature maps.

    The defaults are those of the paper's color images.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        code_channels: channels of the code, which has the height and width of the last stage.
        channels: channels of each stage, starting at full resolution; each stage has half the
            height and width of the one before.
        blocks: residual blocks of each stage.
        dense: replace each pair of residual blocks (and a remaining single one) by a `DenseBlock`.

    Raises:
        ValueError: a size is not a positive integer, channels and blocks have different lengths,
            or the image cannot be halved that often.
    """

    image_shape: tuple[int, int, int] = (3, 32, 32)
    code_channels: int = 16
    channels: Sequence[int] = (48, 96, 96)
    blocks: Sequence[int] = (2, 2, 3)
    dense: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.channels) != len(self.blocks):
            raise ValueError(
                f"channels and blocks must have one entry for each stage, got {self.channels} "
                f"and {self.blocks}"
            )
        if any(size % self.downsampling for size in self.image_shape[1:]):
            raise ValueError(
                f"{len(self.channels)} stages need a height and width divisible by "
                f"{self.downsampling}, got images of shape {self.image_shape}: use fewer stages, "
                "or pad the images"
            )

    @property
    def downsampling(self) -> int:
        """Ratio of the image's height and width to those of the code."""
        return 2 ** (len(self.channels) - 1)

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of the code."""
        _, height, width = self.image_shape
        return self.code_channels, height // self.downsampling, width // self.downsampling


def complete_architecture(architecture: Kind | None, default: type[Kind], **sizes: object) -> Kind:
    """Return the given architecture, or the default kind with these sizes (None: its defaults).

    Raises:
        ValueError: a size differs from that of the given architecture.
    """
    given = {name: value for name, value in sizes.items() if value is not None}
    if architecture is None:
        return default(**given)  # type: ignore[arg-type]
    for name, value in given.items():
        own = getattr(architecture, name, None)
        if value != own:
            raise ValueError(
                f"{name}={value} contradicts the architecture, which has {name}={own}: pass only "
                "one of them"
            )
    return architecture
