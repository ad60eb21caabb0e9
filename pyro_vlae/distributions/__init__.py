"""Likelihoods as Pyro distributions, and emissions from parameters to pixel distributions."""

from pyro_vlae.distributions.discretized_logistic import DiscretizedLogisticMixture
from pyro_vlae.distributions.emissions import (
    EMISSIONS,
    BernoulliEmission,
    DiscretizedLogisticEmission,
    Emission,
)
from pyro_vlae.distributions.pixelcnn import PixelCNN

__all__ = [
    "EMISSIONS",
    "BernoulliEmission",
    "DiscretizedLogisticEmission",
    "DiscretizedLogisticMixture",
    "Emission",
    "PixelCNN",
]
