"""Generative models p(x, z): priors, likelihoods, the VLAE, and the paper's models by name."""

from typing import Any

from pyro_vlae.models.binary import binary_vlae, unconditional_pixelcnn
from pyro_vlae.models.color import color_vlae, densenet_vlae, resnet_vlae
from pyro_vlae.models.gray import gray_vlae
from pyro_vlae.models.likelihoods import BernoulliLikelihood, PixelCNNLikelihood
from pyro_vlae.models.priors import FlowPrior, StandardNormalPrior, spatial_flow_prior
from pyro_vlae.models.vlae import VLAE, UnconditionalModel

__all__ = [
    "VLAE",
    "BernoulliLikelihood",
    "FlowPrior",
    "PixelCNNLikelihood",
    "StandardNormalPrior",
    "UnconditionalModel",
    "binary_vlae",
    "color_vlae",
    "densenet_vlae",
    "gray_vlae",
    "load_pretrained",
    "load_run",
    "pretrained_names",
    "resnet_vlae",
    "spatial_flow_prior",
    "unconditional_pixelcnn",
]


def __getattr__(name: str) -> Any:
    """Import the loaders, which live in `pyro_vlae.experiments`, on first use."""
    if name in ("load_pretrained", "load_run", "pretrained_names"):
        from pyro_vlae.experiments import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
