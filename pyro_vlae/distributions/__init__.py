"""Likelihoods as Pyro distributions."""

from pyro_vlae.distributions.pixelcnn import PixelCNN

__all__ = ["PixelCNN"]
