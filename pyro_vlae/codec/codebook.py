"""A codebook of samples from a prior, any part of which can be computed by itself.

References:
    Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Philox).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pyro.distributions import Independent, Normal, TransformedDistribution
from scipy.special import ndtri
from torch import Tensor

from pyro_vlae.reproducible import set_seed

SEED = 0x564C4145
BLOCK = 1024  # candidates computed at once: few enough for the cache of a processor


class Codebook:
    """Candidates 0, 1, ... for codes, sampled from a prior.

    If the prior is normal or a flow over one, its noise comes from a counter-based generator, so
    that the candidates are the same on any machine, up to rounding. Otherwise they are sampled with
    PyTorch's generator on the device of the prior: other versions and devices may sample others.

    Args:
        prior: distribution of codes, event shape ``(code_dim,)``.
    """

    def __init__(self, prior: Any) -> None:
        self.prior, self.code_dim = prior, prior.event_shape[0]
        flow = isinstance(prior, TransformedDistribution)
        base = prior.base_dist if flow else prior
        self._transforms = prior.transforms if flow else []
        self._normal: Any = base
        self.portable = isinstance(base, Independent) and isinstance(base.base_dist, Normal)
        if self.portable:
            self._normal = base.base_dist
        self._like = self._normal.loc if self.portable else prior.sample()
        self.device = self._like.device

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first ``size`` candidates, in blocks: codes ``(B, code_dim)``, log p(z) ``(B,)``."""
        for start in range(0, size, BLOCK):
            z = self._through_flow(self._noise(start // BLOCK)[: size - start])
            # From the transforms' caches: a flow is not computed a second time.
            yield z, self.prior.log_prob(z)

    def codes(self, indices: Tensor) -> Tensor:
        """The candidates ``(n, code_dim)`` with these indices ``(n,)``."""
        noise = self._like.new_zeros(len(indices), self.code_dim)
        block, position = indices // BLOCK, indices % BLOCK
        for number in block.unique().tolist():
            noise[block == number] = self._noise(number)[position[block == number]]
        return torch.cat([self._through_flow(part) for part in noise.split(BLOCK)])

    def _noise(self, block: int) -> Tensor:
        """The base distribution's samples for a block, ``(BLOCK, code_dim)``."""
        if not self.portable:
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                set_seed(SEED + block, self.device)
                return self.prior.sample((BLOCK,))
        raw = np.random.Philox(key=SEED, counter=[0, block, 0, 0]).random_raw(BLOCK * self.code_dim)
        uniform = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53
        noise = torch.from_numpy(ndtri(uniform)).view(BLOCK, self.code_dim).to(self._like)
        return self._normal.loc + self._normal.scale * noise

    def _through_flow(self, noise: Tensor) -> Tensor:
        if not self.portable:
            return noise
        for transform in self._transforms:
            noise = transform(noise)
        return noise
