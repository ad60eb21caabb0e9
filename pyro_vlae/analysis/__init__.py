"""Analysis of trained models: rates, paths, neighbors, probes, receptive fields, comparisons."""

from pyro_vlae.analysis.arviz_export import to_inference_data
from pyro_vlae.analysis.codes import CodeDimensionRates, code_dimension_rates, code_marginals
from pyro_vlae.analysis.comparison import ComparedModel, ModelComparison, compare_models
from pyro_vlae.analysis.neighbors import nearest_neighbors
from pyro_vlae.analysis.paths import CodeSwap, interpolate_codes, interpolate_images, swap_codes
from pyro_vlae.analysis.probe import Probe, linear_probe
from pyro_vlae.analysis.receptive_field import PixelInfluence, pixel_influence

__all__ = [
    "CodeDimensionRates",
    "CodeSwap",
    "ComparedModel",
    "ModelComparison",
    "PixelInfluence",
    "Probe",
    "code_dimension_rates",
    "code_marginals",
    "compare_models",
    "interpolate_codes",
    "interpolate_images",
    "linear_probe",
    "nearest_neighbors",
    "pixel_influence",
    "swap_codes",
    "to_inference_data",
]
