"""Support for both ArviZ 0.x and 1.x. ArviZ is imported when it is first used."""

import importlib
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import xarray


def import_arviz() -> ModuleType:
    """Import ArviZ, which takes a second or two, without the warning of 0.23 about 1.0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("arviz")


def gather_groups(groups: "Mapping[str, xarray.Dataset]") -> Any:
    """Return an ``arviz.InferenceData`` (ArviZ 0.x) or an ``xarray.DataTree`` (1.x) of groups."""
    arviz = import_arviz()
    if hasattr(arviz, "convert_to_datatree"):  # 1.x has InferenceData, too
        return importlib.import_module("xarray").DataTree.from_dict(dict(groups))
    return arviz.InferenceData(**groups)


def pareto_shapes(log_weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shape of the generalized Pareto tail of each row of log-weights ``(N, K)``: ``(N,)``."""
    arviz = import_arviz()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if hasattr(arviz, "psislw"):
            shapes = arviz.psislw(log_weights)[1]
        else:  # 1.x takes log-likelihoods of left-out points: negative log-weights
            statistics = importlib.import_module("arviz_stats.base").array_stats
            shapes = statistics.psislw(-log_weights)[1]
    return np.asarray(shapes, dtype=np.float64)
