"""What Pyro's autoregressive transforms lack."""

from pyro_vlae.transforms.mean_only import MeanOnlyAutoregressive, mean_only_autoregressive

__all__ = ["MeanOnlyAutoregressive", "mean_only_autoregressive"]
