"""VLAEs for piano rolls, whose codes are as long as the pieces.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vlae.distributions import PixelCNN
from pyro_vlae.distributions.piano_roll import PianoRoll
from pyro_vlae.models.vlae import _Origin
from pyro_vlae.nn import MaskedConvNet
from pyro_vlae.nn.piano_rolls import (
    BLOCK,
    FrameNet,
    PianoRollDecoder,
    PianoRollNet,
    block_mask,
    count_blocks,
    roll_lengths,
)
from pyro_vlae.nn.weight_norm import initialization
from pyro_vlae.registration import check_batch, register_parameters
from pyro_vlae.transforms.temporal import TemporalMeanOnlyAutoregressive

FRAMES = 64
"""Frames of a generated roll, unless another number is asked for."""


class TemporalPrior(nn.Module):
    """A prior over sequences of C values per block: an autoregressive flow or a standard normal.

    Called with the lengths of the pieces and the frames of the batch, it returns a distribution
    with batch shape ``(N,)`` and event shape ``(C * blocks,)``. Blocks after the end of a piece
    have log-probability 0 (``mask``).

    Args:
        code_channels: values C for each block.
        layers: mean-only flow layers in alternating directions; 0 for the standard normal.
        hidden_channels: channels of the hidden layers of each flow layer's ConvNet.
    """

    zero: Tensor

    def __init__(
        self, code_channels: int = 4, layers: int = 4, hidden_channels: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        self.code_channels = code_channels
        self.networks = nn.ModuleList(
            MaskedConvNet(code_channels, hidden_channels) for _ in range(layers)
        )
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, lengths: Tensor, frames: int) -> dist.TorchDistribution:
        mask = code_mask(lengths, frames, self.code_channels)
        loc = self.zero.new_zeros(mask.shape, device=mask.device)
        base = dist.Normal(loc, torch.ones_like(loc)).mask(mask).to_event(1)
        if not self.networks:
            return base
        counts = torch.as_tensor(count_blocks(lengths))
        transforms = [
            TemporalMeanOnlyAutoregressive(
                cast(MaskedConvNet, network), counts, reverse=bool(k % 2)
            )
            for k, network in enumerate(self.networks)
        ]
        inverses = [transform.inv for transform in reversed(transforms)]
        return dist.TransformedDistribution(base, inverses)


def code_mask(lengths: Tensor, frames: int, code_channels: int) -> Tensor:
    """The dimensions of a flat code that belong to each piece, ``(N, C * blocks)`` bool."""
    mask = block_mask(lengths, int(count_blocks(frames)))
    return mask.unsqueeze(-2).expand(*mask.shape[:-1], code_channels, -1).flatten(-2)


class PianoRollLikelihood(nn.Module):
    """Maps features ``(*batch, K, T, 88)`` and lengths to a distribution over rolls.

    Args:
        network: a `PianoRollNet` or a `FrameNet`.
    """

    networks = ("network",)  # may be compiled and run in half precision

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, lengths: Tensor) -> PianoRoll:
        if self.network.image_channels != 1:  # the keys are channels, and so is what they read
            features = features.movedim(-1, -2).flatten(-3, -2).unsqueeze(-1)
        return PianoRoll(PixelCNN(self.network, features), lengths)


class PianoRollVLAE(nn.Module):
    """``p(z) p(x | z)`` of piano rolls, with sites ``"z"`` and ``"x"`` in a plate of pieces.

    Args:
        prior: called with lengths and frames, returns a distribution over codes; None for a model
            without a code, which has only the site ``"x"``.
        decoder: maps codes, lengths, and frames to features ``(*batch, K, T, 88)``.
        likelihood: maps features and lengths to a distribution over rolls ``(1, T, 88)``.
    """

    networks = ("decoder",)  # may be compiled and run in half precision

    def __init__(
        self, prior: nn.Module | None, decoder: nn.Module, likelihood: PianoRollLikelihood
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(
        self, x: Tensor | None = None, batch_size: int = 1, frames: int | None = None
    ) -> Tensor:
        """The generative program.

        Args:
            x: rolls ``(batch, 1, T, 88)``, -1 after the end of each, to condition on; or None to
                generate.
            batch_size: number of rolls to generate when x is None.
            frames: length of the generated rolls, 64 if None.

        Returns:
            The rolls.
        """
        register_parameters(self)
        check_batch(batch_size if x is None else len(x))
        if x is None:
            frames = FRAMES if frames is None else frames
            device = next(self.parameters()).device
            lengths = torch.full((batch_size,), frames, device=device)
        else:
            lengths, frames = roll_lengths(x), x.shape[-2]
        with pyro.plate("images", len(lengths), dim=-1):
            # Layers must not be initialized on codes of an untrained prior.
            inferred = x is not None
            z = None
            if self.prior is not None:
                with _Origin() as origin:
                    z = pyro.sample("z", self.prior(lengths, frames))
                inferred = inferred and origin.is_given
            with nullcontext() if inferred else initialization(False):
                features = (
                    self.decoder(lengths, frames) if z is None else self.decoder(z, lengths, frames)
                )
                likelihood = self.likelihood(features, lengths)
            return pyro.sample("x", likelihood, obs=x)


class LearnedContext(nn.Module):
    """A learned context in place of a decoder's features: the same for all blocks and pieces.

    Args:
        feature_channels: channels of the context.
        keys: number of keys.
    """

    def __init__(self, feature_channels: int = 8, keys: int = 88) -> None:
        super().__init__()
        self.context = nn.Parameter(0.1 * torch.randn(feature_channels, BLOCK, keys))

    def forward(self, lengths: Tensor, frames: int) -> Tensor:
        repeated = self.context.repeat(1, int(count_blocks(frames)), 1)[:, :frames]
        return repeated.expand(*lengths.shape, *repeated.shape)


def piano_roll_vlae(
    *,
    window: int = 8,
    likelihood: str = "pixelcnn",
    prior: str | None = "flow",
    code_channels: int = 4,
    hidden_channels: int | None = None,
    code_hidden_channels: int = 96,
    feature_channels: int = 8,
    flow_layers: int = 4,
    flow_channels: Sequence[int] = (64, 64),
    dropout: float = 0.0,
    keys: int = 88,
) -> PianoRollVLAE:
    """A VLAE for piano rolls; `pyro_vlae.guides.piano_roll.PianoRollGuide` is its guide.

    Args:
        window: past frames that the decoder sees.
        likelihood: ``"pixelcnn"``, which also sees the lower keys of the same frame, or
            ``"independent"``, whose keys are independent given the past and the code (its window
            must be a power of two).
        prior: ``"flow"``, ``"normal"``, or None for a model without a code.
        code_channels: values C of the code for each block of 8 frames.
        hidden_channels: channels of the likelihood's hidden layers; 32 for ``"pixelcnn"``, which
            has them for each key, and 192 for ``"independent"`` if None.
        code_hidden_channels: channels of the decoder's hidden layers.
        feature_channels: channels of the decoder's output.
        flow_layers: layers of the flow prior.
        flow_channels: channels of the hidden layers of each flow layer.
        dropout: probability of dropping a hidden unit of the likelihood in training.
        keys: number of keys.

    Raises:
        ValueError: an unknown name, or a window that the likelihood cannot have.

    Example:
        >>> model, guide = piano_roll_vlae(window=4), PianoRollGuide()
        >>> rolls = model(batch_size=16, frames=64)
    """
    if prior not in ("flow", "normal", None):
        raise ValueError(f'prior must be "flow", "normal", or None, got {prior!r}')
    network: nn.Module
    if likelihood == "pixelcnn":
        hidden = hidden_channels or 32
        network = PianoRollNet(window, feature_channels, hidden, dropout=dropout, keys=keys)
    elif likelihood == "independent":
        hidden = hidden_channels or 192
        network = FrameNet(window, feature_channels * keys, hidden, dropout, keys)
    else:
        raise ValueError(f'likelihood must be "pixelcnn" or "independent", got {likelihood!r}')
    if prior is None:
        context = LearnedContext(feature_channels, keys)
        return PianoRollVLAE(None, context, PianoRollLikelihood(network))
    return PianoRollVLAE(
        TemporalPrior(code_channels, flow_layers if prior == "flow" else 0, flow_channels),
        PianoRollDecoder(code_channels, code_hidden_channels, feature_channels, keys),
        PianoRollLikelihood(network),
    )
