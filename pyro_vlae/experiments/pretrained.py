"""Loading trained models: those of runs, and those that come with the package."""

import json
from dataclasses import asdict, fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from pyro_vlae.data.names import similar_name
from pyro_vlae.experiments.options import ConfigError
from pyro_vlae.experiments.recipes import Recipe, read_recipe, recipe_from_config
from pyro_vlae.experiments.stored import read_results
from pyro_vlae.nn import MaskedResNet
from pyro_vlae.training import (
    CheckpointError,
    has_checkpoint,
    load_averaged_weights,
    load_weights,
    read_checkpoint,
)
from pyro_vlae.training.weights import check_fit, copy_weights, finite_weights


def load_run(
    folder: str | Path, model: nn.Module | None = None, guide: nn.Module | None = None
) -> tuple[nn.Module, nn.Module]:
    """The model and guide of a run, with its averaged weights, in evaluation mode, on the CPU.

    ``model.card`` is a dict with ``config``, the run's configuration, and ``results``, which are
    None if these weights have not been scored.

    Args:
        folder: the run's ``--out``, or the folder that `pyro_vlae.training.fit` wrote to.
        model: for a run that no recipe describes: a model built as its model was, into which the
            weights are copied; it stays on its device.
        guide: a guide built as its guide was.

    Raises:
        ConfigError: the folder contains no run, or one without a checkpoint, of another version,
            or made without a recipe.
        CheckpointError: its checkpoint is damaged, or the given model and guide do not fit.
        ValueError: only one of model and guide is given, or ``config.json`` or ``results.json`` is
            damaged.

    Example:
        >>> model, guide = load_run("runs/digits-quick")
        >>> model, guide = load_run("my_run", binary_vlae(code_dim=8), GaussianGuide(code_dim=8))
    """
    folder = Path(folder)
    if not folder.exists():
        raise ConfigError(
            f"there is no run in {folder}, which does not exist; {_known(str(folder))}"
        )
    if (model is None) != (guide is None):
        raise ValueError("pass both the model and the guide, or neither")
    described = (folder / "config.json").exists()
    if not has_checkpoint(folder):
        if model is None:
            read_recipe(folder)  # says if there is no run at all
        raise ConfigError(
            f"{folder} has no checkpoint and thus no weights: name the folder of a run that has "
            f"one, or weights that come with the package ({', '.join(pretrained_names())})"
        )
    checkpoint = read_checkpoint(folder / "checkpoint")
    config = checkpoint.state["config"]
    if model is None or guide is None:
        if not described and "family" not in config:
            raise ConfigError(
                f"the run in {folder} was made without a recipe: pass a model and a guide built as "
                "its own were, load_run(folder, model, guide)"
            )
        recipe = read_recipe(folder) if described else recipe_from_config(config, folder)
        config = recipe.to_config()
        model, guide = recipe.build()
    load_averaged_weights(checkpoint, {"model": model, "guide": guide})
    scored = folder / "results.json"
    results = read_results(scored) if scored.exists() else None
    if results and results["train_images_seen"] != checkpoint.state["images_seen"]:
        results = None  # of earlier weights: training went on but was not followed by scoring
    model.card = {"config": config, "results": results}  # type: ignore[assignment]
    return model.eval(), guide.eval()


def pretrained_names() -> list[str]:
    """The names that `load_pretrained` accepts."""
    names = (Path(entry.name) for entry in (files("pyro_vlae.models") / "weights").iterdir())
    return sorted(name.stem for name in names if name.suffix == ".safetensors")


def _known(name: str) -> str:
    names = pretrained_names()
    return f"weights that come with the package: {', '.join(names)}{similar_name(name, names)}"


def load_pretrained(name: str) -> tuple[nn.Module, nn.Module]:
    """A trained model and its guide, in evaluation mode, on the CPU.

    ``model.card`` is a dict with the run's ``config`` and ``results``; the Markdown card
    next to the weights summarizes both.

    Args:
        name: one of `pretrained_names`, e.g. ``"static-mnist"``.

    Raises:
        ValueError: there are no weights with this name.
        CheckpointError: the weights file is damaged.

    Example:
        >>> model, guide = load_pretrained("static-mnist")
        >>> images = model(batch_size=64)
    """
    names = pretrained_names()
    if name not in names:
        raise ValueError(f"there are no weights called {name!r}; {_known(name)}")
    with as_file(files("pyro_vlae.models") / "weights" / f"{name}.safetensors") as path:
        with safe_open(path, "pt") as file:
            card = json.loads(file.metadata()["card"])
        model, guide = recipe_from_config(card["config"], path).build()
        load_weights(path, {"model": model, "guide": guide})
    model.card = card
    return model.eval(), guide.eval()


def is_shipped(model: str) -> bool:
    """Whether this is the name of shipped weights; a folder of that name is written ``./NAME``."""
    return model in pretrained_names()


def load_pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The model and the guide of the folder or the shipped weights with this name."""
    return (load_pretrained if is_shipped(name) else load_run)(name)


def recipe_of(name: str) -> Recipe:
    """The recipe of trained weights: the folder of a run, or the name of shipped weights."""
    model, _ = load_pair(name)
    card: Any = model.card
    return recipe_from_config(card["config"], name)


def model_options(recipe: Recipe) -> dict[str, Any]:
    """The fields that only this family has, except the images' shape and those of the objective."""
    general = {f.name for f in fields(Recipe)} | {"image_shape"}
    general |= {f.name for f in fields(recipe) if not f.metadata.get("inherited", True)}
    return {name: value for name, value in asdict(recipe).items() if name not in general}


def start_from(recipe: Recipe, model: nn.Module, guide: nn.Module) -> None:
    """Copy the trained weights that a recipe starts from into its model and guide.

    Shared weights of masked convolutions are copied to each of them if the recipe's are not tied.

    Args:
        recipe: with ``start_from``, the folder of a run or the name of shipped weights.
        model: the recipe's model.
        guide: the recipe's guide.

    Raises:
        CheckpointError: the architectures differ; nothing is copied.
    """
    name = str(recipe.start_from)
    trained: Any = dict(zip(("model", "guide"), load_pair(name), strict=True))
    network = getattr(getattr(trained["model"], "likelihood", None), "network", None)
    if isinstance(network, MaskedResNet) and not getattr(recipe, "tied", True):
        network.untie()
    weights = finite_weights(trained)
    try:
        check_fit(name, weights, {"model": model, "guide": guide})
    except CheckpointError as error:
        made_with = recipe_from_config(trained["model"].card["config"], name)
        names = {"image_shape": None, **model_options(made_with)}
        differences = [
            f"{option} {getattr(made_with, option)}, now {getattr(recipe, option)}"
            for option in names
            if getattr(recipe, option, None) != getattr(made_with, option, None)
        ]
        raise CheckpointError(
            f"the weights {name} do not fit; they were made with {'; '.join(differences)}: {error}"
            if differences
            else str(error)
        ) from None
    copy_weights(weights, {"model": model, "guide": guide})
