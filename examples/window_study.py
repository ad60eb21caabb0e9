"""Train one model for each window, and see what the window leaves to the code.

    python examples/window_study.py

The narrower the decoder's window, the more the code must hold. A window that
sees everything needs no code at all. Writes window_study.png and a folder for
each window, with the files of a run. On two cores the windows up to 15x8 take
about an hour in all, "all" several hours more.
"""

import argparse
import sys
from pathlib import Path

from pyro_vlae.experiments import BinaryRecipe, ConfigError
from pyro_vlae.experiments.command_line import (
    add_place_options,
    add_recipe_options,
    exit_status,
    folder,
    make_parser,
    pick_device,
    positive,
    recipe_options,
    report,
)
from pyro_vlae.experiments.window_study import (
    first_test_images,
    study_window,
    window_options,
    window_rows,
)
from pyro_vlae.plots import plot_window_study, save_figure
from pyro_vlae.training import has_checkpoint

WINDOWS = ("none", "4x2", "7x4", "15x8", "all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--windows", nargs="+", metavar="W", default=WINDOWS, help=f"default: {' '.join(WINDOWS)}")
    add("--dataset", choices=("mnist", "digits"), default="mnist", help="default: mnist")
    text = "training images to see, per window; default: 100000"
    add("--images", type=positive(int), metavar="N", default=100_000, help=text)
    text = "images to fit the probe to; default: 5000"
    add("--probe-images", type=positive(int), metavar="N", default=5000, help=text)
    text = "free bits in the first half, nats; default: 7.84"
    add("--free-nats", type=float, metavar="N", default=7.84, help=text)
    add_recipe_options(parser, BinaryRecipe, ("seed", "num_samples", "eval_images"))
    add_place_options(parser)
    add("--out", type=folder, metavar="DIR", default=Path("runs/windows"), help="runs/windows")
    add("--resume", action="store_true", help="continue the windows that were begun")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    options = parse(arguments)
    recipes = {}
    for window in options.windows:
        given = recipe_options(options, BinaryRecipe)
        given |= window_options(window, options.images, options.free_nats)
        out = options.out / window
        if not has_checkpoint(out):
            recipes[window] = BinaryRecipe.from_options(**given)
        elif options.resume:
            recipes[window] = BinaryRecipe.resume(out, **given)
        else:
            raise ConfigError(
                f"{options.out} already holds a study: add --resume to continue it, or choose "
                "another --out"
            )
    device = pick_device(options.device)
    data = next(iter(recipes.values())).load_data(options.data_dir, device)
    print(data.description)
    show = data.values.to_unit_range
    results, pictures = {}, []
    for window, recipe in recipes.items():
        print(f"\nwindow {window}", flush=True)
        out = options.out / window
        run, images = study_window(recipe, data, out, options.resume, options.probe_images)
        report(run, data.values, data.train.images[0].numel(), out)
        print(f"linear probe {run['probe']:.1%} +- {run['probe_error']:.1%}", flush=True)
        results[window] = run
        pictures.append(show(images))
    originals = show(first_test_images(data))
    rows = window_rows(results, options.out)
    budget = f"{options.dataset}, {options.images:,} training images each"
    title = f"What the window leaves to the code: {budget}"
    figure = plot_window_study(originals, pictures, rows, title)
    save_figure(figure, options.out / "window_study.png")
    print(f"{options.out / 'window_study.png'} shows them side by side")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "the same command and --resume"))
