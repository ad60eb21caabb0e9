"""Score a trained model on test images.

    %(prog)s runs/static-mnist-quick --num-samples 1024

Estimates log p(x) of each image by importance sampling, and prints it with the
ELBO, the rate of the code, and how reliable the estimate is. The images are
the first of a fixed random order, so that models can be compared.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from pyro_vlae.commands.trained import (
    add_data_options,
    add_model_options,
    load_data,
    load_model,
)
from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.command_line import make_folder, make_parser, positive
from pyro_vlae.experiments.run import EVALUATION_SEED, evaluation_index
from pyro_vlae.experiments.summary import print_scores, warn_of_few_samples
from pyro_vlae.infer.distributed import rank
from pyro_vlae.reproducible import write_json


def main(arguments: list[str] | None = None) -> int:
    """Score the images, and return the exit status."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    add_data_options(parser)
    add = parser.add_argument
    text = "importance samples per image; default: 64"
    add("--num-samples", type=positive(int), metavar="K", default=64, help=text)
    text = "number of test images; default: 500"
    add("--eval-images", type=positive(int), metavar="N", default=500, help=text)
    add("--out", type=Path, metavar="FILE", help="also write the scores to this file, as JSON")
    options = parser.parse_args(arguments)
    if options.out and options.out.is_dir():
        raise ConfigError(f"--out {options.out} is a folder: name the file to write")
    model, guide, recipe, device = load_model(options)
    recipe = replace(recipe, num_samples=options.num_samples)
    data = load_data(options, recipe, device)
    print(data.description, flush=True)
    warn_of_few_samples(recipe)
    index = evaluation_index(data.test, options.eval_images)
    if options.out:
        make_folder(options.out.parent)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "scores.partial.npz"
        score, more = recipe.score(model, guide, data.test, index, EVALUATION_SEED, partial)
    summary = {**score.summary(), **more}
    print_scores(summary, data)
    for name, value in summary.items():
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        print(f"  {name:32} {'-' if value != value else text:>12}")
    if options.out and rank() == 0:
        write_json(options.out, {"model": options.model, "dataset": data.name, **summary})
    return 0
