"""Train one model per window, and see what the window leaves to the code.

    python examples/window_study.py

The narrower the decoder's window, the more the code must hold. A window that
sees everything needs no code at all. Writes window_study.png and a folder for
each window, with its metrics, checkpoint and figures. On two cores the windows
up to 15x8 take about an hour in all, "all" several hours more.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import pyro

from pyro_vlae.data import load_dataset
from pyro_vlae.experiments.command_line import (
    exit_status,
    folder,
    make_parser,
    pick_device,
    positive,
    seed,
)
from pyro_vlae.experiments.config import ConfigError
from pyro_vlae.experiments.run import shuffled
from pyro_vlae.experiments.window_study import (
    PICTURES,
    StudySettings,
    study_window,
)
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.models import VLAE, binary_vlae
from pyro_vlae.nn.two_stack import window_layers
from pyro_vlae.plots import plot_window_study, save_figure

WINDOWS = ("none", "4x2", "7x4", "15x8", "all")


def build(window: str, image_shape: tuple[int, int, int]) -> VLAE:
    """The model for one window: "none" is a factorized decoder, "all" sees all earlier pixels."""
    if window == "none":
        return binary_vlae(image_shape=image_shape, likelihood="bernoulli")
    if window == "all":
        # As many columns to the left as there are, hence more rows than there are.
        height = max(image_shape[1], image_shape[2])
        window = f"{2 * height - 1}x{height}"
    return binary_vlae(image_shape=image_shape, window=window)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    default = StudySettings()
    add = parser.add_argument
    add("--windows", nargs="+", metavar="W", default=WINDOWS, help=f"default: {' '.join(WINDOWS)}")
    add("--dataset", choices=("mnist", "digits"), default="mnist", help="default: mnist")
    add("--data-dir", type=Path, metavar="DIR", help="default: $PYRO_VLAE_DATA, then the cache")
    for name, text in (
        ("images", "training images to see, per window"),
        ("eval_images", "test images to score"),
        ("num_samples", "importance samples per test image"),
        ("probe_images", "images to fit the probe to"),
    ):
        value = getattr(default, name)
        option = "--" + name.replace("_", "-")
        add(option, type=positive(int), metavar="N", default=value, help=f"{text}; {value}")
    value = default.free_nats
    text = f"floor under the rate, first half only; {value}"
    add("--free-nats", type=float, metavar="N", default=value, help=text)
    add("--seed", type=seed, metavar="N", default=0, help="of everything random; 0")
    add("--device", metavar="NAME", help="cpu, cuda, ...; default: cuda if any")
    add("--out", type=folder, metavar="DIR", default=Path("runs/windows"), help="runs/windows")
    add("--resume", action="store_true", help="go on with the windows that were begun")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    options = parse(arguments)
    for window in options.windows:
        if window not in ("none", "all"):
            window_layers(window)
    if not options.resume and any(
        (options.out / w / "checkpoint").exists() for w in options.windows
    ):
        raise ConfigError(
            f"{options.out} already holds a study: add --resume to go on, or choose another --out"
        )
    device = pick_device(options.device)
    data = load_dataset(options.dataset, options.data_dir, device)
    settings = StudySettings(
        images=options.images,
        free_nats=options.free_nats,
        eval_images=options.eval_images,
        num_samples=options.num_samples,
        probe_images=options.probe_images,
        seed=options.seed,
    )
    print(data.description)
    results, pictures = [], []
    for window in options.windows:
        pyro.set_rng_seed(settings.seed)
        model = build(window, data.image_shape).to(device)
        guide = GaussianGuide(image_shape=data.image_shape).to(device)
        print(f"\nwindow {window}", flush=True)
        result, images = study_window(window, model, guide, data, settings, options.out / window)
        print(
            f"window {window}: NLL {result.nll:.2f} +- {result.nll_error:.2f}, rate "
            f"{result.rate:.2f}, distortion {result.distortion:.2f} nats, linear probe "
            f"{result.probe:.1%} +- {result.probe_error:.1%}",
            flush=True,
        )
        results.append(result)
        pictures.append(images.cpu())
    originals = data.test.batch(shuffled(len(data.test), PICTURES)).cpu()
    budget = f"{options.dataset}, {settings.images:,} training images each"
    title = f"What the window leaves to the code: {budget}"
    save_figure(
        plot_window_study(originals, pictures, [asdict(r) for r in results], title),
        options.out / "window_study.png",
    )
    print(f"{options.out / 'window_study.png'} shows them side by side")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "the same command and --resume"))
