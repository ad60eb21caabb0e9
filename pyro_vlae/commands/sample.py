"""Generate images or piano rolls from a trained model.

    %(prog)s static-mnist --count 64 --temperature 0
    %(prog)s runs/chorales --count 8 --frames 48 --out midi

Writes a figure, or an array (N, C, H, W) of values in [0, 1] if the name of the
file ends in .npy. Piano rolls become MIDI files if --out is a folder, and an
array of keys (N, 1, frames, 88).
"""

from pathlib import Path

import pyro
import torch

from pyro_vlae.commands.trained import add_model_options, load_model, run_folder
from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.command_line import make_folder, make_parser, positive, seed


def main(arguments: list[str] | None = None) -> int:
    """Write the samples, and return the exit status."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    add = parser.add_argument
    add("--count", type=positive(int), metavar="N", default=64, help="samples; default: 64")
    add("--seed", type=seed, metavar="N", default=0, help="seed of the samples; default: 0")
    text = "of the pixels; 0 shows what the codes mean; default: 1"
    add("--temperature", type=float, metavar="T", help=text)
    add("--prior-temperature", type=float, metavar="T", help="of the codes; default: 1")
    add("--frames", type=positive(int), metavar="N", help="of each piano roll; default: 64")
    add("--out", type=Path, metavar="FILE", help="default: new_samples.png in the run's folder")
    options = parser.parse_args(arguments)
    model, _, recipe, _ = load_model(options)
    names = "temperature", "prior_temperature", "frames"
    given = {n: value for n in names if (value := getattr(options, n)) is not None}
    for name in given.keys() - set(recipe.sample_options):
        raise ConfigError(
            f"{options.model} cannot be sampled with --{name.replace('_', '-')}: leave it out (the "
            f"model is of the family {recipe.family!r}, {recipe.describe_parts()})"
        )
    out = options.out or run_folder(options.model) / "new_samples.png"
    make_folder(out.parent)
    pyro.set_rng_seed(options.seed)
    with torch.no_grad():
        samples = recipe.samples(model, options.count, **given)
    recipe.write_samples(samples, out, f"Samples: {options.model}, {recipe.describe_parts()}")
    print(f"wrote {out}")
    return 0
