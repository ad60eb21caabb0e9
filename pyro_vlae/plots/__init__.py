"""Figures: each function returns a matplotlib figure, and `save_figure` writes it.

Functions with an argument ``ax`` plot into these axes, or into a new figure if it is None; their
``title`` is that of the axes. No display is needed. All plots are readable in black and white.
Images are ``(N, C, H, W)`` in [0, 1].
"""

from pyro_vlae.plots.canvas import save_figure
from pyro_vlae.plots.codes import (
    plot_code_dimensions,
    plot_code_map,
    plot_code_swap,
    plot_interpolations,
)
from pyro_vlae.plots.comparisons import plot_comparison, plot_rate_distortion, plot_window_study
from pyro_vlae.plots.diagnostics import plot_pareto_k, plot_pixel_influence
from pyro_vlae.plots.images import plot_groups, plot_reconstructions, plot_rows, plot_samples
from pyro_vlae.plots.training import plot_rates, plot_training

__all__ = [
    "plot_code_dimensions",
    "plot_code_map",
    "plot_code_swap",
    "plot_comparison",
    "plot_groups",
    "plot_interpolations",
    "plot_pareto_k",
    "plot_pixel_influence",
    "plot_rate_distortion",
    "plot_rates",
    "plot_reconstructions",
    "plot_rows",
    "plot_samples",
    "plot_training",
    "plot_window_study",
    "save_figure",
]
