"""Train one model of piano rolls per window: what is left to the code?

    python examples/piano_roll_windows.py

The fewer past frames the decoder sees, the more the code must hold. Writes
window_study.png (in nats per frame) and a run folder for each window.
"""

import argparse
import sys
from pathlib import Path

from pyro_vlae.experiments import PianoRollRecipe
from pyro_vlae.experiments.command_line import (
    add_place_options,
    add_recipe_options,
    exit_status,
    folder,
    make_parser,
    pick_device,
    positive,
    recipe_options,
)
from pyro_vlae.experiments.piano_roll_windows import probe_run, window_rows
from pyro_vlae.experiments.train_command import carry_out
from pyro_vlae.experiments.window_study import recipe_of_window
from pyro_vlae.infer.distributed import rank
from pyro_vlae.plots import plot_window_study, save_figure

WINDOWS = (1, 2, 4, 8, 16)
SHOWN, FRAMES = 8, 48
OPTIONS = (
    *("dataset", "hidden", "code_channels", "free_nats"),
    *("batch_size", "seed", "num_samples", "eval_images"),
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.usage = "%(prog)s [options]"
    add = parser.add_argument
    text = "past frames; default: 1 2 4 8 16"
    add("--windows", nargs="+", type=positive(int), metavar="B", default=WINDOWS, help=text)
    text = "optimizer steps per window; default: 400"
    add("--steps", type=positive(int), metavar="N", default=400, help=text)
    add_recipe_options(parser, PianoRollRecipe, OPTIONS)
    add_place_options(parser)
    text = "default: runs/piano-roll-windows"
    add("--out", type=folder, metavar="DIR", default=Path("runs/piano-roll-windows"), help=text)
    add("--resume", action="store_true", help="continue an unfinished study")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the study, and return the exit status."""
    options = parse(arguments)
    device = pick_device(options.device)
    results, pictures = {}, []
    for window in options.windows:
        print(f"\nwindow of {window} frames")
        out = options.out / str(window)
        given = recipe_options(options, PianoRollRecipe)
        given |= {"window": window, "max_steps": options.steps}
        recipe = recipe_of_window(PianoRollRecipe, out, options.resume, given)
        data = recipe.load_data(options.data_dir, device)
        carry_out(recipe, data, out, options.resume)
        long = (data.test.lengths >= FRAMES).nonzero().flatten()[:SHOWN]
        shown = data.test.batch(long)[:, :, :FRAMES]
        results[window], rolls = probe_run(out, data, shown)
        print(
            f"linear probe of the pitch class {results[window]['probe_pitch_class']:.1%}, of the "
            f"mode {results[window]['probe_mode']:.1%}",
            flush=True,
        )
        pictures.append(data.values.to_unit_range(rolls))
    title = f"What the window leaves to the code: {recipe.dataset}, {options.steps} steps each"
    originals = data.values.to_unit_range(shown)
    if rank() == 0:
        rows = window_rows(results)
        figure = plot_window_study(originals, pictures, rows, title, "nats per frame")
        save_figure(figure, options.out / "window_study.png")
        print(f"the figure is {options.out / 'window_study.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "the same command and --resume"))
