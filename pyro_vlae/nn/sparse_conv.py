"""A convolution of sparse images, whose cost is proportional to the number of nonzero pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F


def sparse_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, first_offset: tuple[int, int]
) -> Tensor:
    """Convolve images of one channel, most of whose pixels are zero.

    Every nonzero pixel adds one row of a table, a shifted copy of a kernel row, to each image row
    that reads it. There is no gradient with respect to x.

    Args:
        x: ``(N, 1, H, W)``.
        weight: ``(C, 1, rows, columns)``.
        bias: ``(C,)`` or None.
        first_offset: (row, column) of the kernel's first position, relative to the output pixel;
            pixels outside the image count as zero.

    Returns:
        ``(N, C, H, W)``, channels last in memory.
    """
    size, _, height, width = x.shape
    channels, _, rows, columns = weight.shape
    top, left = (-offset for offset in first_offset)
    # Output pixel k reads input pixel j at kernel column j - k + left. With the kernel flipped,
    # what pixel j contributes to a whole row of outputs is a contiguous part of it.
    flipped = weight[:, 0].permute(1, 2, 0).flip(1)
    start = columns - 1 - left
    before, after = max(0, width - 1 - start), max(0, start + width - columns)
    windows = F.pad(flipped, (0, 0, before, after)).unfold(1, width, 1)
    starts = start + before - torch.arange(width, device=x.device)
    table = windows[:, starts].transpose(2, 3).reshape(rows * width, width * channels)
    image, _, row, column = x.nonzero(as_tuple=True)
    kernel_row = torch.arange(rows, device=x.device).unsqueeze(1)
    target = row + top - kernel_row  # the output row that reads this pixel with this kernel row
    inside = (target >= 0) & (target < height)
    bags = (image * height + target)[inside]
    order = bags.argsort(stable=True)
    offsets = torch.searchsorted(bags[order], torch.arange(size * height, device=x.device))
    out = F.embedding_bag(
        (kernel_row * width + column)[inside][order],
        table,
        offsets,
        mode="sum",
        per_sample_weights=x[image, 0, row, column].to(table.dtype).expand(rows, -1)[inside][order],
    )
    out = out.view(size, height, width, channels)
    return (out if bias is None else out + bias).permute(0, 3, 1, 2)
