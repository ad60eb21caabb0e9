"""Grids of images: samples, reconstructions, and versions of the same images side by side."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vlae.plots.canvas import DPI, wrap_title

_GAP = 0.04  # margin around an image, relative to its size
_IMAGE_DOTS = 110  # approximate width of an image when saved, about 0.75 inches
_MARGIN = 0.12  # inches
_LINE = 0.18  # height of a line of the title, inches


def plot_samples(images: Tensor, title: str | None = None, columns: int = 8) -> Figure:
    """Plot images in a grid, row by row.

    Args:
        images: ``(N, C, H, W)`` in [0, 1]; one channel is shown as black ink on white.
        title: title of the figure.
        columns: images per row.

    Raises:
        ValueError: the images have the wrong shape or range.
    """
    pictures = as_pictures(images, "images")
    columns = min(columns, len(pictures))
    figure, axes = image_axes(columns, math.ceil(len(pictures) / columns), pictures, title)
    place(axes, pictures, ((n % columns, n // columns) for n in range(len(pictures))))
    return figure


def plot_reconstructions(
    originals: Tensor, decompressions: Tensor, title: str | None = None
) -> Figure:
    """Plot pairs of an original and its decompression, as figure 1 of the paper does.

    Both are ``(N, C, H, W)`` in [0, 1]; a decompression is x' ~ p(x | z), z ~ q(z | x).

    Raises:
        ValueError: the images have the wrong shape or range, or the two shapes differ.
    """
    return plot_groups({"original": originals, "decompressed": decompressions}, title)


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
        ValueError: the images have the wrong shape or range, or the shapes differ.
    """
    pictures = {name: as_pictures(version, f"{name} images") for name, version in images.items()}
    first = next(iter(pictures.values()))
    for name, version in pictures.items():
        if version.shape != first.shape:
            shapes = {other: tuple(version.shape) for other, version in images.items()}
            raise ValueError(f"{name} images differ in number or size from the first: {shapes}")
    across = min(groups_per_row, len(first))
    gap = 0.35  # between groups, in image widths
    pitch = len(images) + gap
    rows = math.ceil(len(first) / across)
    figure, axes = image_axes(across * pitch - gap, rows, first, title, heads=0.25)
    corners = [((n % across) * pitch, n // across) for n in range(len(first))]
    for column, version in enumerate(pictures.values()):
        place(axes, version, ((left + column, row) for left, row in corners))
    for left, _ in corners[:across]:
        for column, name in enumerate(images):
            column_title(axes, left + column + 0.5, name)
    return figure


def plot_rows(images: Mapping[str, Tensor], title: str | None = None) -> Figure:
    """Plot rows of images, each with its name on the left.

    Args:
        images: by name of the row, ``(N, C, H, W)`` in [0, 1].
        title: title of the figure.

    Raises:
        ValueError: the images have the wrong shape or range.
    """
    rows = {name: as_pictures(row, f"{name!r} images") for name, row in images.items()}
    first = next(iter(rows.values()))
    left = 0.1 + 0.09 * max(map(len, rows))  # in image widths
    across = max(map(len, rows.values()))
    figure, axes = image_axes(across + left, len(rows), first, title)
    for row, (name, pictures) in enumerate(rows.items()):
        place(axes, pictures, ((left + n, row) for n in range(len(pictures))))
        axes.text(left - 0.1, row + 0.5, name, ha="right", va="center", fontsize=8)
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
    """Return a figure with a single axes for ``width`` by ``rows`` images.

    Its units are the width and the height of an image, with y pointing down. ``heads`` is the
    height reserved for column titles, in inches.
    """
    image_height, image_width = pictures.shape[1:3]
    # A whole number of dots per pixel, so that all pixels have the same size.
    scale = max(1, round(_IMAGE_DOTS / image_width)) / (DPI * (1 - 2 * _GAP))
    inner = width * image_width * scale, rows * image_height * scale  # inches, as all sizes below
    title = title and wrap_title(title, inner[0])
    top = heads + (0.27 + _LINE * (1 + title.count("\n")) if title else _MARGIN)
    size = inner[0] + 2 * _MARGIN, inner[1] + _MARGIN + top
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (_MARGIN / size[0], _MARGIN / size[1], inner[0] / size[0], inner[1] / size[1])
    )
    axes.set(xlim=(0, width), ylim=(rows, 0))
    axes.axis("off")
    if title:
        figure.text(0.5, 1 - _MARGIN / size[1], title, ha="center", va="top", fontsize=11)
    return figure, axes


def column_title(axes: Axes, x: float, text: str) -> None:
    """Write text centered at x above the first row of images."""
    axes.text(x, -0.06, text, ha="center", va="bottom", fontsize=7.5)


def place(axes: Axes, pictures: np.ndarray, corners: Iterable[tuple[float, float]]) -> None:
    """Show each image in a frame with its upper left corner at (column, row)."""
    for picture, (column, row) in zip(pictures, corners, strict=True):
        left, right, top, bottom = column + _GAP, column + 1 - _GAP, row + _GAP, row + 1 - _GAP
        extent = (left, right, bottom, top)
        axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto", vmin=0, vmax=1)
        frame = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axes.plot(*frame, color="0.7", lw=0.5)
    axes.autoscale(False)
