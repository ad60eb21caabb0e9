"""Models by configuration, and trained ones by name."""

import copy
import json
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from pyro_vlae.experiments.color_config import ColorConfig
from pyro_vlae.experiments.config import ConfigError, RunConfig, TrainingConfig
from pyro_vlae.guides import GaussianGuide, IAFGuide, color_guide
from pyro_vlae.infer import JointOptim
from pyro_vlae.models.binary import binary_vlae, unconditional_pixelcnn
from pyro_vlae.models.color import color_vlae
from pyro_vlae.training import load_weights
from pyro_vlae.training.checkpoint import has_checkpoint, load_checkpoint, read_state

GUIDES = {"gaussian": GaussianGuide, "iaf": IAFGuide}


class NoCode(nn.Module):
    """The guide of a model without a code: it has nothing to sample."""

    def forward(self, x: torch.Tensor) -> None:
        """Do nothing."""


def build_from_config(config: TrainingConfig) -> tuple[nn.Module, nn.Module]:
    """Model and guide for a run's configuration, not yet trained.

    Raises:
        ValueError: a choice that does not exist.
    """
    if isinstance(config, ColorConfig):
        architecture = config.architecture()
        model = color_vlae(
            architecture,
            config.window,
            prior=config.prior,
            flow_channels=(config.flow_maps, config.flow_maps),
            pixelcnn_channels=config.filters,
        )
        return model, color_guide(architecture)
    if not isinstance(config, RunConfig):
        raise ValueError(f"there is no model for a {type(config).__name__}")
    network: dict[str, Any] = {
        "tied": config.tied,
        "masked_layers": config.masked_layers,
        "window": config.window,
        "pixelcnn_channels": config.filters,
    }
    if config.model == "unconditional":
        return unconditional_pixelcnn(**network), NoCode()
    if config.guide not in GUIDES:
        raise ValueError(f"guide must be one of {', '.join(GUIDES)}, got {config.guide!r}")
    model = binary_vlae(prior=config.prior, likelihood=config.likelihood, **network)
    return model, GUIDES[config.guide]()


def load_run(folder: str | Path) -> tuple[nn.Module, nn.Module]:
    """The model and guide of a run, with its averaged weights, in evaluation mode, on the CPU.

    ``model.card`` is a dict with the run's configuration and, if these weights were scored, its
    results, else None.

    Args:
        folder: what the run was told by ``--out``.

    Raises:
        ConfigError: there is no run in the folder.
        CheckpointError: its checkpoint is missing or damaged.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"there is no run in {folder}: {error}") from error
    try:
        config = _kind(stored)(**stored)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the configuration in {folder} is not one of this version's ({error}): load the run "
            "with the version that made it"
        ) from error
    if not has_checkpoint(folder):
        raise ConfigError(
            f"{folder} holds no checkpoint, hence no weights: name the folder of a run that was "
            f"made here, or weights that come with the package ({', '.join(pretrained_names())})"
        )
    model, guide = build_from_config(config)
    optimizer = JointOptim(
        torch.optim.Adamax, {"lr": config.learning_rate}, ema_decay=config.ema_decay
    )
    modules = {"model": model, "guide": guide}
    load_checkpoint(folder / "checkpoint", modules, optimizer)
    with optimizer.averaged():
        averages = {name: copy.deepcopy(m.state_dict()) for name, m in modules.items()}
    for name, module in modules.items():
        module.load_state_dict(averages[name])
    scored = folder / "results.json"
    results = json.loads(scored.read_text()) if scored.exists() else None
    if results and results["train_images_seen"] != read_state(folder / "checkpoint")["images_seen"]:
        results = None  # of earlier weights: training went on and was interrupted before scoring
    model.card = {"config": asdict(config), "results": results}  # type: ignore[assignment]
    return model.eval(), guide.eval()


def _kind(stored: dict[str, Any]) -> type[TrainingConfig]:
    """What kind of configuration was stored."""
    return ColorConfig if stored.get("dataset") == "cifar10" else RunConfig


def pretrained_names() -> list[str]:
    """The names that `load_pretrained` takes."""
    folder = files("pyro_vlae.models") / "weights"
    names = [path.name for path in folder.iterdir()]
    return sorted(n.removesuffix(".safetensors") for n in names if n.endswith(".safetensors"))


def load_pretrained(name: str) -> tuple[nn.Module, nn.Module]:
    """A trained model and its guide, in evaluation mode, on the CPU.

    How far it was trained, and what it scores, stands in the model card beside the weights and in
    ``model.card`` (a dict: the run's configuration and results).

    Args:
        name: one of `pretrained_names`, e.g. ``"static-mnist"``.

    Raises:
        ValueError: no weights of this name.
        CheckpointError: the weights file is damaged.

    Example:
        >>> model, guide = load_pretrained("static-mnist")
        >>> images = model(batch_size=64)
    """
    names = pretrained_names()
    if name not in names:
        raise ValueError(f"there are no weights called {name!r}; there are {', '.join(names)}")
    with as_file(files("pyro_vlae.models") / "weights" / f"{name}.safetensors") as path:
        with safe_open(path, "pt") as file:
            card = json.loads(file.metadata()["card"])
        model, guide = build_from_config(_kind(card["config"])(**card["config"]))
        load_weights(path, {"model": model, "guide": guide})
    model.card = card
    return model.eval(), guide.eval()
