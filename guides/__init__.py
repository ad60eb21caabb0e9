"""The inference side, q(z | x)."""

from pyro_vlae.guides.gaussian import GaussianGuide
from pyro_vlae.guides.iaf import IAFGuide
from pyro_vlae.guides.recipes import colour_guide

__all__ = ["GaussianGuide", "IAFGuide", "colour_guide"]
