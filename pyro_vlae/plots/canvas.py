"""What the plots share: where to draw, and what to draw with."""

from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DARK, LIGHT = "#33415c", "#8fa3bf"
COLORS = (
    "#332288", "#117733", "#cc6677", "#0077bb", "#aa4499",
    "#997700", "#882255", "#44aa99", "#222222", "#ee7733",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def canvas(ax: Axes | None, width: float = 6.4, height: float = 4.4) -> tuple[Figure, Axes]:
    """Return ``ax`` with its figure or, for None, new ones of so many inches."""
    if ax is None:
        figure = Figure(figsize=(width, height), layout="constrained")
        ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return cast(Figure, ax.figure.figure), ax  # the figure itself, not a part of it


def legend_outside(ax: Axes, title: str | None = None) -> None:
    """Put the legend to the right of the data."""
    ax.legend(
        title=title, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, borderaxespad=0.0
    )
