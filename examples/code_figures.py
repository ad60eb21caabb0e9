"""Draw what a trained model's code decides.

    python examples/code_figures.py static-mnist

Writes interpolations.png (images along paths between codes), code_swap.png
(images whose code is replaced by one of the prior), code_dimensions.png (which
dimensions carry how much), window_in_use.png (which pixels the decoder uses)
and, where there are labels, code_map.png (codes on two principal components).
"""

import argparse
import sys
from pathlib import Path

import torch
from shared import exit_status, folder, make_parser, pick_device, seed

from pyro_vlae.code_figures import (
    draw_interpolations,
    plot_code_swap,
    plot_interpolations,
    swap_codes,
)
from pyro_vlae.data import load_dataset
from pyro_vlae.figures import save_figure
from pyro_vlae.infer import code_dimension_rates, code_marginals, pixel_influence
from pyro_vlae.models import load_pretrained, load_run, pretrained_names
from pyro_vlae.plots import plot_code_dimensions, plot_code_map, plot_pixel_influence

PAIRS, COLUMNS, MANY = 8, 12, 1000


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    names = ", ".join(pretrained_names())
    add("model", help=f"the folder of a run, or trained weights by name ({names})")
    add("--data-dir", type=Path, metavar="DIR", help="default: $PYRO_VLAE_DATA, then the cache")
    add("--seed", type=seed, metavar="N", default=0, help="of all that is drawn; 0")
    add("--device", metavar="NAME", help="cpu, cuda, ...; default: cuda if any")
    add("--out", type=folder, metavar="DIR", help="default: the run's folder, or runs/NAME")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Draw the figures; returns the exit status."""
    options = parse(arguments)
    device = pick_device(options.device)
    named = options.model in pretrained_names()
    model, guide = (load_pretrained if named else load_run)(options.model)
    model, guide = model.to(device), guide.to(device)
    out = options.out or (Path("runs") if named else Path()) / options.model
    out.mkdir(parents=True, exist_ok=True)
    data = load_dataset(model.card["config"]["dataset"], options.data_dir, device)
    generator = torch.Generator().manual_seed(options.seed)
    chosen = data.test.take(torch.randperm(len(data.test), generator=generator)[:MANY])
    many = chosen.draw(slice(None))
    pairs, x = many[: 2 * PAIRS], many[2 * PAIRS : 2 * PAIRS + COLUMNS]
    path = draw_interpolations(model, guide, pairs, seed=options.seed)
    figure = plot_interpolations(pairs.cpu(), path.cpu(), f"Paths between codes: {data.name}")
    save_figure(figure, out / "interpolations.png")
    swap = swap_codes(model, guide, x, options.seed)
    figure = plot_code_swap(swap, f"Images that lose their code: {data.name}")
    save_figure(figure, out / "code_swap.png")
    rates = code_dimension_rates(guide, many, model.prior())
    save_figure(plot_code_dimensions(rates), out / "code_dimensions.png")
    with torch.no_grad():
        likelihood = model.likelihood(model.decoder(guide(x)))
    influence = pixel_influence(likelihood, x, seed=options.seed)
    save_figure(plot_pixel_influence(influence), out / "window_in_use.png")
    if chosen.labels is not None:
        means = code_marginals(guide, many).mean
        save_figure(plot_code_map(means, chosen.labels.cpu()), out / "code_map.png")
    upper = swap.lost[:, : x.shape[-2] // 2].sum((1, 2)).mean()
    lost = swap.lost.sum((1, 2)).mean()
    print(
        f"with a code of the prior in place of its own an image costs {lost:.1f} nats more "
        f"({upper:.1f} of them in its upper half)\n"
        f"{(rates.rates > 0.1).sum()} of {len(rates.rates)} dimensions carry more than 0.1 nats "
        f"(against the {rates.against}, {rates.num_images} images)\n"
        f"the pictures are in {out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, ""))
