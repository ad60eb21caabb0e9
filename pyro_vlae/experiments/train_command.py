"""Training from the command line: options, data, the folder of the run, a summary."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pyro_vlae.data import (
    GRAY,
    DatasetNotFoundError,
    ImageDataset,
    dataset_names,
    load_images,
)
from pyro_vlae.experiments.command_line import (
    add_place_options,
    add_recipe_options,
    folder,
    make_parser,
    pick_device,
    recipe_options,
)
from pyro_vlae.experiments.image_recipe import ImageRecipe, is_path, recipe_for
from pyro_vlae.experiments.options import ConfigError, given_options
from pyro_vlae.experiments.pretrained import is_shipped, model_options, recipe_of
from pyro_vlae.experiments.recipes import Recipe, read_recipe
from pyro_vlae.experiments.run import RunInterrupted, run
from pyro_vlae.experiments.summary import print_scores, warn_of_few_samples
from pyro_vlae.infer.distributed import from_rank_0

Finish = Callable[[Recipe, ImageDataset, Path, dict[str, Any]], None]


def train(
    kind: type[Recipe] | Sequence[type[Recipe]],
    description: str | None,
    arguments: list[str] | None = None,
    finish: Finish | None = None,
) -> int:
    """Run or resume an experiment from the command line; returns the exit status.

    Args:
        kind: recipe class whose fields become options, or several with the same options, among
            which ``--family`` or the data decide.
        description: help text above the options.
        arguments: the command line; the process's own if None.
        finish: called after the run with the recipe, the data, the folder of the run, and the
            content of its ``results.json``, on every rank.

    Raises:
        ConfigError: options contradict each other or the run to be resumed.
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
    given["start_from"] = _full_source(given["start_from"])
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
    own_gray = is_path(given["dataset"]) and recipe.values == GRAY
    if own_gray and len(kinds) > 1 and given["start_from"] is None:
        print("modeling 256 gray levels; --family binary would binarize the images instead")
    out = from_rank_0(options.out or announced_folder(recipe))
    results = carry_out(recipe, data, out, options.resume)
    if finish is not None:
        try:
            finish(recipe, data, out, results)
        except KeyboardInterrupt as error:
            raise RunInterrupted(out) from error
    return 0


def _load(
    kinds: Sequence[type[Recipe]], given: dict[str, Any], root: Path | None, device: torch.device
) -> tuple[Recipe, ImageDataset]:
    """Load the data set that the options name, and make a recipe of the class that is for it."""
    source = None
    if given["start_from"] is not None:
        source = recipe_of(given["start_from"])
        kinds = [kind for kind in kinds if kind is type(source)]
        if not kinds:
            raise ConfigError(
                f"{given['start_from']} is a model of the family {source.family!r}: train it with "
                f"pyro-vlae train {source.family}"
            )
        of_source = {"dataset": source.dataset, **model_options(source)}
        given = {**given, **of_source, **given_options(given)}
    recipe, data = _for_data(kinds, given, root, device)
    wanted, found = getattr(source, "image_shape", None), getattr(recipe, "image_shape", None)
    if source is not None and wanted != found:
        raise ConfigError(
            f"{given['start_from']} is a model of images of shape {wanted}, those of {data.name} "
            f"have the shape {found}: crop or pad them, or train without --start-from"
        )
    return recipe, data


def _for_data(
    kinds: Sequence[type[Recipe]], given: dict[str, Any], root: Path | None, device: torch.device
) -> tuple[Recipe, ImageDataset]:
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


def _full_source(name: str | None) -> str | None:
    """The full path of a run to start from, so that this one may be continued from anywhere."""
    if name is None or is_shipped(name):
        return name
    if not name:
        raise ConfigError("--start-from is empty: give the folder of a run, or a name of weights")
    return str(Path(name).expanduser().resolve())


def carry_out(recipe: Recipe, data: ImageDataset, out: Path, resume: bool) -> dict[str, Any]:
    """`run` an experiment, and print a summary before and after."""
    images = data.train.images
    print(recipe.describe(), f"device {images.device}; writing to {out}", sep="\n", flush=True)
    warn_of_few_samples(recipe)
    results = run(recipe, data, out, resume)
    print_scores(results, data)
    print(f"figures, metrics, and results are in {out}")
    return results


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
