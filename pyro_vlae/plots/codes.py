"""What the codes hold: the information in each dimension, and a map of the images."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from torch import Tensor

from pyro_vlae.analysis.codes import CodeDimensionRates
from pyro_vlae.plots.canvas import COLORS, DARK, canvas, legend_outside

# More names than this do not fit below the bars.
_NAMED_DIMENSIONS = 64


def plot_code_dimensions(rates: CodeDimensionRates, ax: Axes | None = None) -> Figure:
    """Draw the information in each code dimension, largest first.

    Args:
        rates: of `pyro_vlae.infer.code_dimension_rates`; the axis says what they are against.
        ax: where to draw; a new figure if None.
    """
    figure, ax = canvas(ax, 8.0, 3.6)
    values = rates.rates.numpy()
    order = np.argsort(-values, kind="stable")
    # Hundreds of bars with gaps would be a pattern of their own.
    width = 0.8 if len(values) <= _NAMED_DIMENSIONS else 1.0
    ax.bar(np.arange(len(values)), values[order], width=width, color=DARK, lw=0)
    if len(values) <= _NAMED_DIMENSIONS:
        ax.set_xticks(np.arange(len(values)), order, rotation=90, fontsize=6.5)
    else:
        ax.xaxis.set_major_locator(MultipleLocator(10 ** int(np.log10(len(values)) - 0.3)))
    ax.set_xlim(-0.8, len(values) - 0.2)
    numbers = "" if len(values) <= _NAMED_DIMENSIONS else ", by rank"
    ax.set_xlabel(f"code dimension{numbers}, most informative first")
    ax.set_ylabel(f"KL of q($z_d$|x) to the {rates.against},\nnats per image")
    above = ", ".join(f"{(values > nats).sum()} above {nats:g}" for nats in (0.01, 0.1, 1))
    ax.set_title(
        f"{len(values)} dimensions: {above} nats ({rates.num_images:,} images)", fontsize=10
    )
    return figure


def plot_code_map(codes: Tensor, labels: Tensor, ax: Axes | None = None) -> Figure:
    """Draw the codes of images on their two principal components, each image as its label.

    Args:
        codes: ``(N, code_dim)``, at least two images and dimensions: posterior means
            (``code_marginals(guide, x).loc``), or draws of a guide without these.
        labels: integers ``(N,)``.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: the shapes are others.
    """
    if codes.ndim != 2 or min(codes.shape) < 2 or labels.shape != codes.shape[:1]:
        raise ValueError(
            f"expected codes (N, code_dim), at least two of each, and labels (N,); got shapes "
            f"{tuple(codes.shape)} and {tuple(labels.shape)}"
        )
    from sklearn.decomposition import PCA  # it takes a second to import

    analysis = PCA(2, random_state=0)
    points = analysis.fit_transform(codes.detach().double().cpu().numpy())
    shares = analysis.explained_variance_ratio_
    figure, ax = canvas(ax, 7.2, 6.0)
    names = labels.cpu().numpy()
    for n, name in enumerate(np.unique(names)):
        x, y = points[names == name].T
        glyphs = f"${name}$"
        ax.scatter(x, y, s=28 * len(str(name)), marker=glyphs, color=COLORS[n % len(COLORS)],
                   lw=0.3, alpha=0.8, label=str(name))  # fmt: skip
    ax.set_xlabel(f"first principal component of the codes ({shares[0]:.0%} of their variance)")
    ax.set_ylabel(f"second principal component ({shares[1]:.0%})")
    ax.set_aspect("equal", adjustable="datalim")
    if len(np.unique(names)) <= 20:
        legend_outside(ax, "label")
    return figure
