"""Guides q(z | x)."""

from pyro_vlae.guides.color import color_guide
from pyro_vlae.guides.gaussian import GaussianGuide
from pyro_vlae.guides.iaf import IAFGuide

__all__ = ["GaussianGuide", "IAFGuide", "color_guide"]
