"""What a trained model's code holds: rates, paths, probes, receptive fields, comparisons, ArviZ."""

from pyro_vlae.analysis.arviz_export import to_inference_data
from pyro_vlae.analysis.codes import CodeDimensionRates, code_dimension_rates, code_marginals
from pyro_vlae.analysis.comparison import compare_models
from pyro_vlae.analysis.probe import linear_probe
from pyro_vlae.analysis.receptive_field import PixelInfluence, pixel_influence

__all__ = [
    "CodeDimensionRates",
    "PixelInfluence",
    "code_dimension_rates",
    "code_marginals",
    "compare_models",
    "linear_probe",
    "pixel_influence",
    "to_inference_data",
]
