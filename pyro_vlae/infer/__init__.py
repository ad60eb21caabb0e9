"""How a model and a guide are fitted and scored: bounds, optimisers, log-likelihoods."""

from pyro_vlae.infer.elbo import FreeBitsELBO
from pyro_vlae.infer.importance import marginal_log_likelihood
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.infer.soft_free_bits import SoftFreeBitsELBO
from pyro_vlae.infer.weights import MarginalLikelihood

__all__ = [
    "FreeBitsELBO",
    "JointOptim",
    "MarginalLikelihood",
    "SoftFreeBitsELBO",
    "marginal_log_likelihood",
]
