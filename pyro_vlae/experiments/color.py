"""Recipes for color images: CIFAR-10, and your own.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix.
"""

from dataclasses import dataclass

from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vlae.data import BYTES, ImageDataset, dataset_names
from pyro_vlae.experiments.image_recipe import ImageRecipe
from pyro_vlae.experiments.options import ConfigError, option
from pyro_vlae.experiments.recipes import register
from pyro_vlae.guides import color_guide
from pyro_vlae.infer import SoftFreeBitsELBO
from pyro_vlae.models.color import color_vlae
from pyro_vlae.nn import MapArchitecture


@register
@dataclass(frozen=True)
class ColorRecipe(ImageRecipe):
    """A run on color images; the ``quick`` preset has a smaller model than the paper's.

    Args:
        encoder: ``"resnet"`` or ``"densenet"``, for the encoder and the decoder.
        window: ``"4x2"``, ``"5x3"``, ``"7x4"``, or ``"7x4-gray"``.
        prior: ``"flow"`` or ``"normal"``.
        guide: ``"gaussian"``.
        likelihood: ``"pixelcnn"``.
        code_channels: channels of the code, which has a quarter of the images' height and width.
        width: channels of encoder and decoder at full resolution; lower resolutions have twice as
            many.
        filters: channels of each stack of the PixelCNN.
        flow_maps: channels of the hidden layers of the prior's transforms.
        target_nats: target of the rate in nats per image, see `SoftFreeBitsELBO`.
        flips: whether to mirror training images at random (the paper does not mention it).

    Raises:
        ConfigError: a value is out of range, or the images do not have 3 channels or a height and
            width divisible by 4.
    """

    family = "color"
    values = BYTES
    presets = {  # noqa: RUF012 (a ClassVar of the base class)
        "quick": {},
        # The paper does not state the batch size or the number of epochs.
        "paper": {
            "train_on": "train+validation",
            "epochs": 200,
            "max_minutes": None,
            "batch_size": 64,
            "learning_rate": 0.002,
            "num_samples": 512,
            "eval_images": None,
            "width": 48,
            "filters": 64,
            "flow_maps": 128,
        },
    }

    image_shape: tuple[int, int, int] = (3, 32, 32)
    dataset: str = option(
        "cifar10",
        f"{', '.join(dataset_names(BYTES))}, an .npz file, or a folder of images",
        metavar="NAME",
    )
    max_minutes: float | None = 12.0
    batch_size: int = 16
    learning_rate: float = 0.004
    clip_norm: float = 50_000.0
    num_samples: int = 16
    eval_images: int | None = 200
    window: str = option("7x4", "window of the decoder", choices=("4x2", "5x3", "7x4", "7x4-gray"))
    encoder: str = option("resnet", "blocks of encoder and decoder", choices=("resnet", "densenet"))
    prior: str = option("flow", "p(z)", choices=("flow", "normal"))
    guide: str = option("gaussian", choices=("gaussian",))
    likelihood: str = option("pixelcnn", choices=("pixelcnn",))
    code_channels: int = option(16, "channels of the code", metavar="C")
    width: int = option(16, "encoder channels at full size")
    filters: int = option(16, "channels of the PixelCNN's stacks")
    flow_maps: int = option(32, "channels of the prior's hidden layers")
    target_nats: float = option(100.0, "target rate of soft free bits, nats", or_zero=True)
    flips: bool = option(False, "mirror training images at random")

    def __post_init__(self) -> None:
        super().__post_init__()
        channels, height, width = self.image_shape
        if channels != 3 or height % 4 or width % 4:
            raise ConfigError(
                "models of the family 'color' need 3 channels and a height and width divisible by "
                f"4, got images of shape {self.image_shape}: crop, pad, or resize the images"
            )

    @property
    def architecture(self) -> MapArchitecture:
        """Sizes and blocks of encoder and decoder."""
        channels = (self.width, 2 * self.width, 2 * self.width)
        return MapArchitecture(
            self.image_shape,
            self.code_channels,
            channels=channels,
            dense=self.encoder == "densenet",
        )

    def build(self) -> tuple[nn.Module, nn.Module]:
        model = color_vlae(
            self.architecture,
            self.window,
            prior=self.prior,
            flow_channels=(self.flow_maps, self.flow_maps),
            pixelcnn_channels=self.filters,
        )
        return model, color_guide(self.architecture)

    def augmented(self, data: ImageDataset) -> ImageDataset:
        return data.with_flips() if self.flips else data

    def objective(self, dimensions: int) -> ELBO:
        return SoftFreeBitsELBO(self.target_nats)

    def describe_parts(self) -> str:
        paper = self.presets["paper"]
        sizes = [
            f"{name.replace('_', ' ')} {getattr(self, name)} (paper: {paper[name]})"
            for name in ("width", "filters", "flow_maps")
            if getattr(self, name) != paper[name]
        ]
        flips = ", training images mirrored at random" if self.flips else ""
        reduced = f", reduced: {', '.join(sizes)}" if sizes else ""
        return f"{self.encoder} VLAE, window {self.window}, {self.prior} prior{flips}{reduced}"


def color_error(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """The error of each reconstruction's mean color, ``(N,)``, on the scale 0 to 255.

    It is the absolute difference of an image's and its reconstruction's mean in each color channel,
    averaged over the channels. Images are ``(N, 3, H, W)`` in [-1, 1].
    """
    return 127.5 * (originals - reconstructions).mean((-2, -1)).abs().mean(-1)
