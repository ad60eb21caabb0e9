"""One function per plot: each draws into ``ax``, or a new figure, and returns the figure.

No window system is touched; save by `pyro_vlae.plots.figures.save_figure`, show by naming
the figure. Everything can be told apart in black and white.
"""

from pyro_vlae.plots.codes import plot_code_dimensions, plot_code_map
from pyro_vlae.plots.diagnostics import plot_pareto_k, plot_pixel_influence
from pyro_vlae.plots.runs import plot_comparison, plot_rate_distortion

__all__ = [
    "plot_code_dimensions",
    "plot_code_map",
    "plot_comparison",
    "plot_pareto_k",
    "plot_pixel_influence",
    "plot_rate_distortion",
]
