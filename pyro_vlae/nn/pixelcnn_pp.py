"""A wide, shallow PixelCNN++ for color images, with a choice of windows.

References:
    Salimans et al., "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
    Likelihood and Other Modifications", 2017, arXiv:1701.05517 (gated residual blocks, likelihood).
    van den Oord et al., "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759, section 2
    (feature groups for red, green, and blue).
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.blocks import GatedBlock
from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.pixel_network import PixelNetwork
from pyro_vlae.nn.two_stack import (
    first_horizontal_conv,
    first_vertical_conv,
    horizontal_conv,
    vertical_conv,
    window_layers,
)
from pyro_vlae.nn.weight_norm import WeightNormConv2d, image_layout

CHANNELS = 3
GRAY = (0.299, 0.587, 0.114)


class PixelCNNPlusPlusNet(PixelNetwork):
    """A PixelCNN++ network for color images whose window is exactly A x B.

    There is a vertical stack of features, which sees the rows above, and three groups. The red
    group is the horizontal stack: it sees the pixels to the left. The green group sees the pixel's
    own red value, the blue group its red and green values. Each block of a group also reads the
    vertical features and those of the groups before it. Only vertical and red features are read at
    other pixels. They do not depend on the pixel at their own position, which keeps the window
    exact and, in the gray variant, hides the colors of other pixels.

    The paper describes 4 blocks and at most 3 horizontal layers. Here each group has 4 gated
    residual blocks. In the red group, horizontal layer 1 is the shifted convolution before the
    first block, and layers 2 and 3 are the 1x2 convolutions in the next two; all other blocks are
    1x1. Every block reads the context, and through the residual sum all blocks before it.

    Args:
        context_channels: channels of the context, 0 for an unconditional network.
        hidden_channels: channels of the vertical stack and of each group.
        window: ``"AxB"``, see `pyro_vlae.nn.two_stack.window_layers`; the paper has 4x2, 5x3 and
            7x4. With the suffix ``"-gray"``, as in ``"7x4-gray"``, only the gray value
            ``0.299 R + 0.587 G + 0.114 B`` of other pixels is visible; a pixel's green and blue
            values still depend on its own earlier channels.
        mixtures: logistics per channel; 10 as in PixelCNN++, since the paper does not state it.
        blocks: gated blocks of each group, at least as many as the window has horizontal layers.

    Shapes: image ``(N, 3, H, W)`` with values ``k / 127.5 - 1`` and context
    ``(N, context_channels, H, W)`` to parameters ``(N, 12 mixtures, H, W)``, any H and W.

    Raises:
        ValueError: the two stacks cannot have this window, or there are too few blocks for it.
    """

    image_channels = CHANNELS
    channel_autoregressive = True
    outputs = "discretized_logistic_mixture"

    def __init__(
        self,
        context_channels: int,
        hidden_channels: int = 64,
        window: str = "7x4",
        mixtures: int = 10,
        blocks: int = 4,
    ) -> None:
        super().__init__()
        try:
            vertical, horizontal = window_layers(window.removesuffix("-gray"))
        except ValueError as error:
            message = f'{error}; for color images "-gray" may follow, as in "7x4-gray"'
            raise ValueError(message) from None
        if blocks < horizontal:
            raise ValueError(
                f"a window of {window} needs {horizontal} horizontal layers, each in its own "
                f"block; got blocks={blocks}"
            )
        self.context_channels = context_channels
        self.gray = window.endswith("-gray")
        seen = 2 if self.gray else CHANNELS + 1
        self.first_vertical = first_vertical_conv(seen, hidden_channels)
        self.first_in_group = nn.ModuleList(
            [
                first_horizontal_conv(seen, hidden_channels),
                *(
                    WeightNormConv2d(channel + 1, hidden_channels, 1)
                    for channel in range(1, CHANNELS)
                ),
            ]
        )
        self.vertical = nn.ModuleList(
            GatedBlock(
                vertical_conv(hidden_channels, hidden_channels), hidden_channels, context_channels
            )
            for _ in range(vertical - 1)
        )

        def mixing(channel: int, block: int) -> CausalConv2d | WeightNormConv2d:
            if channel == 0 and 1 <= block < horizontal:
                return horizontal_conv(hidden_channels, hidden_channels)
            return WeightNormConv2d(hidden_channels, hidden_channels, 1)

        self.groups = nn.ModuleList(
            nn.ModuleList(
                GatedBlock(
                    mixing(channel, block),
                    hidden_channels,
                    context_channels + (1 + channel) * hidden_channels,
                )
                for block in range(blocks)
            )
            for channel in range(CHANNELS)
        )
        self.last = nn.ModuleList(
            WeightNormConv2d(hidden_channels, (3 + channel) * mixtures, 1)
            for channel in range(CHANNELS)
        )

    def seen(self, x: Tensor) -> Tensor:
        """What others see of pixels ``(N, 3, H, W)``: color or gray, and a channel of ones.

        The ones distinguish the image from the zero padding, as in PixelCNN++.
        """
        if self.gray:
            # Python floats: a tensor would have to be copied to the device in every pass.
            red, green, blue = x.split(1, 1)
            x = GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue
        return _with_ones(x)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        seen = self.seen(image_layout(x))
        maps = [] if context is None else [image_layout(context)]
        v = self.first_vertical(seen)
        above = [F.elu(v)]
        for block in self.vertical:
            v = block(v, maps)
            above.append(F.elu(v))
        groups = [
            first(_with_ones(x[:, :channel]) if channel else seen)
            for channel, first in enumerate(self.first_in_group)
        ]
        for k, blocks in enumerate(zip(*self.groups, strict=True)):
            known = [*maps, above[min(k, len(above) - 1)]]
            for channel, block in enumerate(blocks):
                groups[channel] = block(groups[channel], known)
                known.append(F.elu(groups[channel]))
        return torch.cat([last(F.elu(h)) for last, h in zip(self.last, groups, strict=True)], 1)


def _with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)
