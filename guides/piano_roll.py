"""The diagonal Gaussian guide for piano rolls."""

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.guides.gaussian import UNIT_SCALE
from pyro_vlae.nn import check_precision
from pyro_vlae.nn.piano_rolls import PianoRollEncoder, block_mask, roll_lengths
from pyro_vlae.registration import check_batch, register_parameters


class PianoRollGuide(nn.Module):
    """``q(z | x) = N(mean(x), diag(scale(x)^2))``, with site ``"z"`` in a plate of pieces.

    Blocks after the end of a piece have log-probability 0 (``mask``).

    Args:
        code_channels: values of the code for each block of 8 frames.
        hidden_channels: channels of the encoder's hidden layers.
        dropout: probability of dropping a hidden unit of the encoder in training.
        keys: number of keys.
    """

    networks = ("encoder",)  # may be compiled and run in half precision

    def __init__(
        self,
        code_channels: int = 4,
        hidden_channels: int = 96,
        dropout: float = 0.0,
        keys: int = 88,
    ) -> None:
        super().__init__()
        self.encoder = PianoRollEncoder(code_channels, hidden_channels, dropout, keys)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of codes ``(C * blocks,)`` given rolls ``(N, 1, T, 88)``."""
        check_precision(x, self)
        loc, raw_scale = self.encoder(x).chunk(2, 1)
        mask = block_mask(roll_lengths(x), loc.shape[-1]).unsqueeze(1).expand(loc.shape)
        scale = F.softplus(raw_scale + UNIT_SCALE)
        normal = dist.Normal(loc.flatten(1), scale.flatten(1))
        return normal.mask(mask.flatten(1)).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        """Sample codes ``(N, C * blocks)`` for rolls."""
        register_parameters(self)
        check_batch(len(x))
        with pyro.plate("images", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))
