"""The three figures of a run: samples, reconstructions and training curves."""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from pyro_vlae.plots.pictures import DPI, as_pictures, canvas, place

_TRAIN, _VALIDATION = "#4477aa", "#cc3311"


def plot_samples(images: Tensor, title: str | None = None, columns: int = 8) -> Figure:
    """Draw images in a grid, row by row; 64 of them fill 8x8.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], C 1 (drawn black on white) or 3.
        title: Heading of the figure.
        columns: Images per row.

    Raises:
        ValueError: If the images have another shape or range.
    """
    pictures = as_pictures(images, "images")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    cells = [(float(n % columns), float(n // columns)) for n in range(len(pictures))]
    figure, axes = canvas(columns, rows, pictures, title)
    place(axes, pictures, cells)
    return figure


def plot_reconstructions(
    originals: Tensor, decompressions: Tensor, title: str | None = None, pairs_per_row: int = 4
) -> Figure:
    """Draw pairs of an original and its decompression; 32 fill 8x8, as in the paper's figure 1.

    Args:
        originals: ``(N, C, H, W)`` in [0, 1], C 1 (drawn black on white) or 3.
        decompressions: One for each original, in the same shape: x' ~ p(x | z), z ~ q(z | x).
        title: Heading of the figure.
        pairs_per_row: Pairs side by side.

    Raises:
        ValueError: If the images have another shape or range, or the two shapes differ.
    """
    groups = {"original": originals, "decompressed": decompressions}
    return plot_groups(groups, title, pairs_per_row)


def plot_groups(
    images: Mapping[str, Tensor], title: str | None = None, groups_per_row: int = 4
) -> Figure:
    """Draw versions of the same images side by side, as the paper's figure 3 does for windows.

    Args:
        images: A head for each version, and its images ``(N, C, H, W)`` in [0, 1], C 1 (drawn black
            on white) or 3; image n of all versions makes group n.
        title: Heading of the figure.
        groups_per_row: Groups side by side.

    Raises:
        ValueError: If the images have another shape or range, or the shapes differ.
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
    figure, axes = canvas(across * pitch - 0.35, rows, first, title, heads=0.25)
    corners = [((n % across) * pitch, float(n // across)) for n in range(len(first))]
    for column, version in enumerate(pictures.values()):
        place(axes, version, [(x + column, y) for x, y in corners])
    height = first.shape[1] / first.shape[2]
    for group in range(across):
        for column, head in enumerate(images):
            x = group * pitch + column + 0.5
            axes.text(x, -0.06 * height, head, ha="center", va="bottom", fontsize=7.5)
    return figure


def plot_training(records: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draw ELBO, rate and distortion over the images seen, in training and validation.

    Args:
        records: Lines of ``metrics.jsonl`` with ``images_seen``, ``elbo``, ``kl_nats`` and
            ``distortion_nats``, some also with ``validation_elbo`` and so on (see `read_metrics`).
        title: Heading of the figure.

    Training values are drawn faintly, their running mean strongly. The first steps are orders of
    magnitude worse than the rest: the axes show the range of the later curve and let the early one
    leave the picture.

    Raises:
        ValueError: If there are no records, or they lack ``images_seen``.
    """
    if not records or any("images_seen" not in record for record in records):
        raise ValueError(
            f"expected at least one record, each with 'images_seen', got {len(records)} records; "
            "train for at least one logged step"
        )
    heads = {
        "elbo": "ELBO (higher is better)",
        "kl_nats": "Rate: KL(q(z|x) || p(z))",
        "distortion_nats": "Distortion: −log p(x|z)",
    }
    if not any("kl_nats" in record for record in records):  # a model without a code
        heads = {"elbo": "log p(x) (higher is better)"}
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure = Figure(figsize=(12 if len(heads) > 1 else 5, 4.0), layout=layout)
    panels = figure.subplots(1, len(heads), squeeze=False)[0]
    for axes, (key, head) in zip(panels, heads.items(), strict=True):
        curves = [_curve(records, key), _curve(records, f"validation_{key}")]
        if len(curves[0][0]):
            x, y = curves[0]
            axes.plot(x, y, color=_TRAIN, lw=0.8, alpha=0.35)
            lone = "o" if len(x) == 1 else ""
            axes.plot(x, _smooth(y), color=_TRAIN, lw=1.6, marker=lone, ms=3.5, label="training")
        if len(curves[1][0]):
            axes.plot(*curves[1], color=_VALIDATION, lw=1.6, marker="o", ms=3.5, label="validation")
        _limit(axes, curves)
        if key == "kl_nats":
            low, high = axes.get_ylim()
            axes.set_ylim(min(0.0, low), high + 0.05 * abs(high))
        axes.set_title(head, fontsize=11)
        axes.set_xlabel("training images seen")
        axes.set_ylabel("nats per image")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.grid(color="0.9", lw=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if "kl_nats" in heads:
        bits = panels[1].secondary_yaxis(
            "right", functions=(lambda nats: nats / math.log(2), lambda bits: bits * math.log(2))
        )
        bits.set_ylabel("bits per image")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        panels[0].legend(handles, labels, frameon=False, loc="lower right")
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the records of a ``metrics.jsonl``, one JSON object per line.

    A last line that a killed run left unfinished is left out.

    Raises:
        ValueError: If any other line is not a JSON object; the message names it.
    """
    text = Path(path).read_text(encoding="utf-8")
    lines, records = text.splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise ValueError(
                f"{path}, line {number}: expected a JSON object, got {line[:60]!r}; "
                "delete the line, or start the run in a new folder"
            ) from error
        records.append(record)
    return records


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure, in the format of the suffix, so that a crash leaves the old file or the new.

    Raises:
        OSError: If the folder does not exist or is not writable.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(suffix=path.suffix, prefix=f".{path.stem}-", dir=path.parent)
    os.close(handle)
    try:
        figure.savefig(name, dpi=DPI, facecolor="white")
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files private
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    """Read the process's umask (which can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _curve(records: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images seen and values of the records that hold a finite ``key``."""
    points = [
        (record["images_seen"], record[key])
        for record in records
        if isinstance(record.get(key), int | float) and math.isfinite(record[key])
    ]
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    return x, y


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a fiftieth of the curve, shorter at its ends."""
    half = len(values) // 100
    sums = np.concatenate([[0.0], np.cumsum(values)])
    center = np.arange(len(values))
    reach = np.minimum(half, np.minimum(center, center[::-1]))  # symmetric: no bias on a slope
    return (sums[center + reach + 1] - sums[center - reach]) / (2 * reach + 1)


def _limit(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Choose the y range from the curves without their first tenth and far outliers."""
    kept = [y[len(y) // 10 :] for _, y in curves if len(y)]
    if not kept:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color="0.5")
        return
    values = np.concatenate(kept)
    low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
    q1, q3 = np.quantile(values, [0.25, 0.75])
    reach = 6 * (q3 - q1) + 1e-3 * abs(middle) + 1e-3
    low, high = max(low, middle - reach), min(high, middle + reach)
    margin = 0.06 * (high - low) + 1e-3 * abs(middle) + 1e-3
    axes.set_ylim(low - margin, high + margin)


def _short(value: float, _position: int) -> str:
    """Write large numbers as 20k, 1.5M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
