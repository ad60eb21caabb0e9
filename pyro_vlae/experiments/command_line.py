"""Command lines of the scripts: options made from the fields of a recipe, exit statuses."""

import argparse
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from pyro_vlae._version import __version__
from pyro_vlae.data import (
    GRAY,
    DatasetNotFoundError,
    ImageDataset,
    dataset_names,
    load_images,
)
from pyro_vlae.experiments.image_recipe import ImageRecipe, is_path, recipe_for
from pyro_vlae.experiments.options import ConfigError
from pyro_vlae.experiments.recipes import Recipe, read_recipe
from pyro_vlae.experiments.run import program, run
from pyro_vlae.infer.distributed import from_rank_0, rank, world_size
from pyro_vlae.training import TrainingInterrupted
from pyro_vlae.training.distributed import torchrun_ranks


def train(
    kind: type[Recipe] | Sequence[type[Recipe]],
    description: str | None,
    arguments: list[str] | None = None,
) -> int:
    """Run or resume an experiment from the command line; returns the exit status.

    Args:
        kind: recipe class whose fields become options, or several with the same options, among
            which ``--family`` or the data decide.
        description: help text above the options.
        arguments: the command line; the process's own if None.
    """
    kinds = (kind,) if isinstance(kind, type) else tuple(kind)
    parser = make_parser(description)
    add_recipe_options(parser, kinds[0])
    if len(kinds) > 1:
        text = "how to model pixels; default: by the data set"
        parser.add_argument("--family", choices=[k.family for k in kinds], help=text)
    add_place_options(parser)
    text = "default: runs/DATASET-PRESET, numbered"
    parser.add_argument("--out", type=folder, metavar="DIR", help=text)
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out DIR, if there is one"
    )
    options = parser.parse_args(arguments)
    given = recipe_options(options, kinds[0])
    device = pick_device(options.device)
    if options.resume and not options.out:
        raise ConfigError("--resume needs --out DIR, the folder of the run to continue")
    family = getattr(options, "family", None)
    kinds = tuple(kind for kind in kinds if family in (None, kind.family))
    # The same command starts a run and continues it. Rank 0 looks before it writes the file.
    if from_rank_0(options.resume and (options.out / "config.json").exists()):
        made_with = type(read_recipe(options.out))
        kind = made_with if made_with in kinds else kinds[0]
        recipe = kind.resume(options.out, **given)
        data = recipe.load_data(options.data_dir, device)
    else:
        recipe, data = _load(kinds, given, options.data_dir, device)
    print(data.description)
    if is_path(given["dataset"]) and len(kinds) > 1 and recipe.values == GRAY:
        print("modeling 256 gray levels; --family binary would binarize the images instead")
    out = from_rank_0(options.out or announced_folder(recipe))
    carry_out(recipe, data, out, options.resume)
    return 0


def _load(
    kinds: Sequence[type[Recipe]], given: dict[str, Any], root: Path | None, device: torch.device
) -> tuple[Recipe, ImageDataset]:
    """Load the data set that the options name, and make a recipe of the class that is for it."""
    name = given["dataset"]
    if issubclass(kinds[0], ImageRecipe) and is_path(name):
        # With only one class to choose from, its models decide what they see of the images.
        data = load_images(name, kinds[0].values if len(kinds) == 1 else None).to(device)
        return recipe_for(data, kinds, **given), data
    kind = next((kind for kind in kinds if name in dataset_names(kind.values)), kinds[0])
    recipe = kind.from_options(**given)
    try:
        data = recipe.load_data(root, device)
    except DatasetNotFoundError as error:
        if name or kind.fallback is None:
            raise
        print(f"{str(error).splitlines()[0]} Continuing with the data set {kind.fallback}.")
        recipe = kind.from_options(**{**given, "dataset": kind.fallback})
        data = recipe.load_data(root, device)
    return recipe.for_data(data), data


def carry_out(recipe: Recipe, data: ImageDataset, out: Path, resume: bool) -> dict[str, Any]:
    """`run` an experiment, and print a summary before and after."""
    images = data.train.images
    print(recipe.describe(), f"device {images.device}; writing to {out}", sep="\n", flush=True)
    if recipe.has_code and recipe.num_samples < 64:
        print(
            f"note: with {recipe.num_samples} importance samples per image the NLL is noticeably "
            "too high; use --num-samples 64 or more to compare models"
        )
    results = run(recipe, data, out, resume)
    scores = (
        results["nll_nats"],
        results["nll_standard_error"],
        -results["elbo_nats"],
        results["kl_nats"],
    )
    if data.values.unit != "nats":
        nll, error, bound, rate = (data.values.score(nats, images[0].numel()) for nats in scores)
        unit = data.values.unit
        print(f"test NLL {nll:.3f} +- {error:.3f} {unit}, bound {bound:.3f}, rate {rate:.4f}")
    nll, error, bound, rate = scores
    count = results["num_samples"]
    print(
        f"test NLL {nll:.2f} +- {error:.2f} nats ({count} importance sample{'s' * (count > 1)}, "
        f"{results['num_images']} images), "
        f"bound {bound:.2f}, rate {rate:.2f} nats = {results['kl_bits']:.1f} bits\n"
        f"figures, metrics, and results are in {out}"
    )
    high = results["fraction_of_pareto_k_above_0.7"]
    if high > 0.1:
        print(
            "the importance sampling estimate is unreliable: median effective sample size "
            f"{results['median_effective_sample_size']:.1f} of {count}, Pareto k above 0.7 for "
            f"{high:.0%} of the images; more --num-samples would lower the NLL"
        )
    return results


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every command and script has.

    ``%(prog)s`` in the description is how it was called, e.g. ``pyro-vlae train``.

    Options cannot be abbreviated: `exit_status` looks for ``--debug`` before any parser has run.
    """
    parser = argparse.ArgumentParser(
        prog=program(),
        description=description,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pyro_vlae {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the data folder and the device."""
    text = "default: $PYRO_VLAE_DATA, then the user cache"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=text)
    text = "cpu, cuda, cuda:1, ...; default: cuda if any"
    parser.add_argument("--device", metavar="NAME", help=text)


def add_recipe_options(
    parser: argparse.ArgumentParser, kind: type[Recipe], names: Collection[str] | None = None
) -> None:
    """Add an option, by default None, for each field of a recipe that has a help text.

    Args:
        parser: the parser to add them to.
        kind: the recipe class.
        names: the fields to include; all if None.
    """
    known, base = kind.options(), {f.name for f in fields(Recipe)} - {"dataset"}
    for f in sorted(fields(kind), key=lambda f: f.name in base):  # the family's own fields first
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
    """The default of an option for its help text, by preset if they differ."""
    default = getattr(kind, name)
    values = {preset: given.get(name, default) for preset, given in kind.presets.items()}
    if isinstance(default, bool):
        return ""
    if len(set(values.values())) == 1:
        return "" if default is None else f"; default: {default}"
    return "; " + ", ".join(f"{p}: {value}" for p, value in values.items() if value is not None)


def recipe_options(options: argparse.Namespace, kind: type[Recipe]) -> dict[str, Any]:
    """The parsed value of each field of a recipe, None if it was not given."""
    return {f.name: getattr(options, f.name, None) for f in fields(kind)}


def positive(kind: type) -> Callable[[str], float]:
    """An argparse type: positive numbers of this kind."""

    def convert(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be positive, got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def folder(text: str) -> Path:
    """An argparse type: the name of a folder."""
    if not text:
        raise argparse.ArgumentTypeError("must name a folder, got an empty string")
    return Path(text)


def seed(text: str) -> int:
    """An argparse type: seeds that all random generators accept."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must lie in 0..2^32 - 1, got {text}")
    return value


def pick_device(name: str | None) -> torch.device:
    """The device with this name; by default, the GPU if there is one, else the CPU.

    Several ranks on a machine take one GPU each.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if world_size() > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(f"--device {name} names one GPU for all ranks: use --device cuda")
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.zeros(1, device=device).item()  # fails on devices that hold no values, such as meta
    except Exception as error:  # of many kinds, by device
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"--device {name} cannot be used ({reason}); try --device cpu") from error
    return device


def new_folder(recipe: Recipe) -> Path:
    """The first of runs/NAME, runs/NAME-2, ... that does not exist."""
    base = f"runs/{recipe.dataset_name}-{recipe.preset}"
    folders = (Path(f"{base}-{number}" if number > 1 else base) for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def announced_folder(recipe: Recipe) -> Path:
    """A new folder; says so if there are earlier runs of the same name."""
    chosen = new_folder(recipe)
    first = chosen.with_name(f"{recipe.dataset_name}-{recipe.preset}")
    if chosen != first:
        print(
            f"{first} already holds a run: this is a new one, in {chosen} (to continue the other "
            f"one instead, use --resume --out {first})"
        )
    return chosen


def exit_status(main: Callable[[], int], resume: str = "") -> int:
    """Run a script's main; report errors that the user can fix without a traceback.

    With ``--debug``, the traceback precedes the message. Under `torchrun`, the ranks work together.

    Args:
        main: returns the exit status.
        resume: the options that continue an interrupted run, with ``{out}`` for its folder.
    """
    try:
        with torchrun_ranks():
            return main()
    except TrainingInterrupted as interrupted:
        out = interrupted.checkpoint and interrupted.checkpoint.parent
        if rank() == 0:
            print(f"\n{interrupted}; to continue, use {resume.format(out=out)}", file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
