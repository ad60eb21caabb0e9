"""Autoregressive transforms: mean-only layers, layers on feature maps, and fast inverses."""

from pyro_vlae.transforms.affine import IncrementalAffineAutoregressive
from pyro_vlae.transforms.cache import clear_cache
from pyro_vlae.transforms.mean_only import MeanOnlyAutoregressive, mean_only_autoregressive
from pyro_vlae.transforms.spatial import SpatialMeanOnlyAutoregressive

__all__ = [
    "IncrementalAffineAutoregressive",
    "MeanOnlyAutoregressive",
    "SpatialMeanOnlyAutoregressive",
    "clear_cache",
    "mean_only_autoregressive",
]
