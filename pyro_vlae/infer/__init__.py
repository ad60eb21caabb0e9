"""Fitting and scoring: ELBOs, the optimizer, initialization, and log-likelihoods."""

from pyro_vlae.infer.decompress import decompress
from pyro_vlae.infer.elbo import FreeBitsELBO
from pyro_vlae.infer.importance import marginal_log_likelihood
from pyro_vlae.infer.initialize import initialize
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.infer.particles import ImportanceSamples, importance_samples
from pyro_vlae.infer.rate import RateELBO
from pyro_vlae.infer.soft_free_bits import SoftFreeBitsELBO
from pyro_vlae.infer.weights import MarginalLikelihood

__all__ = [
    "FreeBitsELBO",
    "ImportanceSamples",
    "JointOptim",
    "MarginalLikelihood",
    "RateELBO",
    "SoftFreeBitsELBO",
    "decompress",
    "importance_samples",
    "initialize",
    "marginal_log_likelihood",
]
