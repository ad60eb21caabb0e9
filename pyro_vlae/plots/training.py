"""Training curves."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from pyro_vlae.plots.canvas import BLUE, COLORS, RED, add_grid, legend_outside, new_axes, wrap_title

_SMOOTHED = 25  # a curve is smoothed over 1/25 of its length to either side
_IGNORED = 10  # the first tenth of a curve does not affect the range of the axes
_QUANTILES = (0.01, 0.99)  # of the rest of the curve, shown with a margin
_MARGIN = 0.1


def plot_training(
    records: Sequence[Mapping[str, Any]],
    title: str | None = None,
    bits_per_dim: int | None = None,
) -> Figure:
    """Plot ELBO, rate and distortion against the images seen, for training and validation.

    Training values are shown as a thin line and smoothed. The first steps are orders of
    magnitude worse than the rest, so the axes show the range of the later curve.

    Args:
        records: lines of ``metrics.jsonl`` with ``images_seen``, ``elbo``, ``kl_nats`` and
            ``distortion_nats``, some with ``validation_elbo`` and so on. Without ``kl_nats``,
            the training objective is shown that ``elbo`` holds.
        title: title of the figure.
        bits_per_dim: data dimensions of an image, to plot bits per dimension; if None, the unit is
            nats per image.

    Raises:
        ValueError: there are no records, or they lack ``images_seen``.
    """
    if not records or any("images_seen" not in record for record in records):
        raise ValueError(
            f"expected at least one record, each with 'images_seen', got {len(records)} records; "
            "train for at least one logged step"
        )
    scale, unit = 1.0, "nats per image"
    if bits_per_dim is not None:
        scale, unit = 1 / (bits_per_dim * math.log(2)), "bits per dimension"
    heads = {
        "elbo": "ELBO (higher is better)",
        "kl_nats": "Rate: KL(q(z|x) || p(z))",
        "distortion_nats": "Distortion: −log p(x|z)",
    }
    label = "training"
    if not any("kl_nats" in record for record in records):  # no code, or not trained on an ELBO
        rates = [r["validation_kl_nats"] for r in records if "validation_kl_nats" in r]
        if any(rates):
            label = "training (another bound)"
        else:  # without validation it may be either
            heads = {"elbo": f"{'log p(x)' if rates else 'Objective'} (higher is better)"}
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure = Figure(figsize=(12 if len(heads) > 1 else 5, 4.2), layout=layout)
    panels = figure.subplots(1, len(heads), squeeze=False)[0]
    for axes, (key, head) in zip(panels, heads.items(), strict=True):
        _plot_metric(axes, records, key, scale, label)
        axes.set_title(head, fontsize=11)
        axes.set(xlabel="training images seen", ylabel=unit)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1.5M
        add_grid(axes)
    if "kl_nats" in heads:
        bit = scale * math.log(2)  # of an image, in units of the axis
        functions = (lambda value: value / bit, lambda bits: bits * bit)
        panels[1].secondary_yaxis("right", functions=functions).set_ylabel("bits per image")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        # Below the panels: curves of short runs may be anywhere within them.
        figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(wrap_title(title, figure.get_figwidth()), fontsize=11)
    return figure


def plot_rates(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    ax: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Plot the rates of several runs against the images seen, smoothed.

    Args:
        histories: by name of the run, lines of ``metrics.jsonl`` with ``images_seen`` and
            ``kl_nats``.
        ax: axes to plot into; new ones if None.
        title: title of the axes.

    Raises:
        ValueError: a run has no rates.
    """
    figure, ax = new_axes(ax, title, 7.6, 3.6)
    for (name, records), color in zip(histories.items(), cycle(COLORS), strict=False):
        x, y = _curve(records, "kl_nats", 1.0)
        if not len(x):
            raise ValueError(f"run {name!r} has no rates (kl_nats): train with a `RateELBO`")
        x, y, images = _merge_short_records(x, y)
        ax.plot(x, _smooth(y, images), color=color, lw=1.6, label=name)
    ax.set_xlabel("training images seen")
    ax.set_ylabel("rate KL(q(z|x) || p(z)),\nnats per image")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    add_grid(ax)
    legend_outside(ax)
    return figure


def _plot_metric(
    axes: Axes, records: Sequence[Mapping[str, Any]], key: str, scale: float, label: str
) -> None:
    x, y = _curve(records, key, scale)
    x_validation, y_validation = _curve(records, f"validation_{key}", scale)
    if len(x):
        x, y, images = _merge_short_records(x, y)
        axes.plot(x, y, color=BLUE, lw=0.8, alpha=0.35)
        marker = "o" if len(x) == 1 else ""
        smooth = _smooth(y, images)
        axes.plot(x, smooth, color=BLUE, lw=1.6, marker=marker, ms=3.5, label=label)
    if len(x_validation):
        averaged = "validation (averaged weights)"
        axes.plot(x_validation, y_validation, "o-", color=RED, lw=1.6, ms=3.5, label=averaged)
    later = np.concatenate([curve[len(curve) // _IGNORED :] for curve in (y, y_validation)])
    if len(later):
        low, high = np.quantile(later, _QUANTILES)
        low = min(0.0, low) if key == "kl_nats" else low
        margin = _MARGIN * (high - low) + 1e-3 * max(abs(low), abs(high), 1e-3)
        axes.set_ylim(low if low == 0 else low - margin, high + margin)
    else:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color="0.5")


def _curve(
    records: Sequence[Mapping[str, Any]], key: str, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return images seen and scaled values of the records in which ``key`` is finite."""
    points = [
        (record["images_seen"], record[key] * scale)
        for record in records
        if isinstance(record.get(key), int | float) and math.isfinite(record[key])
    ]
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    return x, y


def _merge_short_records(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge records that average few images into the one before; also return their image counts.

    The last record of a run may average a single step, whose noise would look like a trend.
    """
    images = np.maximum(np.diff(x, prepend=0.0), 1.0)
    full = images >= np.median(images) / 2
    full[0] = True
    starts = np.flatnonzero(full)
    merged = np.add.reduceat(images, starts)
    ends = np.append(starts[1:], len(x)) - 1
    return x[ends], np.add.reduceat(images * y, starts) / merged, merged


def _smooth(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fit a line to the window around each value, and evaluate it there.

    Away from the ends this is a running mean. At the ends, where the window is cut off, a mean
    would be biased on a slope, and a shorter window would show the noise of the last values.
    """
    center = np.arange(len(values))
    half = max(2, len(values) // _SMOOTHED)
    first, stop = np.maximum(center - half, 0), np.minimum(center + half + 1, len(values))

    def mean(terms: np.ndarray) -> np.ndarray:
        sums, totals = (np.cumsum([0.0, *a]) for a in (weights * terms, weights))
        return (sums[stop] - sums[first]) / (totals[stop] - totals[first])

    middle, height = mean(center), mean(values)
    spread = mean(center**2) - middle**2
    slope = (mean(center * values) - middle * height) / np.where(spread > 1e-9, spread, np.inf)
    return height + slope * (center - middle)
