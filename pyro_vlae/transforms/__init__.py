"""What Pyro's autoregressive transforms lack: mean-only steps, and a fast inverse."""

from pyro_vlae.transforms.affine import IncrementalAffineAutoregressive
from pyro_vlae.transforms.mean_only import MeanOnlyAutoregressive, mean_only_autoregressive

__all__ = [
    "IncrementalAffineAutoregressive",
    "MeanOnlyAutoregressive",
    "mean_only_autoregressive",
]
