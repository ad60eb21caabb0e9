"""What the scripts in this folder share: building, options, the last line, exit statuses."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn

from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.models import binary_vlae, unconditional_pixelcnn
from pyro_vlae.run_config import ConfigError, RunConfig
from pyro_vlae.training import TrainingInterrupted

GUIDES = {"gaussian": GaussianGuide, "iaf": IAFGuide}


class NoCode(nn.Module):
    """The guide of a model without a code: it has nothing to sample."""

    def forward(self, x: torch.Tensor) -> None:
        """Do nothing."""


def build(config: RunConfig, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Model and guide for a configuration."""
    pyro.set_rng_seed(config.seed)
    network = {
        "tied": config.tied,
        "masked_layers": config.masked_layers,
        "window": config.window,
        "filters": config.filters,
    }
    if config.model == "unconditional":
        return unconditional_pixelcnn(**network).to(device), NoCode()
    model = binary_vlae(prior=config.prior, likelihood=config.likelihood, **network)
    return model.to(device), GUIDES[config.guide]().to(device)


def positive(kind: type) -> Callable[[str], float]:
    """A converter for argparse: numbers of this kind above zero."""

    def convert(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above zero, got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def seed(text: str) -> int:
    """A converter for argparse: what every random generator takes as its seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must lie in 0..2^32 - 1, got {text}")
    return value


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


def report(results: dict[str, Any], out: Path) -> None:
    """Say what came out."""
    print(
        f"test NLL {results['nll_nats']:.2f} +- {results['nll_standard_error']:.2f} nats "
        f"({results['num_samples']} importance samples, {results['num_images']} images), "
        f"bound {-results['elbo_nats']:.2f}, rate {results['kl_nats']:.2f} nats = "
        f"{results['kl_bits']:.1f} bits\n"
        f"pictures, metrics and results are in {out}"
    )


def exit_status(main: Callable[[], int]) -> int:
    """Run a script's main; errors that a user can mend end in one line."""
    try:
        return main()
    except TrainingInterrupted as interrupted:
        print(f"\n{interrupted}; add --resume and --out to go on", file=sys.stderr)
        return interrupted.exit_code
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
