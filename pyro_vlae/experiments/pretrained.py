"""Loading trained models: those of runs, and those that come with the package."""

import difflib
import json
from importlib.resources import as_file, files
from pathlib import Path

from safetensors import safe_open
from torch import nn

from pyro_vlae.experiments.recipes import ConfigError, read_recipe, recipe_from_config
from pyro_vlae.experiments.stored import read_results
from pyro_vlae.training import has_checkpoint, load_averaged_weights, load_weights, read_checkpoint


def load_run(folder: str | Path) -> tuple[nn.Module, nn.Module]:
    """The model and guide of a run, with its averaged weights, in evaluation mode, on the CPU.

    ``model.card`` is a dict with ``config``, the run's configuration, and ``results``, which are
    None if these weights have not been scored.

    Args:
        folder: the run's ``--out``.

    Raises:
        ConfigError: the folder contains no run, or one without a checkpoint or of another version.
        CheckpointError: its checkpoint is damaged.
        ValueError: its ``config.json`` or ``results.json`` is damaged.
    """
    folder = Path(folder)
    if not folder.exists():
        raise ConfigError(
            f"there is no run in {folder}, which does not exist; {_known(str(folder))}"
        )
    recipe = read_recipe(folder)
    if not has_checkpoint(folder):
        raise ConfigError(
            f"{folder} has no checkpoint and thus no weights: name the folder of a run that has "
            f"one, or weights that come with the package ({', '.join(pretrained_names())})"
        )
    model, guide = recipe.build()
    checkpoint = read_checkpoint(folder / "checkpoint")
    load_averaged_weights(checkpoint, {"model": model, "guide": guide})
    scored = folder / "results.json"
    results = read_results(scored) if scored.exists() else None
    if results and results["train_images_seen"] != checkpoint.state["images_seen"]:
        results = None  # of earlier weights: training went on but was not followed by scoring
    model.card = {"config": recipe.to_config(), "results": results}  # type: ignore[assignment]
    return model.eval(), guide.eval()


def pretrained_names() -> list[str]:
    """The names that `load_pretrained` accepts."""
    names = (Path(entry.name) for entry in (files("pyro_vlae.models") / "weights").iterdir())
    return sorted(name.stem for name in names if name.suffix == ".safetensors")


def _known(name: str) -> str:
    names = pretrained_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"weights that come with the package: {', '.join(names)}{hint}"


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
