"""pyro_vlae: the Variational Lossy Autoencoder (Chen et al., 2017) as a Pyro program.

The most frequently used names can be imported from here; the subpackages have the rest.
"""

from importlib import import_module
from typing import Any

from pyro_vlae._version import __version__

_SUBPACKAGES = {
    "data": ("load_dataset",),
    "distributions": ("PixelCNN",),
    "guides": ("GaussianGuide", "IAFGuide"),
    "infer": (
        *("FreeBitsELBO", "JointOptim", "marginal_log_likelihood"),
        *("decode", "encode", "inpaint", "reconstruct"),
    ),
    "models": (
        *("VLAE", "FlowPrior", "StandardNormalPrior", "binary_vlae"),
        *("load_pretrained", "load_run"),
    ),
    "training": ("TrainingSettings", "fit"),
}
_HOMES = {name: f"pyro_vlae.{package}" for package, names in _SUBPACKAGES.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a name from its subpackage on first access, so that ``import pyro_vlae`` is fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
