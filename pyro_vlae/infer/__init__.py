"""How a model and a guide are fitted and scored: bounds, optimizers, log-likelihoods."""

from pyro_vlae.infer.capturable import CapturableOptim
from pyro_vlae.infer.elbo import FreeBitsELBO
from pyro_vlae.infer.graphed import CaptureError, GraphedSVI
from pyro_vlae.infer.importance import marginal_log_likelihood
from pyro_vlae.infer.initialize import initialize
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.infer.soft_free_bits import SoftFreeBitsELBO
from pyro_vlae.infer.weights import MarginalLikelihood

__all__ = [
    "CapturableOptim",
    "CaptureError",
    "FreeBitsELBO",
    "GraphedSVI",
    "JointOptim",
    "MarginalLikelihood",
    "SoftFreeBitsELBO",
    "initialize",
    "marginal_log_likelihood",
]
