"""Recipes for images of 256 gray levels."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from pyro_vlae.data import GRAY, dataset_names
from pyro_vlae.experiments.binary import BinaryRecipe
from pyro_vlae.experiments.recipes import option, register
from pyro_vlae.models.gray import gray_vlae


@register
@dataclass(frozen=True)
class GrayRecipe(BinaryRecipe):
    """A run on gray images, with the networks of `BinaryRecipe` and the options of that recipe.

    Args:
        mixtures: discretized logistics of each pixel.
    """

    family = "gray"
    values = GRAY
    fallback = None

    dataset: str = option(
        "gray-mnist",
        f"{', '.join(dataset_names(GRAY))}, an .npz file, or a folder of images",
        metavar="NAME",
    )
    likelihood: str = option("pixelcnn", "p(x | z)", choices=("pixelcnn",))
    tied: bool = False
    filters: int = 24
    mixtures: int = 5

    @property
    def network(self) -> dict[str, Any]:
        return {**super().network, "mixtures": self.mixtures}

    def build_vlae(self) -> nn.Module:
        return gray_vlae(architecture=self.architecture, prior=self.prior, **self.network)

    def describe_parts(self) -> str:
        return f"{super().describe_parts()}, {self.mixtures} logistics per pixel"
