"""A causal convolution, masked over pixels and, at the output pixel, over channels.

References:
    van den Oord et al., "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759 (masks A and B).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vlae.nn.sparse_conv import sparse_conv2d
from pyro_vlae.nn.weight_norm import WeightNormLayer

Offset = tuple[int, int]  # (row, column) of a pixel that is read, relative to the output pixel


class CausalConv2d(WeightNormLayer):
    """A weight-normalized convolution that reads earlier pixels in raster order only.

    The first ``image_channels`` inputs are hidden at the output pixel itself (mask A), because they
    are the values being modeled. The others are visible there (mask B): they are features of
    earlier pixels or the context.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: rows and columns of the kernel, or one number for both.
        image_channels: leading input channels that are hidden at the output pixel.
        dilation: distance in pixels between neighboring kernel positions.
        first_offset: (row, column) of the kernel's first position, relative to the output pixel.
            None centers the kernel and masks the pixels after the output pixel. With an explicit
            offset nothing is masked, so the features that the kernel reads must not depend on the
            output pixel or later ones, as in the vertical stack of `TwoStackNet`.
        own_pixel: ``(out_channels, in_channels)`` bool: the input channels that each output channel
            sees at the output pixel, instead of ``image_channels``; for centered kernels only.
        sparse: whether the input has one channel and few nonzero pixels. The result is the same;
            with a wide kernel it takes much less time on a CPU. Elsewhere, and for inputs that
            require a gradient, it has no effect.
        init_scale: see `WeightNormLayer`.

    Shapes: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Raises:
        ValueError: a centered kernel has an even size or sees no earlier pixel, ``image_channels``
            or ``own_pixel`` is combined with ``first_offset``, or a sparse layer has several input
            channels or a dilation.
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        image_channels: int = 0,
        *,
        dilation: int = 1,
        first_offset: Offset | None = None,
        own_pixel: Tensor | None = None,
        sparse: bool = False,
        init_scale: float = 1.0,
    ) -> None:
        rows, columns = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
        if sparse and (in_channels, dilation) != (1, 1):
            raise ValueError(
                "a sparse layer needs one input channel and no dilation, got "
                f"in_channels={in_channels}, dilation={dilation}"
            )
        super().__init__(
            (out_channels, in_channels, rows, columns), 0, init_scale, in_channels * rows * columns
        )
        self.dilation = dilation
        self.sparse = sparse
        if first_offset is None:
            if rows % 2 == 0 or columns % 2 == 0 or rows * columns == 1:
                raise ValueError(
                    "kernel_size must be odd (to have a center) and at least 3 (to see earlier "
                    f"pixels), got {kernel_size}"
                )
            first_offset = (-dilation * (rows // 2), -dilation * (columns // 2))
            # Earlier positions, then the center.
            center = rows * columns // 2
            mask = torch.zeros(out_channels, in_channels, rows * columns)
            mask[:, :, :center] = 1
            mask[:, image_channels:, center] = 1
            if own_pixel is not None:
                mask[:, :, center] = own_pixel.to(mask)
            mask = mask.view(self.direction.shape)
        elif image_channels or own_pixel is not None:
            raise ValueError(
                f"a kernel with first_offset={first_offset} is not masked: leave out "
                "image_channels and own_pixel"
            )
        else:
            mask = torch.ones(1, 1, 1, 1)
        self.first_offset = first_offset
        self.register_buffer("mask", mask, persistent=False)
        with torch.no_grad():
            self.scale.copy_(self._norm(self.effective_direction()))

    def effective_direction(self) -> Tensor:
        """The direction with zeros for hidden inputs, which therefore get no gradient."""
        return self.direction * self.mask

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # On a GPU, reading where the pixels are would take longer than a dense convolution.
        if self.sparse and x.device.type == "cpu" and not x.requires_grad:
            return sparse_conv2d(x, weight, bias, self.first_offset)
        top, left = (-offset for offset in self.first_offset)
        rows, columns = (self.dilation * (size - 1) for size in weight.shape[2:])
        if 2 * top == rows and 2 * left == columns:
            return F.conv2d(x, weight, bias, padding=(top, left), dilation=self.dilation)
        right, bottom = max(0, columns - left), max(0, rows - top)
        padded = F.pad(x, (max(0, left), right, max(0, top), bottom))
        padded = padded[..., max(0, -top) :, max(0, -left) :]
        out = F.conv2d(padded, weight, bias, dilation=self.dilation)
        return out[..., : x.shape[-2], : x.shape[-1]]

    @property
    def positions(self) -> tuple[Offset, ...]:
        """The offsets of all positions of the kernel, in raster order."""
        row, column = self.first_offset
        rows, columns = self.direction.shape[2:]
        return tuple(
            (row + self.dilation * i, column + self.dilation * j)
            for i in range(rows)
            for j in range(columns)
        )

    def offsets(self, channels: slice = slice(None)) -> tuple[Offset, ...]:
        """The offsets at which any output channel reads these input channels, in raster order."""
        visible = self.mask.expand_as(self.direction)[:, channels].flatten(2).any(1).any(0)
        return tuple(at for at, seen in zip(self.positions, visible.tolist(), strict=True) if seen)
