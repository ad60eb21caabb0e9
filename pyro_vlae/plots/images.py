"""Grids of images: samples, reconstructions, and versions of the same images side by side."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vlae.plots.canvas import DPI

_FRAME = "0.7"
_GAP = 0.04  # margin around an image, in image widths
_IMAGE_DOTS = 110  # approximate width of an image when saved, about 0.75 inches


def plot_samples(images: Tensor, title: str | None = None, columns: int = 8) -> Figure:
    """Plot images in a grid, row by row.

    Args:
        images: ``(N, C, H, W)`` in [0, 1]; one channel is shown as black ink on white.
        title: title of the figure.
        columns: images per row.

    Raises:
        ValueError: the images have another shape or range.
    """
    pictures = as_pictures(images, "images")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure, axes = image_axes(columns, rows, pictures, title)
    place(axes, pictures, [(n % columns, n // columns) for n in range(len(pictures))])
    return figure


def plot_reconstructions(
    originals: Tensor, decompressions: Tensor, title: str | None = None, pairs_per_row: int = 4
) -> Figure:
    """Plot pairs of an original and its decompression, as figure 1 of the paper does.

    Args:
        originals: ``(N, C, H, W)`` in [0, 1].
        decompressions: one for each original, of the same shape: x' ~ p(x | z), z ~ q(z | x).
        title: title of the figure.
        pairs_per_row: pairs side by side.

    Raises:
        ValueError: the images have another shape or range, or the two shapes differ.
    """
    groups = {"original": originals, "decompressed": decompressions}
    return plot_groups(groups, title, pairs_per_row)


def plot_groups(
    images: Mapping[str, Tensor], title: str | None = None, groups_per_row: int = 4
) -> Figure:
    """Plot versions of the same images side by side, as figure 3 of the paper does for windows.

    Args:
        images: by column title, the images of one version, ``(N, C, H, W)`` in [0, 1]; image n of
            all versions makes group n.
        title: title of the figure.
        groups_per_row: groups side by side.

    Raises:
        ValueError: the images have another shape or range, or the shapes differ.
    """
    pictures = {head: as_pictures(version, f"{head} images") for head, version in images.items()}
    first = next(iter(pictures.values()))
    for head, version in pictures.items():
        if version.shape != first.shape:
            shapes = {name: tuple(version.shape) for name, version in images.items()}
            raise ValueError(f"{head} images differ in number or size from the first: {shapes}")
    across = min(groups_per_row, len(first))
    rows = math.ceil(len(first) / across)
    pitch = len(images) + 0.35  # a gap between groups, in image widths
    figure, axes = image_axes(across * pitch - 0.35, rows, first, title, heads=0.25)
    corners = [((n % across) * pitch, n // across) for n in range(len(first))]
    for column, version in enumerate(pictures.values()):
        place(axes, version, [(x + column, y) for x, y in corners])
    for group in range(across):
        for column, head in enumerate(images):
            column_title(axes, group * pitch + column + 0.5, head, first)
    return figure


def as_pictures(images: Tensor, name: str) -> np.ndarray:
    """Check images and convert them to RGB, ``(N, H, W, 3)``, with ink 1 as black."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(
            f"{name} have shape {tuple(images.shape)}, expected (N, 1, H, W) or (N, 3, H, W) "
            "with at least one image"
        )
    array = images.detach().cpu().double().numpy()
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # NaN included
        raise ValueError(
            f"{name} range from {low} to {high}, expected [0, 1]: convert images of a data set "
            "with its values.to_unit_range"
        )
    array = array.transpose(0, 2, 3, 1)
    return np.repeat(1 - array, 3, axis=-1) if array.shape[-1] == 1 else array


def image_axes(
    width: float, rows: int, pictures: np.ndarray, title: str | None, heads: float = 0.0
) -> tuple[Figure, Axes]:
    """Return a figure with a single axes measured in image widths, y pointing down.

    Args:
        width: of the axes, in image widths.
        rows: of images.
        pictures: some of the images, for their size.
        title: title of the figure.
        heads: height reserved for column titles, in inches.
    """
    ratio = pictures.shape[1] / pictures.shape[2]
    # A whole number of dots per pixel, so that all pixels come out equally large.
    dots = pictures.shape[2] * max(1, round(_IMAGE_DOTS / pictures.shape[2]))
    inch = dots / (DPI * (1 - 2 * _GAP))
    margin, top = 0.12, heads + (0.45 if title else 0.12)
    size = (width * inch + 2 * margin, rows * ratio * inch + margin + top)
    figure = Figure(figsize=size)
    box = (margin, margin, size[0] - 2 * margin, size[1] - margin - top)  # inches
    axes = figure.add_axes((box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]))
    axes.set_xlim(0, width)
    axes.set_ylim(rows * ratio, 0)
    axes.axis("off")
    if title:
        figure.text(0.5, 1 - 0.12 / size[1], title, ha="center", va="top", fontsize=11)
    return figure, axes


def column_title(axes: Axes, x: float, text: str, pictures: np.ndarray) -> None:
    """Write text centered at x above the first row of images."""
    ratio = pictures.shape[1] / pictures.shape[2]
    axes.text(x, -0.06 * ratio, text, ha="center", va="bottom", fontsize=7.5)


def place(axes: Axes, pictures: np.ndarray, corners: Sequence[tuple[float, float]]) -> None:
    """Show each image in a frame with its upper left corner at (column, row)."""
    ratio = pictures.shape[1] / pictures.shape[2]
    for picture, (x, row) in zip(pictures, corners, strict=True):
        left, right = x + _GAP, x + 1 - _GAP
        top, bottom = row * ratio + _GAP, (row + 1) * ratio - _GAP
        extent = (left, right, bottom, top)
        axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto", vmin=0, vmax=1)
        frame = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axes.plot(*frame, color=_FRAME, lw=0.5)
    axes.autoscale(False)
