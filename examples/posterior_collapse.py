"""Show posterior collapse and three remedies, on a model of 7x7 digits.

    python examples/posterior_collapse.py

A decoder that sees all earlier pixels hardly needs a code. Free bits, soft free
bits, or a smaller window keep the code in use. Takes minutes on one core.
Writes collapse.json and rates.png.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO

from pyro_vlae.analysis import code_dimension_rates, code_marginals, linear_probe, swap_codes
from pyro_vlae.data import load_dataset
from pyro_vlae.experiments.command_line import exit_status, folder, make_parser, seed
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import (
    FreeBitsELBO,
    JointOptim,
    SoftFreeBitsELBO,
    marginal_log_likelihood,
)
from pyro_vlae.models import binary_vlae
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.plots import plot_rates, save_figure
from pyro_vlae.reproducible import write_json
from pyro_vlae.training import TrainingSettings, fit

FREE_NATS = 4.0
SMALL, LARGE = 1, 6  # masked layers, each of which sees one more row
# Without free bits, `FreeBitsELBO` is the ELBO; it also reports the rate.
RUNS: dict[str, tuple[int, ELBO]] = {
    "large window": (LARGE, FreeBitsELBO(0.0)),
    "large window, free bits": (LARGE, FreeBitsELBO(FREE_NATS)),
    "large window, soft free bits": (LARGE, SoftFreeBitsELBO(FREE_NATS)),
    "small window": (SMALL, FreeBitsELBO(0.0)),
}


def main(arguments: list[str] | None = None) -> int:
    """Train and examine the models, and return the exit status."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--seed", type=seed, metavar="N", default=0, help="default: 0")
    add("--steps", type=int, metavar="N", default=600, help="optimizer steps; default: 600")
    out = Path("results/posterior-collapse")
    add("--out", type=folder, metavar="DIR", default=out, help=f"default: {out}")
    options = parser.parse_args(arguments)
    digits = load_dataset("digits")
    train, test = (
        dataclasses.replace(split, images=split.images[..., ::4, ::4])
        for split in (digits.train, digits.test)
    )
    x_train, x = train.batch(slice(None)), test.batch(slice(None))
    architecture = ResNetArchitecture(train.image_shape, code_dim=16, channels=(8,), features=64)
    results: dict[str, dict[str, Any]] = {}
    curves = {}
    for name, (masked_layers, elbo) in RUNS.items():
        pyro.set_rng_seed(options.seed)
        model = binary_vlae(
            architecture=architecture,
            masked_layers=masked_layers,
            tied=False,
            pixelcnn_channels=32,
            prior="normal",
        )
        guide = GaussianGuide(architecture=architecture)
        optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.005})
        settings = TrainingSettings(max_steps=options.steps, log_every=20, seed=options.seed)
        fitted = fit(
            model, guide, train, elbo=elbo, optimizer=optimizer, settings=settings, progress=False
        )
        curves[name] = fitted.history
        score = marginal_log_likelihood(model, guide, x, num_samples=128)
        rates = code_dimension_rates(guide, x, model.prior()).rates
        codes = [code_marginals(guide, images).mean for images in (x_train, x)]
        probe = linear_probe(codes[0], train.labels, codes[1], test.labels)
        swap = swap_codes(model, guide, x[:100], options.seed)
        results[name] = {
            **score.summary(),
            "masked_layers": masked_layers,
            "dimensions_above_0.01_nats": int((rates > 0.01).sum()),
            "probe": probe.accuracy,
            "probe_error": probe.standard_error,
            "nats_lost_with_another_code": swap.log_ratio.sum((1, 2)).mean().item(),
            "train_seconds": round(fitted.seconds, 1),
        }
        print(name, *(f"{key} {value}" for key, value in results[name].items()), sep="\n  ")
    options.out.mkdir(parents=True, exist_ok=True)
    save_figure(
        plot_rates(curves, title="Rate of the code: digits, 7x7"), options.out / "rates.png"
    )
    write_json(options.out / "collapse.json", {"seed": options.seed, "runs": results})
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
