"""Several models side by side: rate against distortion, and differences of log p(x)."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vlae.analysis.comparison import ModelComparison
from pyro_vlae.plots.canvas import COLORS, DARK, LIGHT, MARKERS, canvas, legend_outside


def plot_rate_distortion(runs: Mapping[str, Mapping[str, Any]], ax: Axes | None = None) -> Figure:
    """Draw each run in the rate-distortion plane, with lines of equal ELBO.

    On such a line models code images equally well, and differ in how much of the work the code
    does: to the left little, to the right much. The lower line is the better one.

    Args:
        runs: by name, what holds ``kl_nats`` (the rate, positive) and ``elbo_nats`` (negative): the
            ``summary()`` of `pyro_vlae.infer.marginal_log_likelihood`, or a run's ``results.json``.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: there are no runs, or one lacks these figures.

    References:
        Alemi et al., "Fixing a Broken ELBO", 2018, arXiv:1711.00464.
    """
    points = {}
    for name, run in runs.items():
        rate, elbo = run.get("kl_nats"), run.get("elbo_nats")
        if rate is None or elbo is None:
            raise ValueError(
                f"run {name!r} has no kl_nats and elbo_nats: expected a score's summary() or the "
                "content of a results.json"
            )
        points[name] = (rate, -elbo - rate)
    if not points:
        raise ValueError("there are no runs to draw")
    figure, ax = canvas(ax, 7.2)
    rates, distortions = np.array(list(points.values())).T
    right = max(1.0, rates.max()) * 1.15
    middle = (distortions.max() + distortions.min()) / 2
    half = max(0.7 * np.ptp(distortions), 0.5 * right)
    bottom, top = middle - half, middle + half
    for level in MaxNLocator(9, steps=[1, 2, 5, 10]).tick_values(bottom, right + top):
        start, stop = max(0.0, level - top), min(right, level - bottom)
        if stop - start < 0.1 * right:
            continue  # cuts off a corner
        ax.plot([start, stop], [level - start, level - stop], color="0.7", lw=0.8, zorder=0)
        at = stop - 0.08 * right
        ax.text(
            at, level - at, f"−ELBO {level:g}", fontsize=7, color="0.35", ha="center",
            va="center", rotation=-45, transform_rotates_text=True, zorder=1,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    styles = cycle(zip(COLORS, MARKERS, strict=False))
    for (name, (rate, distortion)), (color, marker) in zip(points.items(), styles, strict=False):
        ax.plot(rate, distortion, marker, color=color, ms=8, mec="white", label=name, clip_on=False)
    ax.set_xlim(0, right)
    ax.set_ylim(bottom, top)
    ax.set_xlabel("rate KL(q(z|x) || p(z)), nats per image")
    ax.set_ylabel("distortion −log p(x|z), nats per image")
    legend_outside(ax)
    return figure


def plot_comparison(comparison: ModelComparison, ax: Axes | None = None) -> Figure:
    """Draw each model's difference of log p(x) to the reference, best on top.

    Thin bars are 95 % intervals (1.96 standard errors) from having so many images only; the thick
    part of each is what more importance samples would remove.

    Args:
        comparison: of `pyro_vlae.analysis.comparison.compare_models`.
        ax: where to draw; a new figure if None.
    """
    count = len(comparison.models)
    figure, ax = canvas(ax, 6.4, 1.2 + 0.4 * count)
    at = -np.arange(count)
    difference = np.array([model.difference for model in comparison.models])
    for name, color, width in (("difference_error", DARK, 1.2), ("monte_carlo_error", LIGHT, 5.0)):
        reach = 1.96 * np.array([getattr(model, name) for model in comparison.models])
        ax.hlines(at, difference - reach, difference + reach, color=color, lw=width)
    ax.plot(difference, at, "o", color=DARK, ms=5)
    ax.axvline(0, color="0.5", lw=0.8, ls="--", zorder=0)
    ax.set_yticks(at, [model.name for model in comparison.models])
    ax.set_ylim(0.6 - count, 0.6)
    ax.set_xlabel(
        f"log p(x) less that of {comparison.reference}, nats per image\n"
        f"({comparison.num_images:,} images; 95 % intervals, thick: Monte Carlo alone)"
    )
    return figure
