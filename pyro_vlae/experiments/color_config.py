"""What decides a run on color images: presets for a GPU and for a small machine."""

from dataclasses import dataclass

from pyro.infer import ELBO

from pyro_vlae.experiments.config import ConfigError, TrainingConfig
from pyro_vlae.infer import SoftFreeBitsELBO
from pyro_vlae.nn import MapArchitecture

# What color models can be built of; the other parts of the binary models do not fit them.
CHOICES = {
    "encoder": ("resnet", "densenet"),
    "prior": ("flow", "normal"),
    "guide": ("gaussian",),
    "likelihood": ("pixelcnn",),
}


@dataclass(frozen=True)
class ColorConfig(TrainingConfig):
    """Everything that decides a run on CIFAR-10, as stored in ``config.json``.

    The defaults are those of the ``quick`` preset, a reduced model.

    Args:
        encoder: ``"resnet"`` or ``"densenet"``; the decoder has the same blocks.
        window: ``"4x2"``, ``"5x3"``, ``"7x4"`` or ``"7x4-gray"``.
        prior: ``"flow"`` or ``"normal"``.
        guide: ``"gaussian"``.
        likelihood: ``"pixelcnn"``.
        width: maps of encoder and decoder at the image's size; twice as many at smaller sizes.
        filters: maps of each stack of the PixelCNN.
        flow_maps: maps of the hidden layers of the prior's steps.
        target_nats: target of the rate, see `SoftFreeBitsELBO`.
        flips: mirror training images at random (the paper does not say that it does).
    """

    dataset: str = "cifar10"
    max_minutes: float | None = 12.0
    batch_size: int = 16
    learning_rate: float = 0.004
    clip_norm: float = 50_000.0
    num_samples: int = 16
    eval_images: int | None = 200
    encoder: str = "resnet"
    window: str = "7x4"
    prior: str = "flow"
    guide: str = "gaussian"
    likelihood: str = "pixelcnn"
    width: int = 16
    filters: int = 16
    flow_maps: int = 32
    target_nats: float = 100.0
    flips: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )

    def architecture(self) -> MapArchitecture:
        """Encoder and decoder."""
        channels = (self.width, 2 * self.width, 2 * self.width)
        return MapArchitecture(channels=channels, dense=self.encoder == "densenet")

    def elbo(self, dimensions: int) -> ELBO:
        """The objective: soft free bits."""
        return SoftFreeBitsELBO(self.target_nats)

    def describe_parts(self) -> str:
        """The model and guide, in words."""
        paper = COLOR_PRESETS["paper"]
        sizes = [
            f"{name.replace('_', ' ')} {getattr(self, name)} (paper: {getattr(paper, name)})"
            for name in ("width", "filters", "flow_maps")
            if getattr(self, name) != getattr(paper, name)
        ]
        flips = ", training images mirrored at random" if self.flips else ""
        reduced = f", reduced: {', '.join(sizes)}" if sizes else ""
        return f"{self.encoder} VLAE, window {self.window}, {self.prior} prior{flips}{reduced}"


COLOR_PRESETS = {
    "quick": ColorConfig(),
    # Batch size and number of epochs are not in the paper.
    "paper": ColorConfig(
        preset="paper",
        train_on="train+validation",
        epochs=200,
        max_minutes=None,
        batch_size=64,
        learning_rate=0.002,
        num_samples=512,
        eval_images=None,
        width=48,
        filters=64,
        flow_maps=128,
    ),
}
