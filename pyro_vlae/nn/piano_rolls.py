"""Networks for piano rolls ``(N, 1, T, 88)``, whose frames after the end of a piece are negative.

Everything after the end of a piece is set to zero before each convolution that looks ahead. A piece
therefore has the same code and the same features in a batch of longer pieces as alone.

References:
    Bai et al., "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for
    Sequence Modeling", 2018, arXiv:1803.01271 (dilated causal convolutions).
    Johnson, "Generating Polyphonic Music Using Tied Parallel Networks", 2017 (weights shared by all
    keys).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.blocks import PointwiseBlock
from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.pixel_network import PixelNetwork
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE, WeightNormConv2d, image_layout

BLOCK = 8
"""Frames for each vector of the code."""


def roll_lengths(x: Tensor) -> Tensor:
    """The number of frames before the padding, ``(N,)``, of rolls ``(N, 1, T, 88)``."""
    return (x[:, 0, :, 0] >= 0).sum(-1)


def count_blocks(frames: Tensor | int) -> Tensor | int:
    """The number of code vectors of pieces with this many frames."""
    return (frames + BLOCK - 1) // BLOCK


def block_mask(lengths: Tensor, blocks: int) -> Tensor:
    """The blocks that belong to each piece, ``(*batch, blocks)`` bool."""
    counts = count_blocks(lengths)
    return torch.arange(blocks, device=lengths.device) < torch.as_tensor(counts).unsqueeze(-1)


class PianoRollNet(PixelNetwork):
    """Logits of each key, given all keys of a window of past frames and the lower keys of its own.

    A roll is an image with frames as rows and keys as columns. Two convolutions over the roll, as
    wide as the keyboard, see the whole window; residual blocks of 1x1 convolutions follow. Apart
    from the context, all keys share their weights: what the network knows are intervals.

    Args:
        window: past frames that a key depends on.
        context_channels: channels of the context ``(N, context_channels, T, keys)``.
        hidden_channels: channels of the hidden layers.
        blocks: residual blocks.
        dropout: probability of dropping a hidden unit in training.
        keys: number of keys.

    Raises:
        ValueError: window is not positive.
    """

    outputs = "bernoulli_logits"
    image_channels = 1

    def __init__(
        self,
        window: int = 8,
        context_channels: int = 8,
        hidden_channels: int = 32,
        blocks: int = 2,
        dropout: float = 0.0,
        keys: int = 88,
    ) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be at least 1 frame, got {window}")
        self.context_channels = context_channels
        reach, hidden = keys - 1, hidden_channels
        self.past = CausalConv2d(
            1, hidden, (window, 2 * reach + 1), first_offset=(-window, -reach), sparse=True
        )
        self.lower = CausalConv2d(1, hidden, (1, reach), first_offset=(0, -reach), sparse=True)
        self.context = WeightNormConv2d(context_channels, hidden, 1) if context_channels else None
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.blocks = nn.ModuleList(PointwiseBlock(hidden) for _ in range(blocks))
        self.last = WeightNormConv2d(hidden, 1, 1, init_scale=BRANCH_INIT_SCALE)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.past(x) + self.lower(x)
        if self.context is not None and context is not None:
            h = h + self.context(image_layout(context))
        for block in self.blocks:
            h = block(self.dropout(h))
        return self.last(F.elu(h))


class FrameNet(PixelNetwork):
    """Logits of the keys of a frame, independent of each other given a window of past frames.

    Here a roll is an image with the keys as channels and frames as rows, ``(N, keys, T, 1)``.
    Dilated causal convolutions over time see exactly ``window`` past frames.

    Args:
        window: past frames that a frame depends on, a power of two.
        context_channels: channels of the context ``(N, context_channels, T, 1)``.
        hidden_channels: channels of the hidden layers.
        dropout: probability of dropping a hidden unit in training.
        keys: number of keys.

    Raises:
        ValueError: window is not a power of two.
    """

    outputs = "bernoulli_logits"

    def __init__(
        self,
        window: int = 8,
        context_channels: int = 8,
        hidden_channels: int = 192,
        dropout: float = 0.0,
        keys: int = 88,
    ) -> None:
        super().__init__()
        if window < 1 or window & (window - 1):
            raise ValueError(f"window must be a power of two frames (1, 2, 4, ...), got {window}")
        self.image_channels = keys
        self.context_channels = context_channels
        rows, hidden = min(window, 2), hidden_channels
        self.first = CausalConv2d(keys, hidden, (rows, 1), first_offset=(-rows, 0))
        self.context = WeightNormConv2d(context_channels, hidden, 1) if context_channels else None
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.dilated = nn.ModuleList(
            CausalConv2d(
                hidden,
                hidden,
                (2, 1),
                dilation=1 << k,
                first_offset=(-(1 << k), 0),
                init_scale=BRANCH_INIT_SCALE,
            )
            for k in range(1, window.bit_length() - 1)
        )
        self.pointwise = PointwiseBlock(hidden)
        self.last = WeightNormConv2d(hidden, keys, 1, init_scale=BRANCH_INIT_SCALE)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.context is not None and context is not None:
            h = h + self.context(context)
        for layer in self.dilated:
            h = h + layer(self.dropout(F.elu(h)))
        return self.last(F.elu(self.pointwise(self.dropout(h))))


class PianoRollEncoder(nn.Module):
    """Rolls to the means and raw scales of their codes, by strided convolutions over time.

    Args:
        code_channels: values C of the code for each block of `BLOCK` frames.
        hidden_channels: channels of the hidden layers.
        dropout: probability of dropping a hidden unit in training.
        keys: number of keys.

    Shapes: ``(N, 1, T, keys) -> (N, 2 C, blocks)``, means first.
    """

    def __init__(
        self,
        code_channels: int = 4,
        hidden_channels: int = 96,
        dropout: float = 0.0,
        keys: int = 88,
    ) -> None:
        super().__init__()
        hidden = hidden_channels
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.first = nn.Conv1d(keys + 1, hidden, 3, padding=1)
        halvings = BLOCK.bit_length() - 1
        self.strided = nn.ModuleList(
            nn.Conv1d(hidden, hidden, 4, stride=2, padding=1) for _ in range(halvings)
        )
        self.middle = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.last = nn.Conv1d(hidden, 2 * code_channels, 1)
        with torch.no_grad():  # near the standard normal
            self.last.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[-2]
        blocks = int(count_blocks(frames))
        mask = block_mask(roll_lengths(x), blocks).to(x.dtype).unsqueeze(1)
        roll = x[:, 0].transpose(1, 2)
        real = (roll[:, :1] >= 0).to(x.dtype)
        h = F.pad(torch.cat([roll.clamp(min=0), real], 1), (0, blocks * BLOCK - frames))
        h = self.first(h)
        for layer in self.strided:
            h = self.dropout(F.elu(h)) * mask.repeat_interleave(h.shape[-1] // blocks, -1)
            h = layer(h)
        h = h + self.middle(F.elu(h) * mask)
        return self.last(self.dropout(F.elu(h)))


class PianoRollDecoder(nn.Module):
    """Codes to features of each key of each frame.

    Args:
        code_channels: values C of the code for each block.
        hidden_channels: channels of the hidden layers.
        feature_channels: channels of the output.
        keys: number of keys.

    Shapes: codes ``(*batch, C * blocks)`` and lengths, which broadcast against ``batch``, to
    ``(*batch, feature_channels, frames, keys)``.
    """

    def __init__(
        self,
        code_channels: int = 4,
        hidden_channels: int = 96,
        feature_channels: int = 8,
        keys: int = 88,
    ) -> None:
        super().__init__()
        hidden = hidden_channels
        self.code_channels = code_channels
        self.feature_shape = (feature_channels, keys)
        self.first = nn.Conv1d(code_channels, hidden, 3, padding=1)
        self.second = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.up = nn.ConvTranspose1d(hidden, hidden, BLOCK, stride=BLOCK)
        self.last = nn.Conv1d(hidden, feature_channels * keys, 1)

    def forward(self, z: Tensor, lengths: Tensor, frames: int) -> Tensor:
        codes = z.reshape(-1, self.code_channels, z.shape[-1] // self.code_channels)
        blocks = codes.shape[-1]
        mask = block_mask(lengths, blocks).expand(*z.shape[:-1], blocks)
        mask = mask.reshape(-1, 1, blocks).to(z.dtype)
        h = self.first(codes * mask)
        h = h + self.second(F.elu(h) * mask)
        h = self.last(F.elu(self.up(F.elu(h))[..., :frames]))
        channels, keys = self.feature_shape
        return h.reshape(*z.shape[:-1], channels, keys, frames).transpose(-1, -2)
