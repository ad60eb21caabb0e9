"""Plot training.png again for every run in a folder, from its metrics.

python examples/redraw_training.py
"""

import math
import sys
from pathlib import Path

from pyro_vlae.experiments.command_line import exit_status, folder, make_parser
from pyro_vlae.experiments.recipes import read_recipe
from pyro_vlae.experiments.run import run_title
from pyro_vlae.experiments.stored import read_results
from pyro_vlae.plots import plot_training, save_figure
from pyro_vlae.training.metrics import read_metrics


def main(arguments: list[str] | None = None) -> int:
    """Plot the curves, and return the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--results", type=folder, default=Path("results"), help="default: results")
    for path in sorted(parser.parse_args(arguments).results.glob("*/training.png")):
        recipe = read_recipe(path.parent)
        results = read_results(path.parent / "results.json")
        title = run_title(recipe, results["train_images_seen"])
        dimensions = None
        if recipe.values.unit == "bits/dim":
            dimensions = round(results["nll_nats"] / (results["bits_per_dim"] * math.log(2)))
        records = read_metrics(path.parent / "metrics.jsonl")
        save_figure(plot_training(records, title, dimensions), path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
