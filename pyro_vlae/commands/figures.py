"""Plot what a trained model's code controls.

    %(prog)s static-mnist

Writes interpolations.png (images along paths between codes), code_swap.png
(images whose code is replaced by a sample from the prior), code_dimensions.png
(the rate of each dimension), window_in_use.png (the pixels that the decoder
uses), and, if there are labels, code_map.png (codes on two principal
components) and neighbors.png (images with the most similar pixels and codes).
"""

import argparse
import functools
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vlae.analysis import (
    code_dimension_rates,
    code_marginals,
    interpolate_images,
    nearest_neighbors,
    pixel_influence,
    swap_codes,
)
from pyro_vlae.commands.trained import (
    add_data_options,
    add_model_options,
    check_images,
    load_data,
    load_model,
    run_folder,
)
from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.command_line import folder, make_folder, make_parser, seed
from pyro_vlae.plots import (
    plot_code_dimensions,
    plot_code_map,
    plot_code_swap,
    plot_groups,
    plot_interpolations,
    plot_pixel_influence,
    save_figure,
)

PAIRS, COLUMNS, MANY = 8, 12, 1000


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_model_options(parser)
    add_data_options(parser)
    add("--seed", type=seed, metavar="N", default=0, help="seed of the samples; default: 0")
    add("--out", type=folder, metavar="DIR", help="default: the run's folder, or runs/NAME")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Plot the figures, and return the exit status."""
    options = parse(arguments)
    model, guide, recipe, device = load_model(options)
    check_images(recipe, options.model)
    if not recipe.has_code:
        raise ConfigError(f"{options.model} is a model without a code")
    out = options.out or run_folder(options.model)
    make_folder(out)
    data = load_data(options, recipe, device)
    count = min(MANY, len(data.test))
    if count < 2:
        raise ConfigError(f"{data.name} has {count} test image: the figures need two or more")
    chosen = data.test.subset(count, options.seed)
    many = chosen.batch(slice(None))
    pairs = many[: 2 * min(PAIRS, len(many) // 2)]
    x = many[len(pairs) :][:COLUMNS] if len(many) >= 2 * PAIRS + COLUMNS else many[:COLUMNS]
    title = ", ".join(dict.fromkeys([options.model, data.name]))  # weights are named by data set
    show = data.values.to_unit_range

    def interpolations() -> Any:
        path = interpolate_images(model, guide, pairs, seed=options.seed)
        return plot_interpolations(show(pairs), show(path), f"Paths between codes: {title}")

    def code_swap() -> Any:
        swap = swap_codes(model, guide, x, options.seed)
        lost = swap.log_ratio.sum((1, 2)).mean()
        print(f"with a code from the prior instead of its own, an image costs {lost:.1f} nats more")
        return plot_code_swap(swap.map(show), f"Images whose code is replaced: {title}")

    def code_dimensions() -> Any:
        rates = code_dimension_rates(guide, many, model.prior())
        print(
            f"{(rates.rates > 0.1).sum()} of {len(rates.rates)} dimensions carry more than 0.1 "
            f"nats (relative to the {rates.against}, {rates.num_images} images)"
        )
        return plot_code_dimensions(rates, title=title)

    def window_in_use() -> Any:
        pyro.set_rng_seed(options.seed)
        with torch.no_grad():
            likelihood = model.likelihood(model.decoder(guide(x)))
        return plot_pixel_influence(pixel_influence(likelihood, x, seed=options.seed), title=title)

    @functools.cache
    def labeled_codes() -> tuple[Tensor, Tensor]:
        if chosen.labels is None:
            raise ValueError(f"{data.name} has no labels")
        return code_marginals(guide, many).mean, chosen.labels

    def code_map() -> Any:
        return plot_code_map(*labeled_codes(), title=title)

    def neighbors() -> Any:
        codes, labels = labeled_codes()
        versions = {"image": many[:COLUMNS]}
        for name, features in {"pixels": many.flatten(1), "codes": codes}.items():
            nearest = nearest_neighbors(features)
            hits = (labels[nearest] == labels).double()
            error = hits.std() / len(hits) ** 0.5
            print(
                f"the nearest of {len(many)} test images by {name} has the same label for "
                f"{hits.mean():.1%} ± {error:.1%}"
            )
            versions[f"by {name}"] = many[nearest[:COLUMNS]]
        groups = {name: show(images) for name, images in versions.items()}
        return plot_groups(groups, f"Images and their nearest neighbors: {title}")

    plots = interpolations, code_swap, code_dimensions, window_in_use, code_map, neighbors
    for plot in plots:
        try:
            save_figure(plot(), out / f"{plot.__name__}.png")
        except ValueError as error:  # not every model has every figure
            print(f"no {plot.__name__}.png: {error}")
    print(f"the figures are in {out}")
    return 0
