"""Inference: ELBOs, the optimizer, log-likelihoods, codes of images, and inpainting."""

from pyro_vlae.infer.codes import decode, encode, reconstruct
from pyro_vlae.infer.elbo import FreeBitsELBO
from pyro_vlae.infer.importance import marginal_log_likelihood
from pyro_vlae.infer.initialize import initialize
from pyro_vlae.infer.inpaint import inpaint
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
    "decode",
    "encode",
    "importance_samples",
    "initialize",
    "inpaint",
    "marginal_log_likelihood",
    "reconstruct",
]
