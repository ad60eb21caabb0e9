"""A PixelCNN network of a vertical and a horizontal stack: windows without a blind spot.

References:
    van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", 2016,
    arXiv:1606.05328 (the two stacks).
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix
    (windows A x B).
"""

import re

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.blocks import PointwiseBlock
from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.pixel_network import PixelNetwork, parameters_per_pixel
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE, WeightNormConv2d, image_layout


def first_vertical_conv(in_channels: int, out_channels: int) -> CausalConv2d:
    """A convolution over the image: the two rows above, up to one column to either side."""
    return CausalConv2d(in_channels, out_channels, (2, 3), first_offset=(-2, -1))


def vertical_conv(in_channels: int, out_channels: int, init_scale: float = 1.0) -> CausalConv2d:
    """A convolution over vertical features, which see only rows above: this row and the last."""
    return CausalConv2d(
        in_channels, out_channels, (2, 3), first_offset=(-1, -1), init_scale=init_scale
    )


def first_horizontal_conv(in_channels: int, out_channels: int) -> CausalConv2d:
    """A convolution over the image: the pixel to the left."""
    return CausalConv2d(in_channels, out_channels, 1, first_offset=(0, -1))


def horizontal_conv(in_channels: int, out_channels: int, init_scale: float = 1.0) -> CausalConv2d:
    """A convolution over horizontal features, which see only earlier pixels: here and left."""
    return CausalConv2d(
        in_channels, out_channels, (1, 2), first_offset=(0, -1), init_scale=init_scale
    )


def window_layers(window: str) -> tuple[int, int]:
    """Numbers of vertical and horizontal layers for a window ``"AxB"``: A columns, B rows above.

    The block directly above the pixel is A wide and B high; in the pixel's own row the window
    contains the ``ceil((A - 1) / 2)`` pixels to the left. B - 1 vertical layers see B rows and
    ``2 B - 1`` columns; each additional horizontal layer adds a column on the left.

    Raises:
        ValueError: the window is not of this form, or the two stacks cannot have this shape.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", window) if isinstance(window, str) else None
    if match:
        width, height = int(match[1]), int(match[2])
        vertical, horizontal = height - 1, width // 2
        if vertical >= 1 and width in (2 * vertical + 1, 2 * vertical + 2):
            return vertical, horizontal
    raise ValueError(
        f'window must be "AxB", B >= 2 rows and A = 2B - 1 or 2B columns, such as "4x2", "5x3" or '
        f'"7x4"; got {window!r}'
    )


class TwoStackNet(PixelNetwork):
    """A PixelCNN network whose window is exactly A x B, without a blind spot.

    The vertical stack sees only rows above the pixel; the horizontal stack sees the pixels to its
    left and, layer by layer, the vertical features. Unlike in `MaskedResNet`, whose stacked 3x3
    masks see little of the upper right, the block above is a full rectangle.

    Args:
        image_channels: channels of the image.
        context_channels: channels of the context, 0 for an unconditional network.
        hidden_channels: channels of every hidden layer.
        window: ``"AxB"``, see `window_layers`.
        mixtures: logistics per channel for images of 256 levels, 0 for binary images.

    Shapes: image ``(N, image_channels, H, W)`` and context ``(N, context_channels, H, W)`` to
    Bernoulli logits ``(N, image_channels, H, W)``, or parameters of mixtures of discretized
    logistics ``(N, P, H, W)``, any H and W.

    Raises:
        ValueError: the two stacks cannot have this window.
    """

    def __init__(
        self,
        image_channels: int = 1,
        context_channels: int = 4,
        hidden_channels: int = 12,
        window: str = "7x4",
        mixtures: int = 0,
    ) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.context_channels = context_channels
        self.outputs = "discretized_logistic_mixture" if mixtures else "bernoulli_logits"
        vertical, horizontal = window_layers(window)
        self.first_vertical = first_vertical_conv(image_channels, hidden_channels)
        self.first_horizontal = first_horizontal_conv(image_channels, hidden_channels)
        # The context does not depend on the pixels, so it is not masked.
        self.context = (
            WeightNormConv2d(context_channels, 2 * hidden_channels) if context_channels else None
        )
        self.vertical = nn.ModuleList(
            vertical_conv(hidden_channels, hidden_channels, BRANCH_INIT_SCALE)
            for _ in range(vertical - 1)
        )
        self.horizontal = nn.ModuleList(
            horizontal_conv(hidden_channels, hidden_channels, BRANCH_INIT_SCALE)
            for _ in range(horizontal - 1)
        )
        self.links = nn.ModuleList(
            WeightNormConv2d(hidden_channels, hidden_channels, 1) for _ in range(horizontal)
        )
        self.pointwise = nn.ModuleList(PointwiseBlock(hidden_channels) for _ in range(horizontal))
        outputs = parameters_per_pixel(image_channels, mixtures)
        self.last = WeightNormConv2d(hidden_channels, outputs, 1, init_scale=BRANCH_INIT_SCALE)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = image_layout(x)
        v, h = self.first_vertical(x), self.first_horizontal(x)
        if self.context is not None and context is not None:
            for_vertical, for_horizontal = self.context(image_layout(context)).chunk(2, 1)
            v, h = v + for_vertical, h + for_horizontal
        above = [F.elu(v)]
        for layer in self.vertical:
            v = v + layer(above[-1])
            above.append(F.elu(v))
        for k, (link, block) in enumerate(zip(self.links, self.pointwise, strict=True)):
            if k:
                h = h + self.horizontal[k - 1](F.elu(h))
            h = block(h + link(above[min(k, len(above) - 1)]))
        return self.last(F.elu(h))
