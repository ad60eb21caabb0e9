"""Axes, colors, legends, and a function that saves figures."""

import io
import os
from pathlib import Path
from textwrap import fill
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vlae.reproducible import write_atomically

DPI = 150
DARK, LIGHT = "#33415c", "#8fa3bf"
BLUE, RED = "#4477aa", "#cc3311"
COLORS = (
    "#332288", "#117733", "#cc6677", "#0077bb", "#aa4499",
    "#997700", "#882255", "#44aa99", "#222222", "#ee7733",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def new_axes(
    ax: Axes | None, title: str | None = None, width: float = 6.4, height: float = 4.4
) -> tuple[Figure, Axes]:
    """Return ``ax`` and its figure or, if it is None, new ones of this size in inches."""
    if ax is None:
        figure = Figure(figsize=(width, height), layout="constrained")
        ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10)
    return cast(Figure, ax.figure.figure), ax  # the figure itself, not a subfigure


def wrap_title(title: str, width: float) -> str:
    """Break the lines of a title of 11 points so that they fit into a width in inches."""
    return "\n".join(fill(line, max(20, int(11 * width))) for line in title.splitlines())


def add_grid(ax: Axes) -> None:
    """Add a light grid behind the data."""
    ax.grid(color="0.9", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend_outside(ax: Axes, title: str | None = None) -> None:
    """Put the legend to the right of the data."""
    ax.legend(
        title=title, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, borderaxespad=0.0
    )


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format named by the suffix of the path; a file is replaced atomically.

    Raises:
        OSError: the folder does not exist or cannot be written to.
    """
    path, content = Path(path), io.BytesIO()
    figure.savefig(content, format=path.suffix[1:] or "png", dpi=DPI, facecolor="white")
    write_atomically(path, content.getvalue())
