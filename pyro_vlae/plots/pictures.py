"""Images as pictures in a figure: checked, framed, at whole dots per pixel."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

DPI = 150
_FRAME = "0.7"
_GAP = 0.04  # around an image, in its widths


def to_unit_range(x: Tensor) -> Tensor:
    """Images as figures take them, in [0, 1] on the CPU; color ones are in [-1, 1] in models."""
    return (x.cpu() + 1) / 2 if x.shape[-3] == 3 else x.cpu()


def as_pictures(images: Tensor, name: str) -> np.ndarray:
    """Check images and turn them to ``(N, H, W, 3)`` for drawing, ink 1 as black."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(
            f"{name} have shape {tuple(images.shape)}, expected (N, 1, H, W) or (N, 3, H, W) "
            "with at least one image"
        )
    array = images.detach().cpu().double().numpy()
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # NaN included
        raise ValueError(f"{name} range from {low} to {high}, expected [0, 1]")
    array = array.transpose(0, 2, 3, 1)
    return np.repeat(1 - array, 3, axis=-1) if array.shape[-1] == 1 else array


def canvas(
    width: float, rows: int, pictures: np.ndarray, title: str | None, heads: float = 0.0
) -> tuple[Figure, Axes]:
    """Make a figure whose one axes measures in image widths, y pointing down.

    ``heads`` is the height left for column heads, in inches.
    """
    ratio = pictures.shape[1] / pictures.shape[2]
    # Inches of an image's width: about 0.8, a whole number of dots per pixel when saved.
    dots = pictures.shape[2] * max(1, round(110 / pictures.shape[2]))
    inch = dots / (DPI * (1 - 2 * _GAP))
    margin, top = 0.12, heads + (0.45 if title else 0.12)
    size = (width * inch + 2 * margin, rows * ratio * inch + margin + top)
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (
            margin / size[0],
            margin / size[1],
            1 - 2 * margin / size[0],
            1 - (margin + top) / size[1],
        )
    )
    axes.set_xlim(0, width)
    axes.set_ylim(rows * ratio, 0)
    axes.axis("off")
    if title:
        figure.text(0.5, 1 - 0.12 / size[1], title, ha="center", va="top", fontsize=11)
    return figure, axes


def place(axes: Axes, pictures: np.ndarray, corners: Sequence[tuple[float, float]]) -> None:
    """Draw each image framed, its upper left corner at (column, row), a small gap around it."""
    ratio = pictures.shape[1] / pictures.shape[2]
    gap = _GAP
    for picture, (x, row) in zip(pictures, corners, strict=True):
        top, bottom = row * ratio + gap, (row + 1) * ratio - gap
        axes.imshow(
            picture,
            extent=(x + gap, x + 1 - gap, bottom, top),
            interpolation="nearest",
            aspect="auto",
            vmin=0,
            vmax=1,
        )
        frame_x = [x + gap, x + 1 - gap, x + 1 - gap, x + gap, x + gap]
        axes.plot(frame_x, [top, top, bottom, bottom, top], color=_FRAME, lw=0.5)
    axes.autoscale(False)
