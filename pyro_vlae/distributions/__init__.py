"""Likelihoods as Pyro distributions."""

from pyro_vlae.distributions.discretized_logistic import DiscretizedLogisticMixture
from pyro_vlae.distributions.pixelcnn import PixelCNN

__all__ = ["DiscretizedLogisticMixture", "PixelCNN"]
