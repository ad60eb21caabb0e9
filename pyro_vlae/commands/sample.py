"""Generate images from a trained model.

    %(prog)s static-mnist --count 64 --temperature 0

Writes a figure, or an array (N, C, H, W) of values in [0, 1] if the file's name
ends in .npy.
"""

from pathlib import Path

import pyro
import torch

from pyro_vlae.commands.trained import add_model_options, check_images, load_model, run_folder
from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.command_line import make_parser, positive, seed
from pyro_vlae.infer import decode
from pyro_vlae.plots import plot_samples, save_figure
from pyro_vlae.reproducible import write_array


def main(arguments: list[str] | None = None) -> int:
    """Write the samples, and return the exit status."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    add = parser.add_argument
    add("--count", type=positive(int), metavar="N", default=64, help="images; default: 64")
    add("--seed", type=seed, metavar="N", default=0, help="seed of the samples; default: 0")
    text = "of the pixels; 0 shows what the codes mean; default: 1"
    add("--temperature", type=float, metavar="T", default=1.0, help=text)
    text = "of the codes; default: 1"
    add("--prior-temperature", type=float, metavar="T", default=1.0, help=text)
    add("--out", type=Path, metavar="FILE", help="default: new_samples.png in the run's folder")
    options = parser.parse_args(arguments)
    model, _, recipe, _ = load_model(options)
    check_images(recipe, options.model)
    pyro.set_rng_seed(options.seed)
    with torch.no_grad():
        if recipe.has_code:
            codes = model.prior(temperature=options.prior_temperature).sample((options.count,))
            images = decode(model, codes, temperature=options.temperature)
        elif options.temperature == options.prior_temperature == 1:
            images = model(batch_size=options.count)
        else:
            raise ConfigError(f"{options.model} has no code: sample it at temperature 1")
    images = recipe.values.to_unit_range(images)
    out = options.out or run_folder(options.model) / "new_samples.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        write_array(out, images.cpu().numpy())
    else:
        save_figure(
            plot_samples(images, f"Samples: {options.model}, {recipe.describe_parts()}"), out
        )
    print(f"wrote {out}")
    return 0
