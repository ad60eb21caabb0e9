"""Plot what a trained model's code controls.

    python examples/code_figures.py static-mnist

Writes interpolations.png (images along paths between codes), code_swap.png
(images whose code is replaced by a sample from the prior), code_dimensions.png
(the rate of each dimension), window_in_use.png (the pixels that the decoder
uses), and, if there are labels, code_map.png (codes on two principal
components).
"""

import argparse
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pyro_vlae.analysis import (
    code_dimension_rates,
    code_marginals,
    interpolate_images,
    pixel_influence,
    swap_codes,
)
from pyro_vlae.experiments import ConfigError, load_pretrained, load_run, pretrained_names
from pyro_vlae.experiments.command_line import (
    add_place_options,
    exit_status,
    folder,
    make_parser,
    pick_device,
    seed,
)
from pyro_vlae.experiments.recipes import recipe_from_config
from pyro_vlae.plots import (
    plot_code_dimensions,
    plot_code_map,
    plot_code_swap,
    plot_interpolations,
    plot_pixel_influence,
    save_figure,
)

PAIRS, COLUMNS, MANY = 8, 12, 1000


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    names = ", ".join(pretrained_names())
    add("model", help=f"the folder of a run, or trained weights by name ({names})")
    add("--seed", type=seed, metavar="N", default=0, help="seed of the samples; default: 0")
    add_place_options(parser)
    add("--out", type=folder, metavar="DIR", help="default: the run's folder, or runs/NAME")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Plot the figures, and return the exit status."""
    options = parse(arguments)
    device = pick_device(options.device)
    named = options.model in pretrained_names()
    model, guide = (load_pretrained if named else load_run)(options.model)
    model, guide = model.to(device), guide.to(device)
    out = options.out or (Path("runs") if named else Path()) / options.model
    out.mkdir(parents=True, exist_ok=True)
    recipe = recipe_from_config(model.card["config"], options.model)
    if not recipe.has_code:
        raise ConfigError(f"{options.model} is a model without a code")
    data = recipe.load_data(options.data_dir, device)
    generator = torch.Generator().manual_seed(options.seed)
    chosen = data.test.take(torch.randperm(len(data.test), generator=generator)[:MANY])
    many = chosen.batch(slice(None))
    pairs, x = many[: 2 * PAIRS], many[2 * PAIRS : 2 * PAIRS + COLUMNS]
    title = ", ".join(dict.fromkeys([options.model, data.name]))  # weights are named by data set
    show = data.values.to_unit_range

    def interpolations() -> Figure:
        path = interpolate_images(model, guide, pairs, seed=options.seed)
        return plot_interpolations(show(pairs), show(path), f"Paths between codes: {title}")

    def code_swap() -> Figure:
        swap = swap_codes(model, guide, x, options.seed)
        lost = swap.log_ratio.sum((1, 2)).mean()
        print(f"with a code from the prior instead of its own, an image costs {lost:.1f} nats more")
        return plot_code_swap(swap.map(show), f"Images whose code is replaced: {title}")

    def code_dimensions() -> Figure:
        rates = code_dimension_rates(guide, many, model.prior())
        print(
            f"{(rates.rates > 0.1).sum()} of {len(rates.rates)} dimensions carry more than 0.1 "
            f"nats (relative to the {rates.against}, {rates.num_images} images)"
        )
        return plot_code_dimensions(rates, title=title)

    def window_in_use() -> Figure:
        with torch.no_grad():
            likelihood = model.likelihood(model.decoder(guide(x)))
        return plot_pixel_influence(pixel_influence(likelihood, x, seed=options.seed), title=title)

    def code_map() -> Figure:
        if chosen.labels is None:
            raise ValueError(f"{data.name} has no labels")
        return plot_code_map(code_marginals(guide, many).mean, chosen.labels, title=title)

    for plot in (interpolations, code_swap, code_dimensions, window_in_use, code_map):
        try:
            save_figure(plot(), out / f"{plot.__name__}.png")
        except ValueError as error:  # not every model has every figure
            print(f"no {plot.__name__}.png: {error}")
    print(f"the figures are in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
