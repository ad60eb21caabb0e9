"""The generative side, p(x, z): priors, likelihoods, the VLAE and the paper's recipes by name."""

from pyro_vlae.models.colour_recipes import colour_vlae, densenet_vlae, resnet_vlae
from pyro_vlae.models.likelihoods import BernoulliLikelihood, PixelCNNLikelihood
from pyro_vlae.models.pretrained import (
    build_from_config,
    load_pretrained,
    load_run,
    pretrained_names,
)
from pyro_vlae.models.priors import FlowPrior, StandardNormalPrior, spatial_flow_prior
from pyro_vlae.models.recipes import binary_vlae, unconditional_pixelcnn
from pyro_vlae.models.vlae import VLAE, UnconditionalModel

__all__ = [
    "VLAE",
    "BernoulliLikelihood",
    "FlowPrior",
    "PixelCNNLikelihood",
    "StandardNormalPrior",
    "UnconditionalModel",
    "binary_vlae",
    "build_from_config",
    "colour_vlae",
    "densenet_vlae",
    "load_pretrained",
    "load_run",
    "pretrained_names",
    "resnet_vlae",
    "spatial_flow_prior",
    "unconditional_pixelcnn",
]
