"""Plots that compare models: rate and distortion, differences of log p(x), windows."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vlae.analysis import ModelComparison
from pyro_vlae.plots.canvas import COLORS, DARK, LIGHT, MARKERS, add_grid, legend_outside, new_axes
from pyro_vlae.plots.images import as_pictures, place


def plot_rate_distortion(
    runs: Mapping[str, Mapping[str, Any]],
    ax: Axes | None = None,
    title: str | None = None,
    unit: str = "nats per image",
) -> Figure:
    """Plot each run in the rate-distortion plane, with lines of equal ELBO.

    Models on one line have the same ELBO but differ in how much information passes through the
    code: little on the left, much on the right. A lower line is better.

    A run is a mapping with ``kl_nats`` (the rate, positive) and ``elbo_nats`` (negative), such as
    ``MarginalLikelihood.summary()`` or the content of a run's ``results.json``; ``unit`` is what
    the axes say of both.

    Raises:
        ValueError: there are no runs, or one lacks these values.

    References:
        Alemi et al., "Fixing a Broken ELBO", 2018, arXiv:1711.00464.
    """
    if not runs:
        raise ValueError("there are no runs to plot")
    for name, run in runs.items():
        if run.get("kl_nats") is None or run.get("elbo_nats") is None:
            raise ValueError(
                f"run {name!r} has no kl_nats and elbo_nats: expected a score's summary() or the "
                "content of a results.json"
            )
    figure, ax = new_axes(ax, title, 7.2)
    rates = np.array([run["kl_nats"] for run in runs.values()])
    distortions = -rates - [run["elbo_nats"] for run in runs.values()]
    right = max(1.0, rates.max()) * 1.15
    middle = (distortions.max() + distortions.min()) / 2
    half = max(0.7 * np.ptp(distortions), 0.5 * right)
    bottom, top = middle - half, middle + half
    for level in MaxNLocator(9, steps=[1, 2, 5, 10]).tick_values(bottom, right + top):
        start, stop = max(0.0, level - top), min(right, level - bottom)
        if stop - start < 0.1 * right:
            continue  # too short for its label
        ax.plot([start, stop], [level - start, level - stop], color="0.7", lw=0.8, zorder=0)
        at = stop - 0.08 * right
        ax.text(
            at, level - at, f"−ELBO {level:g}", fontsize=7, color="0.35", ha="center",
            va="center", rotation=-45, transform_rotates_text=True, zorder=1,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    styles = cycle(zip(COLORS, MARKERS, strict=False))
    for name, *point, (color, marker) in zip(runs, rates, distortions, styles, strict=False):
        ax.plot(*point, marker, color=color, ms=8, mec="white", label=name, clip_on=False)
    ax.set(xlim=(0, right), ylim=(bottom, top))
    ax.set_xlabel(f"rate KL(q(z|x) || p(z)), {unit}")
    ax.set_ylabel(f"distortion −log p(x|z), {unit}")
    legend_outside(ax)
    return figure


def plot_comparison(
    comparison: ModelComparison, ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Plot the result of `compare_models`: differences of log p(x) from the reference, best on top.

    Thin bars are 95% intervals (1.96 standard errors) over the images; the thick part of each is
    the Monte Carlo error, which more importance samples would remove.
    """
    count = len(comparison.models)
    figure, ax = new_axes(ax, title, 6.4, 1.2 + 0.4 * count)
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
        f"log p(x) minus that of {comparison.reference}, nats per image\n"
        f"({comparison.num_images:,} images; 95% intervals, thick: Monte Carlo alone)"
    )
    return figure


def plot_window_study(
    originals: Tensor,
    decompressions: Sequence[Tensor],
    results: Sequence[Mapping[str, Any]],
    title: str | None = None,
    unit: str = "nats per image",
) -> Figure:
    """Plot decompressions for each window, with the rate, probe accuracy and NLL of its model.

    Args:
        originals: ``(N, C, H, W)`` in [0, 1].
        decompressions: for each window, one of each original.
        results: for each window, in the same order, ``window`` (its name), ``nll``, ``nll_error``
            (None if unknown), ``rate`` and ``distortion`` (all in ``unit``), ``probe`` and
            ``probe_error`` (accuracy of a linear probe). If all have ``difference_error``, the
            standard error of the NLL's paired difference from one window's (0 for that window),
            these are the error bars of the NLL.
        title: title of the figure.
        unit: unit of NLL, rate, and distortion.

    Raises:
        ValueError: the decompressions differ in number from the results, or in shape from the
            originals.
    """
    shapes = [tuple(images.shape) for images in decompressions]
    if shapes != [tuple(originals.shape)] * len(results):
        raise ValueError(
            f"expected one tensor of decompressions of shape {tuple(originals.shape)} for each of "
            f"the {len(results)} results, got {shapes}"
        )
    names = [result["window"] for result in results]
    rows = [as_pictures(images, "images") for images in (originals, *decompressions)]
    figure = Figure(figsize=(12, 0.62 * len(rows) + 4.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[0.62 * len(rows) + 0.3, 4.1])
    axes = parts[0].subplots()
    axes.axis("off")
    for k, (name, row) in enumerate(zip(["original", *names], rows, strict=True)):
        axes.text(-0.15, k + 0.5, name, ha="right", va="center", fontsize=10)
        place(axes, row, [(n, k) for n in range(len(row))])
    axes.set(xlim=(-1.5, len(originals)), ylim=(len(rows), 0))
    axes.set_aspect(rows[0].shape[1] / rows[0].shape[2])
    plane, probe, nll = parts[1].subplots(1, 3)
    runs = {
        r["window"]: {"kl_nats": r["rate"], "elbo_nats": -r["rate"] - r["distortion"]}
        for r in results
    }
    plot_rate_distortion(runs, plane, unit=unit)
    accuracy = [100 * r["probe"] for r in results], [100 * r["probe_error"] for r in results]
    _error_bars(probe, names, *accuracy, "accuracy of a linear probe, %")
    if all("difference_error" in r for r in results):
        errors = [r["difference_error"] for r in results]
        label = f"test NLL, {unit}\n(± of the difference from {names[int(np.argmin(errors))]})"
    else:
        errors = [r["nll_error"] or 0.0 for r in results]
        label = f"test NLL, {unit}"
    _error_bars(nll, names, [r["nll"] for r in results], errors, label)
    if title:
        figure.suptitle(title)
    return figure


def _error_bars(
    ax: Axes, names: Sequence[str], values: Sequence[float], errors: Sequence[float], label: str
) -> None:
    ax.errorbar(range(len(names)), values, errors, fmt="o", color="k", capsize=3, ms=5)
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.set_ylabel(label)
    ax.set_xlabel("window of the decoder")
    ax.margins(x=0.1)
    add_grid(ax)
