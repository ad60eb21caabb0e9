"""Estimates and diagnostics of each image from its importance weights."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pyro_vlae.infer.arviz_versions import pareto_shapes

# For few weights, PSIS fits the Pareto tail to a fifth of them, and it needs at least five.
_MIN_PARETO_SAMPLES = 25
# Log-weights (nats) that differ by no more than rounding errors have no tail to fit.
_WEIGHT_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class MarginalLikelihood:
    r"""Estimates of log p(x) for N images from K codes each; tensors are ``(N,)``, float64, CPU.

    With log-weights :math:`\log w_k = \log p(x, z_k) - \log q(z_k | x)`:

    Attributes:
        log_prob: :math:`\log \frac{1}{K} \sum_k w_k` in nats. Its expectation is a lower bound on
            log p(x) that increases with K (Jensen's inequality).
        elbo: :math:`\frac{1}{K} \sum_k \log w_k` in nats.
        kl: mean of log q(z | x) - log p(z) over the codes, for all latent sites, in nats.
        effective_sample_size: :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, 1 to K: how many codes matter.
        pareto_k: shape of the weights' tail by Pareto-smoothed importance sampling. Above 0.7 the
            estimate is unreliable. Infinite if too few weights matter to fit a tail; NaN for fewer
            than 25 samples or equal weights.
        monte_carlo_error: standard error of ``log_prob`` from sampling only K codes (delta
            method), in nats; NaN for one code.
        num_samples: K.
        data_dims: data dimensions of an image, for bits per dimension; their mean if images differ.
    """

    log_prob: Tensor
    elbo: Tensor
    kl: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    monte_carlo_error: Tensor
    num_samples: int
    data_dims: float

    @property
    def mean_log_prob(self) -> float:
        """Mean of ``log_prob`` over the images, in nats."""
        return self.log_prob.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of ``mean_log_prob`` from the choice of N images; NaN for one image."""
        count = len(self.log_prob)
        return self.log_prob.std().item() / math.sqrt(count) if count > 1 else math.nan

    @property
    def mean_monte_carlo_error(self) -> float:
        """Standard error of ``mean_log_prob`` from sampling only K codes per image, in nats."""
        return self.monte_carlo_error.square().sum().sqrt().item() / len(self.log_prob)

    def __repr__(self) -> str:
        return (
            f"MarginalLikelihood({len(self.log_prob)} images, {self.num_samples} samples each: "
            f"log p(x) {self.mean_log_prob:.2f} ± {self.standard_error:.2f}, "
            f"ELBO {self.elbo.mean().item():.2f}, KL {self.kl.mean().item():.2f} nats)"
        )

    def summary(self) -> dict[str, float]:
        """Return means over the images by name; NLL and KL are positive.

        Values that cannot be estimated are NaN, e.g. the standard error for one image.
        """
        nll, kl = -self.mean_log_prob, self.kl.mean().item()
        fitted = self.pareto_k[~self.pareto_k.isnan()]  # it may be infinite
        return {
            "nll_nats": nll,
            "nll_standard_error": self.standard_error,
            "elbo_nats": self.elbo.mean().item(),
            "kl_nats": kl,
            "kl_bits": kl / math.log(2),
            "bits_per_dim": nll / (self.data_dims * math.log(2)),
            "num_samples": self.num_samples,
            "num_images": len(self.log_prob),
            "nll_monte_carlo_error": self.mean_monte_carlo_error,
            "median_effective_sample_size": self.effective_sample_size.median().item(),
            "fraction_of_pareto_k_above_0.7": (fitted > 0.7).double().mean().item(),
        }


PER_IMAGE = tuple(field.name for field in fields(MarginalLikelihood))[:-2]
"""Names of the estimates per image."""


def weight_statistics(log_weight: Tensor, log_ratio: Tensor, index: list[int]) -> Tensor:
    """Estimates ``(6, b)`` for b images, in the order of `PER_IMAGE`, float64 on the CPU.

    Args:
        log_weight: log p(x, z) - log q(z | x) of the codes, ``(K, b)``.
        log_ratio: log q(z | x) - log p(z), ``(K, b)``.
        index: indices of the images, for the error message.

    Raises:
        ValueError: a log-weight is not finite.
    """
    log_w = log_weight.cpu()
    broken = (~torch.isfinite(log_w)).sum(0)
    if broken.any():
        first = int(broken.nonzero()[0])
        raise ValueError(
            f"{int(broken[first])} of {len(log_w)} log-weights of image {index[first]} "
            "are not finite: a log-probability of model or guide is NaN or infinite; check the "
            "weights, and that x lies in the support of the likelihood"
        )
    count = len(log_w)
    total = torch.logsumexp(log_w, 0)
    normalized = torch.exp(log_w - total)  # sums to 1 over the codes
    variance = (count * normalized - 1).square().sum(0) / (count * (count - 1) or math.nan)
    return torch.stack(
        [
            total - math.log(count),
            log_w.mean(0),
            log_ratio.mean(0).cpu(),
            1 / normalized.square().sum(0),
            _pareto_k(log_w),
            variance.sqrt(),
        ]
    )


def _pareto_k(log_w: Tensor) -> Tensor:
    """Pareto shape of the upper tail of the weights ``(K, b)`` of each image, ``(b,)``."""
    k = log_w.new_full(log_w.shape[1:], math.nan, dtype=torch.float64)
    spread = log_w.amax(0) - log_w.amin(0) > _WEIGHT_TOLERANCE
    if len(log_w) < _MIN_PARETO_SAMPLES or not spread.any():
        return k
    k[spread] = torch.from_numpy(pareto_shapes(log_w.T[spread].contiguous().numpy()))
    return k
