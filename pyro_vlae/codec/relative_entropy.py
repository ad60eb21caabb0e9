"""Relative entropy coding: an approximate sample of q, sent as its index among samples of p.

References:
    Theis and Yosri, "Algorithms for the Communication of Samples", 2022, arXiv:2110.12805.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pyro.distributions import Independent, Normal
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor

from pyro_vlae.codec.codebook import Codebook
from pyro_vlae.codec.container import CodecError
from pyro_vlae.codec.stack import BitStack

EXPONENT_UNIT = 256  # the Zipf exponent is 1 + k / 256


def choose_candidates(
    codebook: Codebook, size: int, posteriors: Sequence[Any], seed: int
) -> Tensor:
    """For each image, choose an index below ``size``: an approximate sample of q(z | x).

    Ordered random coding: candidate i of N has weight ``w_i = q(z_i | x) / p(z_i)`` and time
    ``t_i``, the i-th smallest of N standard exponential variables. The one with the smallest
    ``t_i / w_i`` is chosen. Over random codebooks this is the same distribution as with unordered
    times (minimal random coding), but as early candidates have smaller times, the index has a
    smaller entropy. Given one codebook, repeated samples are alike: an image of low rate has only a
    few candidates to choose from, the first ones.

    Args:
        codebook: samples of p.
        size: number of candidates N.
        posteriors: q(z | x) of groups of images, batch shapes ``(n,)``. All images together are
            faster in groups whose weights for a block of candidates stay in the processor's cache.
        seed: seed of the times; the decoder does not need them.

    Returns:
        Indices of all images, int64, on the CPU.
    """
    generator = np.random.Generator(np.random.SFC64(seed))
    groups = [_Group(q) for q in posteriors]
    first = 0
    for z, log_prior in codebook.blocks(size):
        squares = z.square()
        left = torch.arange(size - first, size - first - len(z), -1, device="cpu").unsqueeze(1)
        for group in groups:
            noise = generator.standard_exponential((len(z), len(group.time)), np.float32)
            times = group.time + (torch.from_numpy(noise) / left).cumsum(0)
            log_weight = (group.log_prob(z, squares) - log_prior.unsqueeze(1)).float().cpu()
            group.update(log_weight - times.log(), first)
            group.time = times[-1]
        first += len(z)
    return torch.cat([group.index for group in groups])


class _Group:
    """The best candidates so far of images with posterior ``q``, batch shape ``(n,)``."""

    def __init__(self, q: Any) -> None:
        count = q.batch_shape[0]
        self.q, self.time = q, torch.zeros(count, dtype=torch.float32, device="cpu")
        self.score = torch.full_like(self.time, -torch.inf)
        self.index = torch.zeros_like(self.time, dtype=torch.int64)
        normal = q.base_dist if isinstance(q, Independent) else None
        self.weights: tuple[Tensor, Tensor] | None = None
        if isinstance(normal, Normal):
            precision = normal.scale.square().reciprocal().T
            self.weights = (normal.loc.T * precision, -0.5 * precision)

    def log_prob(self, z: Tensor, squares: Tensor) -> Tensor:
        """Log q of candidates ``(B, code_dim)``: ``(B, n)``, up to a constant per image."""
        if self.weights is not None:
            return torch.addmm(z @ self.weights[0], squares, self.weights[1])
        # Guides that are flows expect one code per image.
        parts = (part.unsqueeze(1).expand(-1, len(self.time), -1) for part in z.split(64))
        try:
            return torch.cat([self.q.log_prob(part) for part in parts])
        except (KeyError, NotImplementedError) as error:  # what Pyro's transforms raise
            raise CodecError(
                f"the guide cannot score codes other than its own samples ({error}): use one with "
                "a density, such as GaussianGuide or IAFGuide"
            ) from error

    def update(self, scores: Tensor, first: int) -> None:
        """Take scores ``(B, n)`` of candidates from index ``first`` into account."""
        score, place = scores.max(0)
        better = score > self.score
        self.score = torch.where(better, score, self.score)
        self.index = torch.where(better, first + place, self.index)


def fit_exponent(index: Tensor, size: int) -> int:
    """The k for which Zipf's law with exponent ``1 + k / 256`` codes the indices best."""
    ranks = np.log(np.arange(1, size + 1))
    mean = np.log(index.numpy() + 1.0).mean()

    def cost(exponent: float) -> float:
        return float(exponent * mean + logsumexp(-exponent * ranks))

    found = minimize_scalar(cost, bounds=(1, 5), method="bounded", options={"xatol": 1e-3})
    return round((found.x - 1) * EXPONENT_UNIT)


class ZipfCoder:
    """Codes indices below ``2^log2_size``, index i with probability ``~ (i + 1)^-(1 + k / 256)``.

    In two parts, because a probability has only 24 bits.
    """

    def __init__(self, log2_size: int, k: int) -> None:
        self.low = 2 ** (log2_size // 2)
        masses = np.arange(1.0, 2**log2_size + 1) ** -(1 + k / EXPONENT_UNIT)
        self.masses = masses.reshape(-1, self.low)

    def push(self, stack: BitStack, index: Tensor) -> None:
        """Push indices."""
        high, low = np.divmod(index.numpy(), self.low)
        stack.push_levels(low, self.masses[high])
        stack.push_levels(high, self._high(len(high)))

    def pop(self, stack: BitStack, count: int) -> Tensor:
        """Pop indices ``(count,)``."""
        high = stack.pop_levels(self._high(count)).astype(np.int64)
        return torch.from_numpy(high * self.low + stack.pop_levels(self.masses[high]))

    def _high(self, count: int) -> np.ndarray:
        masses = self.masses.sum(1)
        return np.ascontiguousarray(np.broadcast_to(masses, (count, len(masses))))
