"""Decompress the same CIFAR-10 test images under several windows (figure 3).

    %(prog)s RUN RUN ...

Each RUN is the folder of a finished run of cifar10_vlae.py, usually one per
window, or the name of weights that come with the package. Writes windows.png,
and windows.json with the mean color error of the decompressions.
"""

from pathlib import Path
from typing import Any

import pyro

from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.color import ColorRecipe, color_error
from pyro_vlae.experiments.command_line import (
    add_place_options,
    folder,
    make_folder,
    make_parser,
    pick_device,
    positive,
)
from pyro_vlae.experiments.pretrained import is_shipped, load_pair, recipe_of
from pyro_vlae.experiments.recipes import read_recipe
from pyro_vlae.experiments.run import EVALUATION_SEED, evaluation_index
from pyro_vlae.infer import reconstruct
from pyro_vlae.plots import plot_groups, save_figure
from pyro_vlae.reproducible import write_json

SHOWN = 6


def main(arguments: list[str] | None = None) -> int:
    """Plot decompressions, measure their color error, and return the exit status."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=folder, metavar="RUN", help="folders of finished runs")
    add_place_options(parser)
    add("--images", type=positive(int), default=256, help="images for the error; default: 256")
    add("--out", type=folder, default=Path("."), metavar="DIR", help="default: the current folder")
    options = parser.parse_args(arguments)
    device = pick_device(options.device)
    recipes = {run: read_color_recipe(run) for run in options.runs}
    data = recipes[options.runs[0]].load_data(options.data_dir, device)
    for recipe in recipes.values():
        recipe.check(data)
    make_folder(options.out)
    # Runs in folders of one name are told apart by their paths.
    names = [run.name for run in recipes]
    labels = {run: run.name if names.count(run.name) == 1 else str(run) for run in recipes}
    to_unit_range = data.values.to_unit_range
    x = data.test.batch(evaluation_index(data.test, options.images))
    pictures = {"original": to_unit_range(x[:SHOWN])}
    errors = {}
    for run, recipe in recipes.items():
        model: Any
        model, guide = (module.to(device) for module in load_pair(str(run)))
        pyro.set_rng_seed(EVALUATION_SEED)
        decompressed = reconstruct(model, guide, x)
        head = recipe.window
        if head in pictures:
            head = f"{head} ({labels[run]})"
        pictures[head] = to_unit_range(decompressed[:SHOWN])
        error = color_error(x, decompressed)
        errors[head] = {
            "run": labels[run],
            "mean_color_error": error.mean().item(),
            "standard_error": error.std().item() / len(x) ** 0.5,
            "num_images": len(x),
        }
        print(f"{head}: mean color error {error.mean():.2f} of 255 levels")
    title = f"{data.name}: test images and one decompression for each window of the decoder"
    save_figure(plot_groups(pictures, title, groups_per_row=2), options.out / "windows.png")
    write_json(options.out / "windows.json", errors)
    print(f"the figure is {options.out / 'windows.png'}")
    return 0


def read_color_recipe(run: Path) -> ColorRecipe:
    """The recipe of a run, or of weights that come with the package, on color images.

    Raises:
        ConfigError: there is no run in the folder, or it is of another family.
    """
    recipe = recipe_of(str(run)) if is_shipped(str(run)) else read_recipe(run)
    if not isinstance(recipe, ColorRecipe):
        raise ConfigError(
            f"the run in {run} is of the family {recipe.family!r}, expected a run on color images, "
            f"of the family {ColorRecipe.family!r}: leave it out"
        )
    return recipe
