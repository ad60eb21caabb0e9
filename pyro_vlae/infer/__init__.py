"""How a model and a guide are fitted and scored: bounds, optimisers, log-likelihoods."""

from pyro_vlae.infer.capturable import CapturableOptim
from pyro_vlae.infer.codes import CodeDimensionRates, code_dimension_rates, code_marginals
from pyro_vlae.infer.elbo import FreeBitsELBO
from pyro_vlae.infer.graphed import CaptureError, GraphedSVI
from pyro_vlae.infer.importance import marginal_log_likelihood
from pyro_vlae.infer.influence import PixelInfluence, pixel_influence
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.infer.soft_free_bits import SoftFreeBitsELBO
from pyro_vlae.infer.weights import MarginalLikelihood

__all__ = [
    "CapturableOptim",
    "CaptureError",
    "CodeDimensionRates",
    "FreeBitsELBO",
    "GraphedSVI",
    "JointOptim",
    "MarginalLikelihood",
    "PixelInfluence",
    "SoftFreeBitsELBO",
    "code_dimension_rates",
    "code_marginals",
    "marginal_log_likelihood",
    "pixel_influence",
]
