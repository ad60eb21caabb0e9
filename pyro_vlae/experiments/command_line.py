"""The command line of the scripts: options from a recipe's fields, exit statuses."""

import argparse
import sys
import traceback
from collections.abc import Callable, Collection
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from pyro_vlae._version import __version__
from pyro_vlae.data import DatasetNotFoundError, ImageDataset, Values
from pyro_vlae.experiments.recipes import ConfigError, Recipe
from pyro_vlae.experiments.run import run
from pyro_vlae.training import TrainingInterrupted, has_checkpoint, read_state


def train(kind: type[Recipe], description: str | None, arguments: list[str] | None = None) -> int:
    """Run or resume an experiment of one family from the command line; returns the exit status.

    Args:
        kind: recipe class whose fields give the options.
        description: help text above the options.
        arguments: the command line; that of the process if None.
    """
    parser = make_parser(description)
    add_recipe_options(parser, kind)
    add_place_options(parser)
    text = "default: runs/DATASET-PRESET, numbered"
    parser.add_argument("--out", type=folder, metavar="DIR", help=text)
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR")
    options = parser.parse_args(arguments)
    given = recipe_options(options, kind)
    device = pick_device(options.device)
    if options.resume:
        if options.out is None:
            raise ConfigError("--resume needs --out DIR, the folder of the run to continue")
        out, recipe = options.out, kind.resume(options.out, **given)
        data = recipe.load_data(options.data_dir, device)
    else:
        recipe = kind.from_options(**given)
        try:
            data = recipe.load_data(options.data_dir, device)
        except DatasetNotFoundError as error:
            if "dataset" in given or kind.fallback is None:
                raise
            print(f"{str(error).splitlines()[0]} Continuing with the data set {kind.fallback}.")
            recipe = kind.from_options(**{**given, "dataset": kind.fallback})
            data = recipe.load_data(options.data_dir, device)
        out = options.out or new_folder(recipe)
    print(data.description)
    carry_out(recipe, data, out, options.resume)
    return 0


def carry_out(recipe: Recipe, data: ImageDataset, out: Path, resume: bool) -> None:
    """Run or resume an experiment, and print a summary."""
    device = data.train.images.device
    print(recipe.describe(), f"device {device}; writing to {out}", sep="\n", flush=True)
    if resume and has_checkpoint(out):
        state = read_state(out / "checkpoint")
        print(f"resuming at step {state['step']}, {state['images_seen']:,} images seen")
    report(run(recipe, data, out, resume), data.values, data.train.images[0].numel(), out)


def report(results: dict[str, Any], values: Values, dimensions: int, out: Path) -> None:
    """Print a summary of ``results.json``.

    Args:
        results: what `run` returned.
        values: of the data set; its unit comes first if it is not nats.
        dimensions: data dimensions of an image.
        out: folder of the run.
    """
    error = results["nll_standard_error"] or float("nan")
    nll, bound, rate = results["nll_nats"], -results["elbo_nats"], results["kl_nats"]
    if values.unit != "nats":
        score, spread, limit, cost = (
            values.score(nats, dimensions) for nats in (nll, error, bound, rate)
        )
        print(f"test NLL {score:.3f} +- {spread:.3f} {values.unit}, ", end="")
        print(f"bound {limit:.3f}, rate {cost:.4f}")
    print(
        f"test NLL {nll:.2f} +- {error:.2f} nats "
        f"({results['num_samples']} importance sample{'s' * (results['num_samples'] > 1)}, "
        f"{results['num_images']} images), "
        f"bound {bound:.2f}, rate {rate:.2f} nats = {results['kl_bits']:.1f} bits\n"
        f"pictures, metrics and results are in {out}"
    )
    high = results["share_of_pareto_k_above_0.7"]
    if high is not None and high > 0.1:
        print(
            f"importance sampling is strained: median effective sample size "
            f"{results['median_effective_sample_size']:.1f} of {results['num_samples']}, Pareto k "
            f"above 0.7 for {high:.0%} of the images; more --num-samples would lower the NLL"
        )


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every script has.

    Options must be written out: `exit_status` looks for ``--debug`` before any parser has run.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pyro_vlae {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Where the data is and where the computation runs."""
    text = "default: $PYRO_VLAE_DATA, then the user cache"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=text)
    text = "cpu, cuda, cuda:1, ...; default: cuda if any"
    parser.add_argument("--device", metavar="NAME", help=text)


def add_recipe_options(
    parser: argparse.ArgumentParser, kind: type[Recipe], names: Collection[str] | None = None
) -> None:
    """An option for each field of a recipe that has a help text; None where nothing is given.

    Args:
        parser: to add them to.
        kind: the recipe class.
        names: fields to offer; all if None.
    """
    known, base = kind.options(), {f.name for f in fields(Recipe)} - {"dataset"}
    for f in sorted(fields(kind), key=lambda f: f.name in base):  # the family's own first
        metadata = known.get(f.name, {})
        if not metadata.get("help") or (names is not None and f.name not in names):
            continue
        rest: dict[str, Any] = {"action": "store_true", "default": None}
        if f.type is not bool:
            number = next((k for k in (int, float) if k in (f.type, *get_args(f.type))), None)
            rest = {key: metadata[key] for key in ("choices", "metavar") if key in metadata}
            rest["type"] = seed if f.name == "seed" else positive(number) if number else str
        text = metadata["help"] + _default_text(kind, f.name)
        parser.add_argument("--" + f.name.replace("_", "-"), help=text, **rest)


def _default_text(kind: type[Recipe], name: str) -> str:
    """The default of an option: one for all presets, or one for each that has any."""
    default = getattr(kind, name)
    values = {preset: given.get(name, default) for preset, given in kind.presets.items()}
    if isinstance(default, bool):
        return ""
    if len(set(values.values())) == 1:
        return "" if default is None else f"; default: {default}"
    return "; " + ", ".join(f"{p}: {value}" for p, value in values.items() if value is not None)


def recipe_options(options: argparse.Namespace, kind: type[Recipe]) -> dict[str, Any]:
    """The options that were given, by the names of the recipe's fields."""
    given = {f.name: getattr(options, f.name, None) for f in fields(kind)}
    return {name: value for name, value in given.items() if value is not None}


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


def new_folder(recipe: Recipe) -> Path:
    """The first of runs/NAME, runs/NAME-2, ... that does not exist."""
    base = Path("runs", f"{recipe.dataset}-{recipe.preset}")
    out, number = base, 1
    while out.exists():
        number += 1
        out = base.with_name(f"{base.name}-{number}")
    return out


def exit_status(main: Callable[[], int], resume: str = "") -> int:
    """Run a script's main; an error that the user can mend is reported without a traceback.

    With ``--debug`` the traceback comes before the message.

    Args:
        main: returns the exit status.
        resume: the options that continue an interrupted run, ``{out}`` for its folder.
    """
    try:
        return main()
    except TrainingInterrupted as interrupted:
        out = interrupted.checkpoint and interrupted.checkpoint.parent
        print(f"\n{interrupted}; to continue, use {resume.format(out=out)}", file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
