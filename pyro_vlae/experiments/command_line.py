"""What the scripts in this folder share: options, carrying a run out, exit statuses."""

import argparse
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn

from pyro_vlae import __version__
from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.config import PRESETS, ConfigError, TrainingConfig
from pyro_vlae.experiments.pretrained import build_from_config
from pyro_vlae.experiments.run import prepare_folder, run
from pyro_vlae.training import TrainingInterrupted
from pyro_vlae.training.checkpoint import has_checkpoint, read_state


def build(config: TrainingConfig, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Model and guide for a configuration, their random start decided by its seed."""
    pyro.set_rng_seed(config.seed)
    model, guide = build_from_config(config)
    return model.to(device), guide.to(device)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every script has.

    Options must be written out: `exit_status` looks for ``--debug`` where no parser has been.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pyro_vlae {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def positive(kind: type) -> Callable[[str], float]:
    """A converter for argparse: numbers of this kind above zero."""

    def convert(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above zero, got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def folder(text: str) -> Path:
    """A converter for argparse: the name of a folder, not an empty text."""
    if not text:
        raise argparse.ArgumentTypeError("must name a folder, got an empty text")
    return Path(text)


def seed(text: str) -> int:
    """A converter for argparse: what every random generator takes as its seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must lie in 0..2^32 - 1, got {text}")
    return value


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that every script takes; None where nothing is given."""
    add = parser.add_argument
    add(
        "--data-dir", type=Path, metavar="DIR", help="default: $PYRO_VLAE_DATA, then the user cache"
    )
    add("--preset", choices=PRESETS, help="default: paper on a GPU, quick elsewhere")
    add("--epochs", type=positive(int), metavar="N", help="training budget: passes over the data")
    add("--max-minutes", type=positive(float), metavar="M", help="training budget in minutes")
    add("--seed", type=seed, metavar="N", help="of everything random")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; default: cuda if any")
    add("--num-samples", type=positive(int), metavar="K", help="importance samples per test image")
    add("--eval-images", type=positive(int), metavar="N", help="test images to score, shuffled")


def pick_preset(name: str | None, device: torch.device) -> str:
    """The preset asked for, or the one that suits the device."""
    return name or ("paper" if device.type == "cuda" else "quick")


def pick_device(name: str | None) -> torch.device:
    """The device asked for, or the best there is."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used ({reason}); try --device cpu") from error
    return device


def add_folder_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Where a run goes, and whether it goes on."""
    parser.add_argument("--out", type=folder, metavar="DIR", help=f"default: {default}, numbered")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that belong in a configuration; None where nothing was given."""
    elsewhere = ("data_dir", "debug", "device", "out", "resume")
    return {name: value for name, value in vars(options).items() if name not in elsewhere}


def folder_to_resume(options: argparse.Namespace) -> Path:
    """The folder of the run to go on with."""
    if options.out is None:
        raise ConfigError("--resume needs --out DIR, the folder of the run to go on with")
    return options.out


def new_folder(config: TrainingConfig) -> Path:
    """The first of runs/NAME, runs/NAME-2, ... that does not exist."""
    base = Path("runs", f"{config.dataset}-{config.preset}")
    out, number = base, 1
    while out.exists():
        number += 1
        out = base.with_name(f"{base.name}-{number}")
    return out


def carry_out(
    config: TrainingConfig, data: ImageDataset, device: torch.device, out: Path, resume: bool
) -> None:
    """Do a run as configured (train, draw, score), or go on with it, and say what came out."""
    prepare_folder(config, out, resume)
    print(config.describe(), f"device {device}; writing to {out}", sep="\n", flush=True)
    if resume and has_checkpoint(out):
        state = read_state(out / "checkpoint")
        print(f"going on at step {state['step']}, {state['images_seen']:,} images seen")
    model, guide = build(config, device)
    report(run(config, data, model, guide, out, resume), out)


def report(results: dict[str, Any], out: Path) -> None:
    """Say what came out."""
    error = results["nll_standard_error"] or float("nan")
    if results["dataset"] == "cifar10":
        bits = results["bits_per_dim"] / results["nll_nats"]  # a nat per image in bits/dim
        print(f"test NLL {results['bits_per_dim']:.3f} +- {bits * error:.3f} bits/dim, ", end="")
        print(f"bound {-bits * results['elbo_nats']:.3f}, rate {bits * results['kl_nats']:.4f}")
    print(
        f"test NLL {results['nll_nats']:.2f} +- {error:.2f} nats "
        f"({results['num_samples']} importance sample{'s' * (results['num_samples'] > 1)}, "
        f"{results['num_images']} images), "
        f"bound {-results['elbo_nats']:.2f}, rate {results['kl_nats']:.2f} nats = "
        f"{results['kl_bits']:.1f} bits\n"
        f"pictures, metrics and results are in {out}"
    )
    share = results["share_of_pareto_k_above_0.7"]
    if share is not None and share > 0.1:
        print(
            f"importance sampling is strained: median effective sample size "
            f"{results['median_effective_sample_size']:.1f} of {results['num_samples']}, Pareto k "
            f"above 0.7 for {share:.0%} of the images; more --num-samples would lower the NLL"
        )


def exit_status(main: Callable[[], int], resume: str) -> int:
    """Run a script's main; errors that a user can mend end in their message, without a traceback.

    With ``--debug`` the traceback stands before it.

    Args:
        main: returns the exit status.
        resume: the options that continue an interrupted run, ``{out}`` for its folder.
    """
    try:
        return main()
    except TrainingInterrupted as interrupted:
        out = interrupted.checkpoint and interrupted.checkpoint.parent
        print(f"\n{interrupted}; to go on, use {resume.format(out=out)}", file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
