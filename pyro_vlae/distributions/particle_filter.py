"""Sampling of images with known pixels after unknown ones, by sequential Monte Carlo.

References:
    Naesseth et al., "Elements of Sequential Monte Carlo", 2019, arXiv:1903.04797.
"""

from typing import Any

import torch
from torch import Tensor

from pyro_vlae.distributions.sampling import Front, sample_front


class ParticleFilter:
    """Samples the unknown pixels of images, with particles weighted by the known pixels.

    Its methods `choose` and `select` are arguments of `pyro_vlae.distributions.sampling.go_through`
    for ``particles * N`` images: particle 0 of all N images, then particle 1, and so on. The
    emission must have a log-probability for each channel.

    Args:
        value: images ``(N, C, H, W)``; their unknown pixels are ignored.
        known: ``(N, C, H, W)`` bool.
        particles: particles for each image.

    Attributes:
        log_weight: log-weights since the particles were last resampled, ``(particles, N)``.
        smallest_size: the smallest effective sample size so far, before resampling, ``(N,)``.
    """

    def __init__(self, value: Tensor, known: Tensor, particles: int) -> None:
        self.value, self.known, self.particles = value, known, particles
        self.log_weight = value.new_zeros(particles, len(value))
        self.smallest_size = value.new_full((len(value),), float(particles))

    def choose(self, distribution: Any, pixels: Tensor, front: Front) -> Tensor:
        """Sample unknown pixels given those before them, and weight the particles."""
        shape = self.particles, len(self.value)
        values = sample_front(distribution, pixels, front).unflatten(0, shape)
        known = front.of(self.known)
        values = torch.where(known, front.of(self.value), values).flatten(0, 1)
        log_prob = distribution.log_prob(values).unflatten(0, shape)
        self.log_weight += torch.where(known, log_prob, 0.0).sum((2, 3, 4))
        return values

    def select(self, front: Front) -> Tensor | None:
        """Resample at the end of a row: the particle that replaces each, or None to keep all.

        The particles of an image are resampled if their effective sample size is below half their
        number.
        """
        if not (front.columns == self.value.shape[-1] - 1).any():
            return None
        weights = self.log_weight.softmax(0)
        size = 1 / weights.square().sum(0)
        self.smallest_size = torch.minimum(self.smallest_size, size)
        few = size < self.particles / 2
        if not few.any():
            return None
        self.log_weight = torch.where(few, 0.0, self.log_weight)
        own = torch.arange(self.particles, device=weights.device).unsqueeze(1)
        source = torch.where(few, systematic_resample(weights), own)
        return (source * len(few) + torch.arange(len(few), device=weights.device)).flatten()


def systematic_resample(weights: Tensor) -> Tensor:
    """Sample particles in proportion to their weights, with a single random number per image.

    A particle is chosen ``particles * weight`` times, rounded up or down at random.

    Args:
        weights: ``(particles, N)``, each column sums to one.

    Returns:
        Indices of particles, ``(particles, N)``.
    """
    count = len(weights)
    steps = torch.arange(count, device=weights.device)
    places = (steps + torch.rand_like(weights[0]).unsqueeze(1)) / count
    ends = weights.T.contiguous().cumsum(1)
    return torch.searchsorted(ends, places.contiguous()).clamp(max=count - 1).T
