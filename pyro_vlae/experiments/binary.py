"""Recipes for binary images: MNIST, OMNIGLOT, Caltech-101 Silhouettes, and your own.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.1 and appendix.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from pyro.infer import ELBO, RenyiELBO, Trace_ELBO
from torch import Tensor, nn

from pyro_vlae.data import BINARY, dataset_names
from pyro_vlae.experiments.image_recipe import ImageRecipe
from pyro_vlae.experiments.options import ConfigError, option
from pyro_vlae.experiments.recipes import register
from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim
from pyro_vlae.models.binary import binary_vlae, unconditional_pixelcnn
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.nn.two_stack import window_layers

FREE_NATS_PER_DIMENSION = 0.01  # as in the paper
_GUIDES = {"gaussian": GaussianGuide, "iaf": IAFGuide}


class NoCode(nn.Module):
    """The guide of a model without a code: it samples nothing."""

    def forward(self, x: Tensor) -> None:
        pass


@register
@dataclass(frozen=True)
class BinaryRecipe(ImageRecipe):
    """A run on binary images; the defaults are the ``quick`` preset.

    Args:
        code_dim: dimensions of the code.
        model: ``"vlae"``, or ``"unconditional"`` for the PixelCNN alone.
        prior: ``"flow"`` or ``"normal"``.
        guide: ``"gaussian"`` or ``"iaf"``.
        likelihood: ``"pixelcnn"`` or ``"bernoulli"``.
        tied: whether the PixelCNN's masked convolutions share their weights.
        masked_layers: masked convolutions of the PixelCNN.
        window: ``"AxB"`` for a two-stack PixelCNN with that window (see
            `pyro_vlae.nn.two_stack.window_layers`), or None for a stack of masked convolutions.
        filters: channels of the PixelCNN's hidden layers.
        free_nats: free bits in nats per image; None for the paper's 0.01 per data dimension.
        free_until: fraction of the budget after which there are no free bits.
        dropout: probability of dropping a hidden unit of encoder and decoder in training.
        likelihood_learning_rate_factor: factor on the learning rate of the likelihood.
        train_samples: codes per image in training: 1 for the ELBO with free bits, more for the
            importance-weighted bound (Burda et al., 2016, arXiv:1509.00519), which has none.

    Raises:
        ConfigError: a value is out of range, or options contradict each other.
    """

    family = "binary"
    values = BINARY
    presets = {  # noqa: RUF012 (a ClassVar of the base class)
        "quick": {},
        "paper": {
            "train_on": "train+validation",
            "epochs": 500,
            "max_minutes": None,
            "batch_size": 128,
            "learning_rate": 0.002,
            "num_samples": 4096,
            "eval_images": None,
        },
    }
    # The paper ties the masked convolutions on static MNIST, against overfitting, and unties them
    # on larger data sets.
    dataset_defaults = {  # noqa: RUF012
        name: {"tied": False} for name in ("mnist", "omniglot", "caltech101")
    }
    fallback: ClassVar[str | None] = "digits"

    dataset: str = option(
        "static-mnist",
        f"{', '.join(dataset_names(BINARY))} (used if the default is not found), an .npz file, "
        "or a folder of images",
        metavar="NAME",
    )
    model: str = option("vlae", choices=("vlae", "unconditional"))
    prior: str = option("flow", "p(z)", choices=("flow", "normal"))
    guide: str = option("gaussian", "q(z | x)", choices=tuple(_GUIDES))
    likelihood: str = option("pixelcnn", "p(x | z)", choices=("pixelcnn", "bernoulli"))
    code_dim: int = option(64, "dimensions of the code", metavar="D")
    tied: bool = option(True, "share the weights of the masked convolutions")
    masked_layers: int = 6
    window: str | None = option(
        None,
        "what a pixel is given: A columns of the B rows above, e.g. 7x4",
        metavar="AxB",
    )
    filters: int = 12
    free_nats: float | None = option(None, inherited=False)
    free_until: float = option(1.0, inherited=False)
    dropout: float = option(0.0, "dropout in encoder and decoder", metavar="P", or_zero=True)
    likelihood_learning_rate_factor: float = option(
        1.0, "factor on the learning rate of the PixelCNN", metavar="F"
    )
    train_samples: int = option(
        1,
        "codes per image in training; above 1: the importance-weighted bound",
        metavar="K",
        inherited=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.train_samples < 1:
            raise ConfigError(f"train_samples must be at least 1, got {self.train_samples}")
        ignored = None if self.has_code else "model unconditional has no code"
        if self.free_nats:
            ignored = f"free_nats is {self.free_nats:g}, and its bound has no free bits"
        if self.train_samples > 1 and ignored:
            raise ConfigError(
                f"train_samples is {self.train_samples}, but {ignored}: leave one of them out"
            )
        if self.window is not None:
            if self.likelihood == "bernoulli":
                raise ConfigError("likelihood bernoulli has no window: leave out --window")
            window_layers(self.window)  # raises if no network has it

    @property
    def has_code(self) -> bool:
        return self.model == "vlae"

    @property
    def architecture(self) -> ResNetArchitecture:
        """Sizes of image and code."""
        return ResNetArchitecture(self.image_shape, self.code_dim, dropout=self.dropout)

    @property
    def network(self) -> dict[str, Any]:
        """Arguments for the network of the PixelCNN."""
        return {
            "tied": self.tied,
            "masked_layers": None if self.window else self.masked_layers,
            "window": self.window,
            "pixelcnn_channels": self.filters,
        }

    def build(self) -> tuple[nn.Module, nn.Module]:
        if not self.has_code:
            return unconditional_pixelcnn(image_shape=self.image_shape, **self.network), NoCode()
        return self.build_vlae(), _GUIDES[self.guide](architecture=self.architecture)

    def build_vlae(self) -> nn.Module:
        """A new model with a code."""
        return binary_vlae(
            architecture=self.architecture,
            prior=self.prior,
            likelihood=self.likelihood,
            **self.network,
        )

    def optimizer(self, **options: Any) -> JointOptim:
        factor = self.likelihood_learning_rate_factor
        if factor != 1:
            options["learning_rate_factors"] = {"model.likelihood.": factor}
        return super().optimizer(**options)

    def objective(self, dimensions: int) -> ELBO:
        if not self.has_code:
            return Trace_ELBO()
        if self.train_samples > 1:
            # All sites are in the plate of images, so each image has weights of its own.
            return RenyiELBO(
                alpha=0,
                num_particles=self.train_samples,
                vectorize_particles=True,
                max_plate_nesting=1,
            )
        floor, until = self._floor(dimensions), self.free_until
        if until >= 1:
            return FreeBitsELBO(floor)
        return FreeBitsELBO(lambda progress: floor if progress < until else 0.0)

    def _floor(self, dimensions: int) -> float:
        """The free bits, in nats per image."""
        return FREE_NATS_PER_DIMENSION * dimensions if self.free_nats is None else self.free_nats

    def describe(self) -> str:
        more, floor = "", self._floor(prod(self.image_shape))
        if self.has_code and self.train_samples == 1 and floor:
            until = f" for {self.free_until:.0%} of the budget" if self.free_until < 1 else ""
            more += f"\nfree bits: {floor:.4g} nats per image{until}"
        if (factor := self.likelihood_learning_rate_factor) != 1:
            more += f"\nthe PixelCNN at {factor:g} times the learning rate"
        return super().describe() + more

    def describe_objective(self) -> str:
        codes = self.train_samples
        return f"importance-weighted bound of {codes} codes per image" if codes > 1 else "ELBO"

    def describe_parts(self) -> str:
        parts = "unconditional PixelCNN"
        if self.has_code:
            parts = f"{self.prior} prior, {self.guide} guide, {self.likelihood} likelihood"
        if self.has_code and self.likelihood == "bernoulli":
            return parts
        if self.window:
            return f"{parts} (window {self.window})"
        return f"{parts} (tied)" if self.tied else parts
