"""Train one model per window, to see what each window leaves to the code.

    %(prog)s

The narrower the decoder's window, the more the code must hold; with a window
of all earlier pixels, no code is needed. Writes window_study.png and
a run folder for each window. On two cores, the windows up to 15x8 take about an
hour in total, and "all" takes several hours more.
"""

import argparse
from pathlib import Path

from pyro_vlae.experiments import BinaryRecipe
from pyro_vlae.experiments.command_line import (
    add_place_options,
    add_recipe_options,
    folder,
    make_parser,
    pick_device,
    positive,
    recipe_options,
)
from pyro_vlae.experiments.run import evaluation_index
from pyro_vlae.experiments.train_command import carry_out
from pyro_vlae.experiments.window_study import (
    probe_run,
    recipe_of_window,
    window_options,
    window_rows,
)
from pyro_vlae.infer.distributed import rank
from pyro_vlae.plots import plot_window_study, save_figure

WINDOWS = ("none", "4x2", "7x4", "15x8", "all")
SHOWN = 8


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--windows", nargs="+", metavar="W", default=WINDOWS, help=f"default: {' '.join(WINDOWS)}")
    add("--dataset", choices=("mnist", "digits"), default="mnist", help="default: mnist")
    text = "training images per window; default: 100000"
    add("--images", type=positive(int), metavar="N", default=100_000, help=text)
    text = "images to fit the probe to; default: 5000"
    add("--probe-images", type=positive(int), metavar="N", default=5000, help=text)
    text = "free bits in the first half, nats; default: 7.84"
    add("--free-nats", type=float, metavar="N", default=7.84, help=text)
    names = ("seed", "num_samples", "eval_images", "precision", "compile")
    add_recipe_options(parser, BinaryRecipe, names)
    add_place_options(parser)
    text = "default: runs/windows"
    add("--out", type=folder, metavar="DIR", default=Path("runs/windows"), help=text)
    add("--resume", action="store_true", help="continue an unfinished study")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the study, and return the exit status."""
    options = parse(arguments)
    recipes = {}
    for window in options.windows:
        given = recipe_options(options, BinaryRecipe)
        given |= window_options(window, options.images, options.free_nats)
        out = options.out / window
        recipes[window] = recipe_of_window(BinaryRecipe, out, options.resume, given)
    device = pick_device(options.device)
    data = next(iter(recipes.values())).load_data(options.data_dir, device)
    print(data.description)
    shown = data.test.batch(evaluation_index(data.test, SHOWN))
    results, pictures = {}, []
    for window, recipe in recipes.items():
        print(f"\nwindow {window}")
        out = options.out / window
        carry_out(recipe, data, out, options.resume)
        results[window], images = probe_run(out, data, options.probe_images, shown)
        probe, error = results[window]["probe"], results[window]["probe_error"]
        print(f"linear probe {probe:.1%} +- {error:.1%}", flush=True)
        pictures.append(data.values.to_unit_range(images))
        seen = results[window]["train_images_seen"]
    title = f"What the window leaves to the code: {options.dataset}, {seen:,} training images each"
    if rank() == 0:
        rows = window_rows(results, options.out)
        figure = plot_window_study(data.values.to_unit_range(shown), pictures, rows, title)
        save_figure(figure, options.out / "window_study.png")
        print(f"the figure is {options.out / 'window_study.png'}")
    return 0
