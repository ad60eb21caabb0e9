"""Diagnostic plots: the Pareto k of importance weights, and the pixels a likelihood uses."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vlae.analysis import PixelInfluence
from pyro_vlae.plots.canvas import DARK, LIGHT, RED, new_axes

_LIMITS = {0.5: ":", 0.7: "--", 1.0: "-"}


def plot_pareto_k(pareto_k: Tensor, ax: Axes | None = None, title: str | None = None) -> Figure:
    """Plot a histogram of the images' Pareto k, with the limits 0.5, 0.7 and 1.

    Below 0.5 an estimate is good, above 0.7 unreliable; above 1 the weights have no mean.
    ``pareto_k``, ``(N,)``, comes from `marginal_log_likelihood`; NaN (not fitted) is counted but
    not plotted, infinity is plotted in the last bin.

    Raises:
        ValueError: no image has a Pareto k.
    """
    known = pareto_k[~pareto_k.isnan()].double().cpu().numpy()
    if not len(known):
        raise ValueError(
            f"none of {len(pareto_k)} images has a Pareto k: score with at least 25 samples"
        )
    figure, ax = new_axes(ax)
    if title:
        ax.set_title(title, fontsize=10, pad=26)  # above the percentages
    finite = known[np.isfinite(known)]
    low = min(-0.1, math.floor(finite.min(initial=0) * 10) / 10)
    high = max(1.2, math.ceil(finite.max(initial=0) * 10) / 10)
    width = 0.05 if len(known) > 200 else 0.1
    edges = low + width * np.arange(round((high - low) / width) + 1)
    ax.hist(known.clip(max=edges[-1]), edges, color=LIGHT, edgecolor="white", lw=0.6)
    for limit, style in _LIMITS.items():
        ax.axvline(limit, color="black", ls=style, lw=1.2)
        ax.text(
            limit, 1.01, f"{(known > limit).mean():.0%}\n> {limit:g}", fontsize=8, ha="center",
            va="bottom", transform=ax.get_xaxis_transform(),
        )  # fmt: skip
    ax.set_xlim(edges[0], edges[-1])
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    missing = len(pareto_k) - len(known)
    without = f", {missing:,} without" if missing else ""
    ax.set_xlabel(f"Pareto k of the importance weights ({len(known):,} images{without})")
    ax.set_ylabel("images")
    return figure


def plot_pixel_influence(
    influence: PixelInfluence, ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Plot the result of `pixel_influence`, with the network's window outlined."""
    rows, columns = influence.reach
    size = (1.7 + 0.45 * (2 * columns + 1), max(3.0, 0.9 + 0.45 * (rows + 1)))
    figure, ax = new_axes(ax, title, *size)
    edges = (-columns - 0.5, columns + 0.5, 0.5, -rows - 0.5)
    change = influence.change.numpy()
    norm = PowerNorm(0.5, 0, max(np.nanmax(change), 1e-6))  # small changes show too
    image = ax.imshow(change, cmap="Grays", norm=norm, extent=edges)
    for row, column in zip(*np.nonzero(change >= 0.005), strict=True):
        ax.text(
            column - columns, row - rows, f"{change[row, column]:.2f}", fontsize=7, ha="center",
            va="center", color="white" if norm(change[row, column]) > 0.6 else "black",
        )  # fmt: skip
    window = influence.window or frozenset()
    for row, column in window:
        for below, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if (row + below, column + right) in window:
                continue
            # The edge between the two pixels: centered between them, along the other axis.
            y, x = row + below / 2, column + right / 2
            line = [x - below / 2, x + below / 2], [y - right / 2, y + right / 2]
            ax.plot(*line, color=RED, lw=2, solid_capstyle="projecting", clip_on=False)
    ax.add_patch(Rectangle((-0.5, -0.5), 1, 1, fill=False, hatch="xxx", ec=DARK, lw=0))
    ax.set(xlim=edges[:2], ylim=edges[2:])
    ax.set(xticks=range(-columns, columns + 1), yticks=range(-rows, 1))
    ax.set_xlabel("column, relative to the current pixel (hatched)")
    ax.set_ylabel("row, relative to the current pixel")
    bar = figure.colorbar(image, ax=ax, aspect=15, shrink=0.95)
    bar.set_label("mean |change of the log-odds|\nwhen this pixel flips")
    return figure
