"""Plots of codes and their effect: dimensions, a map of codes, paths, and swapped codes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from torch import Tensor

from pyro_vlae.analysis import CodeDimensionRates, CodeSwap
from pyro_vlae.plots.canvas import BLUE, COLORS, DARK, RED, legend_outside, new_axes
from pyro_vlae.plots.images import as_pictures, column_title, image_axes, place

_THRESHOLD = 0.01  # nats; dimensions below are not shown
_NAMED_DIMENSIONS = 64  # the most names that fit below the bars


def plot_code_dimensions(
    rates: CodeDimensionRates, ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Plot the rates of `code_dimension_rates` that exceed 0.01 nats, largest first."""
    values = rates.rates.numpy()
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > _THRESHOLD]
    positions = np.arange(len(order))
    above = ", ".join(f"{(values > nats).sum()} above {nats:g}" for nats in (_THRESHOLD, 0.1, 1))
    summary = f"{len(values)} dimensions: {above} nats ({rates.num_images:,} images)"
    figure, ax = new_axes(ax, f"{title}\n{summary}" if title else summary, 8.0, 3.6)
    named = len(order) <= _NAMED_DIMENSIONS
    # Gaps between hundreds of bars would look like a pattern in the data.
    ax.bar(positions, values[order], width=0.8 if named else 1.0, color=DARK, lw=0)
    if named:
        ax.set_xticks(positions, order, rotation=90, fontsize=6.5)
    else:
        ax.xaxis.set_major_locator(MultipleLocator(10 ** int(np.log10(len(order)) - 0.3)))
    ax.set_xlim(-0.8, max(len(order), 1) - 0.2)
    ax.set_ylim(bottom=0)
    by_rank = "" if named else ", by rank"
    ax.set_xlabel(f"code dimension{by_rank}, most informative first")
    ax.set_ylabel(f"KL of q($z_d$|x) from the\n{rates.against}, nats per image")
    return figure


def plot_code_map(
    codes: Tensor, labels: Tensor, ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Plot the codes of images on their first two principal components, each shown as its label.

    The codes are ``(N, code_dim)``, at least two images and two dimensions: posterior means, or
    samples if the guide has no means in closed form. The labels are integers ``(N,)``.

    Raises:
        ValueError: the codes or labels have the wrong shape.
    """
    if codes.ndim != 2 or min(codes.shape) < 2 or labels.shape != codes.shape[:1]:
        raise ValueError(
            f"expected codes (N, code_dim), at least two of each, and labels (N,); got shapes "
            f"{tuple(codes.shape)} and {tuple(labels.shape)}"
        )
    from sklearn.decomposition import PCA  # takes a second to import

    pca = PCA(2, random_state=0)
    points = pca.fit_transform(codes.detach().double().cpu().numpy())
    first, second = pca.explained_variance_ratio_
    figure, ax = new_axes(ax, title, 7.2, 6.0)
    numbers = labels.cpu().numpy()
    classes = np.unique(numbers)
    for n, name in enumerate(classes):
        x, y = points[numbers == name].T
        ax.scatter(x, y, s=28 * len(str(name)), marker=f"${name}$", color=COLORS[n % len(COLORS)],
                   lw=0.3, alpha=0.8, label=str(name))  # fmt: skip
    ax.set_xlabel(f"first principal component of the codes ({first:.0%} of their variance)")
    ax.set_ylabel(f"second principal component ({second:.0%})")
    ax.set_aspect("equal", adjustable="datalim")
    if len(classes) <= 20:
        legend_outside(ax, "label")
    return figure


def plot_interpolations(x: Tensor, path: Tensor, title: str | None = None) -> Figure:
    """Plot interpolations row by row, each between the two images that it connects.

    ``x`` are the images ``(2 N, C, H, W)`` passed to `interpolate_images`, ``path`` is its result
    ``(count, N, C, H, W)``; both in [0, 1].
    """
    starts, ends = (as_pictures(half, "x") for half in x.chunk(2))
    gap = 0.35  # between the images and the path, in image widths
    rows, right = len(starts), 1 + 2 * gap + len(path)
    figure, axes = image_axes(right + 1, rows, starts, title, heads=0.25)
    columns = {0.0: starts, right: ends}
    columns |= {1 + gap + k: as_pictures(images, "path") for k, images in enumerate(path)}
    for left, pictures in columns.items():
        place(axes, pictures, ((left, row) for row in range(rows)))
    column_title(axes, 0.5, "from")
    column_title(axes, right + 0.5, "to")
    text = "samples given codes along the path, all from the same random numbers"
    column_title(axes, 1 + gap + len(path) / 2, text)
    return figure


def plot_code_swap(swap: CodeSwap, title: str | None = None) -> Figure:
    """Plot the result of `swap_codes`, with one column per image.

    The images must be in [0, 1]: convert them with `CodeSwap.map`.
    """
    ratio = swap.log_ratio.detach().cpu().double().numpy()
    # White where the two codes explain a pixel equally well; outliers do not set the scale.
    shade = np.clip(ratio / np.quantile(np.abs(ratio), 0.995).clip(1e-12), -1, 1)[..., None]
    color = np.where(shade > 0, to_rgb(RED), to_rgb(BLUE))
    rows = {
        "image": as_pictures(swap.images, "images"),
        "lower half resampled, own code": as_pictures(swap.own_code, "own_code"),
        "lower half resampled, code from the prior": as_pictures(swap.prior_code, "prior_code"),
        "sample given the same code from the prior": as_pictures(swap.prior_sample, "prior_sample"),
        "nats lost (red) or gained (blue)": 1 - np.abs(shade) * (1 - color),
    }
    count, left = len(ratio), 3.3
    figure, axes = image_axes(count + left, len(rows), rows["image"], title)
    for row, (name, images) in enumerate(rows.items()):
        place(axes, images, [(left + n, row) for n in range(count)])
        axes.text(left - 0.15, row + 0.5, name, ha="right", va="center", fontsize=8)
    for n, nats in enumerate(ratio.sum((1, 2))):
        text = f"{nats:.0f} nats".replace("-", "−")
        axes.text(left + n + 0.5, len(rows), text, ha="center", va="top", fontsize=7)
    return figure
