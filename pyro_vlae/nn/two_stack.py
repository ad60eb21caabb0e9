"""A PixelCNN network of a vertical and a horizontal stack: windows without a blind spot.

References:
    van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", 2016,
    arXiv:1606.05328 (the two stacks).
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix
    (windows A x B).
"""

import re
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn.bernoulli import BernoulliNetwork
from pyro_vlae.nn.blocks import PointwiseBlock
from pyro_vlae.nn.causal import Tap
from pyro_vlae.nn.masked_resnet import add_pointwise, pointwise_matrix
from pyro_vlae.nn.wavefront import FrontRun, by_pixel
from pyro_vlae.nn.weight_norm import (
    BRANCH_INIT_SCALE,
    WeightNormConv2d,
    WeightNormLayer,
    image_layout,
)

VERTICAL_TAPS: list[Tap] = [(i, j) for i in (-1, 0) for j in (-1, 0, 1)]
HORIZONTAL_TAPS: list[Tap] = [(0, -1), (0, 0)]


class ShiftedConv2d(WeightNormLayer):
    """A weight-normalized convolution whose kernel reaches up and left, seldom to its own pixel.

    Args:
        in_channels: maps coming in.
        out_channels: maps going out.
        kernel_size: rows and columns.
        padding: zeros added (left, right, top, bottom); they fix what the kernel sees.

    Shapes: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        padding: tuple[int, int, int, int],
        init_scale: float = 1.0,
    ) -> None:
        rows, columns = kernel_size
        super().__init__(
            (out_channels, in_channels, rows, columns), 0, init_scale, in_channels * rows * columns
        )
        self.padding = padding

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = x.shape[-2:]
        out = F.conv2d(F.pad(x, self.padding), weight, bias)
        return out[..., :height, :width]

    def taps(self) -> list[Tap]:
        """The offsets that are read, in raster order."""
        left, _, top, _ = self.padding
        rows, columns = self.direction.shape[2:]
        return [(i - top, j - left) for i in range(rows) for j in range(columns)]

    def tap_weight(self) -> Tensor:
        """The weight as a matrix ``(taps * in_channels, out_channels)``."""
        return self.weight().permute(2, 3, 1, 0).flatten(0, 2)


def window_layers(window: str) -> tuple[int, int]:
    """Vertical and horizontal layers for a window ``"AxB"``: A columns wide, B rows above.

    The block directly above the pixel is A wide and B high; of the pixel's own row the window
    holds the ``ceil((A - 1) / 2)`` pixels to the left. B - 1 vertical layers see B rows and
    ``2 B - 1`` columns; each horizontal layer beyond them adds a column on the left.

    Raises:
        ValueError: not of this form, or a shape that the two stacks cannot have.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", window)
    if match:
        width, height = int(match[1]), int(match[2])
        vertical, horizontal = height - 1, width // 2
        if vertical >= 1 and width in (2 * vertical + 1, 2 * vertical + 2):
            return vertical, horizontal
    raise ValueError(
        f'window must be "AxB", B >= 2 rows and A = 2B - 1 or 2B columns, such as "4x2", "5x3" or '
        f'"7x4"; got {window!r}'
    )


def stacked_window(
    first_vertical: ShiftedConv2d, first_horizontal: ShiftedConv2d, vertical: int, horizontal: int
) -> set[Tap]:
    """The offsets (rows, columns) of all pixels that two stacks of so many layers see together.

    Horizontal layer k also reads vertical level k, or the last where there are fewer.
    """
    levels = [set(first_vertical.taps())]
    for _ in range(vertical - 1):
        levels.append({(i + a, j + b) for i, j in levels[-1] for a, b in VERTICAL_TAPS})
    seen = set(first_horizontal.taps()) | levels[0]
    for k in range(1, horizontal):
        seen |= {(i + a, j + b) for i, j in seen for a, b in HORIZONTAL_TAPS}
        seen |= levels[min(k, vertical - 1)]
    return seen


class TwoStackNet(BernoulliNetwork):
    """A PixelCNN network for binary images whose window is exactly A x B, without a blind spot.

    The vertical stack sees rows above the pixel only; the horizontal stack sees the pixels to its
    left and, level by level, the vertical features. In contrast to `MaskedResNet`, whose stacked
    3x3 masks never look far to the upper right, the block above is a full rectangle.

    Args:
        image_channels: channels of the image.
        context_channels: maps of the context, 0 for an unconditional network.
        filters: maps of every hidden layer.
        window: ``"AxB"``, see `window_layers`.

    Shapes: image ``(N, image_channels, H, W)`` and context ``(N, context_channels, H, W)`` to
    logits ``(N, image_channels, H, W)``, any H and W.

    Raises:
        ValueError: a window that the two stacks cannot have.
    """

    def __init__(
        self,
        image_channels: int = 1,
        context_channels: int = 4,
        filters: int = 12,
        window: str = "7x4",
    ) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.context_channels = context_channels
        vertical, horizontal = window_layers(window)
        self.first_vertical = ShiftedConv2d(image_channels, filters, (2, 3), (1, 1, 2, 0))
        self.first_horizontal = ShiftedConv2d(image_channels, filters, (1, 1), (1, 0, 0, 0))
        # The context holds no pixel values, so nothing of it is masked.
        self.context = WeightNormConv2d(context_channels, 2 * filters) if context_channels else None

        def branch(kernel_size: tuple[int, int], padding: tuple[int, int, int, int]) -> nn.Module:
            return ShiftedConv2d(filters, filters, kernel_size, padding, BRANCH_INIT_SCALE)

        self.vertical = nn.ModuleList(branch((2, 3), (1, 1, 1, 0)) for _ in range(vertical - 1))
        self.horizontal = nn.ModuleList(branch((1, 2), (1, 0, 0, 0)) for _ in range(horizontal - 1))
        self.links = nn.ModuleList(WeightNormConv2d(filters, filters, 1) for _ in range(horizontal))
        self.pointwise = nn.ModuleList(PointwiseBlock(filters) for _ in range(horizontal))
        self.last = WeightNormConv2d(filters, image_channels, 1, init_scale=BRANCH_INIT_SCALE)

    def window(self) -> set[Tap]:
        """The offsets (rows, columns) of all image pixels that a pixel's logits depend on."""
        return stacked_window(
            self.first_vertical, self.first_horizontal, len(self.vertical) + 1, len(self.links)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = image_layout(x)
        v, h = self.first_vertical(x), self.first_horizontal(x)
        if self.context is not None and context is not None:
            for_vertical, for_horizontal = self.context(image_layout(context)).chunk(2, 1)
            v, h = v + for_vertical, h + for_horizontal
        levels = [F.elu(v)]
        for layer in self.vertical:
            v = v + layer(levels[-1])
            levels.append(F.elu(v))
        for k, (link, block) in enumerate(zip(self.links, self.pointwise, strict=True)):
            if k:
                h = h + self.horizontal[k - 1](F.elu(h))
            h = block(h + link(levels[min(k, len(levels) - 1)]))
        return self.last(F.elu(h))

    def incremental(
        self, context: Tensor | None, size: int, height: int, width: int
    ) -> "IncrementalTwoStack":
        """Start drawing `size` images wavefront by wavefront; see `PixelCNN.sample`."""
        return IncrementalTwoStack(self, context, size, height, width)


class VerticalRun(FrontRun):
    """A run over wavefronts whose vertical features run ahead of the pixel.

    Of V levels, level l is needed V - l columns to the pixel's right, so it is computed that much
    earlier, at the wavefront where all that it reads is known. The last level reads V columns to
    the right, one row up: the slope is V + 1.

    Args:
        like: as for `FrontRun`, and so are the sizes of the images.
        levels: number of levels V.
        filters: their maps.
    """

    def __init__(
        self, like: Tensor, size: int, height: int, width: int, levels: int, filters: int
    ) -> None:
        super().__init__(like, size, height, width, slope=levels + 1)
        self.filters = filters
        # A level is read by the next one a wavefront later, and at the pixel itself.
        self._raw = [self.cache(filters, VERTICAL_TAPS, levels) for _ in range(levels)]
        self._active = [self.cache(filters, VERTICAL_TAPS, levels) for _ in range(levels)]
        self._ready = -levels  # the last time that vertical features were computed for

    def vertical_features(self, level: int, time: int, rows: range) -> Tensor:
        """Features ``(P * N, filters)`` of a level at a wavefront ahead."""
        raise NotImplementedError

    def next_front(self) -> None:
        """Go on to the next wavefront, and compute the vertical features that it needs."""
        super().next_front()
        for time in range(self._ready + 1, self.time + 1):
            for level, (raw, active) in enumerate(zip(self._raw, self._active, strict=True)):
                ahead = time + len(self._raw) - 1 - level
                if rows := self.rows_at(ahead):
                    v = self.by_image(self.vertical_features(level, ahead, rows))
                    raw.write(ahead, rows).copy_(v)
                    F.elu_(active.write(ahead, rows).copy_(v))
        self._ready = self.time

    def vertical_inputs(self, level: int, time: int, rows: range) -> tuple[Tensor, Tensor]:
        """What a level reads of the one before: its features, and their taps after the ELU."""
        raw, active = self._raw[level - 1], self._active[level - 1]
        return raw.read(time, rows, [(0, 0)]), active.read(time, rows, VERTICAL_TAPS)

    def vertical_at_pixel(self) -> list[Tensor]:
        """Every level after the ELU at the pixels of the present wavefront."""
        return [cache.read(self.time, self.rows, [(0, 0)]) for cache in self._active]


class IncrementalTwoStack(VerticalRun):
    """One run of a `TwoStackNet` over images whose pixels become known in wavefronts."""

    @torch.no_grad()
    def __init__(
        self, network: TwoStackNet, context: Tensor | None, size: int, height: int, width: int
    ) -> None:
        bias = network.last.bias
        levels, filters = len(network.vertical) + 1, len(network.first_vertical.bias)
        super().__init__(bias, size, height, width, levels, filters)
        shares = [network.first_vertical.bias, network.first_horizontal.bias]
        if network.context is None or context is None:
            self.shares = [s.expand(height * width, size, filters) for s in shares]
        else:
            maps = network.context.apply_weight(
                context, network.context.weight(), network.context.bias
            )
            self.shares = [by_pixel(m) + s for m, s in zip(maps.chunk(2, 1), shares, strict=True)]
        self.first_taps = [network.first_vertical.taps(), network.first_horizontal.taps()]
        self.first = [
            network.first_vertical.tap_weight(),
            network.first_horizontal.tap_weight(),
        ]
        self.vertical = [_tap_matrix(layer) for layer in network.vertical]
        self.horizontal = [_tap_matrix(layer) for layer in network.horizontal]
        self.links = [pointwise_matrix(cast(WeightNormConv2d, link)) for link in network.links]
        blocks = [cast(PointwiseBlock, block) for block in network.pointwise]
        self.pointwise = [(*pointwise_matrix(b.first), *pointwise_matrix(b.second)) for b in blocks]
        self.last = pointwise_matrix(network.last)
        self.image = self.cache(network.image_channels, chain(*self.first_taps))
        self.left = [self.cache(filters, HORIZONTAL_TAPS) for _ in self.horizontal]

    @torch.no_grad()
    def parameters(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Parameters of P pixels whose predecessors are known: ``(N, channels, 1, P)``."""
        self.next_front()
        at, levels = (self.time, self.rows), self.vertical_at_pixel()
        h = self._first(1, *at)
        for k, ((link, link_bias), block) in enumerate(
            zip(self.links, self.pointwise, strict=True)
        ):
            if k:
                weight, bias = self.horizontal[k - 1]
                left = self.left[k - 1]
                F.elu_(left.write(*at).copy_(self.by_image(h)))
                h.addmm_(left.read(*at, HORIZONTAL_TAPS), weight).add_(bias)
            h.addmm_(levels[min(k, len(levels) - 1)], link).add_(link_bias)
            add_pointwise(h, *block)
        weight, bias = self.last
        return self.as_parameters(torch.addmm(bias, F.elu_(h), weight))

    def write(self, rows: Tensor, columns: Tensor, pixels: Tensor) -> None:
        """Make the values ``(N, channels, 1, P)`` of P pixels known."""
        self.image.write(self.time, self.rows).copy_(pixels.squeeze(2).permute(2, 0, 1))

    def _first(self, stack: int, time: int, rows: range) -> Tensor:
        """The first layer of the vertical (0) or the horizontal (1) stack."""
        share = self.pixels(self.shares[stack], time, rows)
        seen = self.image.read(time, rows, self.first_taps[stack])
        return torch.addmm(share, seen, self.first[stack])

    def vertical_features(self, level: int, time: int, rows: range) -> Tensor:
        """See `VerticalRun`."""
        if level == 0:
            return self._first(0, time, rows)
        weight, bias = self.vertical[level - 1]
        raw, taps = self.vertical_inputs(level, time, rows)
        return torch.addmm(raw, taps, weight).add_(bias)


def _tap_matrix(layer: nn.Module) -> tuple[Tensor, Tensor]:
    layer = cast(ShiftedConv2d, layer)
    return layer.tap_weight(), layer.bias
