"""Recipes: everything that decides a run, one frozen dataclass per family of models."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pyro.infer import ELBO
from torch import nn

from pyro_vlae.data import ImageDataset, Values, dataset_names, load_dataset
from pyro_vlae.infer import JointOptim
from pyro_vlae.training import DecaySchedule, TrainingSettings

BUDGET = ("epochs", "max_minutes", "max_steps")
# What may change when a run is resumed: none of it contradicts what was trained so far.
CHANGEABLE = ("epochs", "max_minutes", "num_samples", "eval_images")

RECIPES: dict[str, type["Recipe"]] = {}
"""The recipe class of each family, by its name."""


class ConfigError(ValueError):
    """Options that contradict each other, or the run that is to be resumed."""


def option(default: Any, text: str | None = None, **metadata: Any) -> Any:
    """A field of a recipe that command lines offer as an option.

    Args:
        default: its value in the ``quick`` preset.
        text: help for the option; without it the field is checked but not offered.
        **metadata: ``choices`` and ``metavar``, as `argparse` takes them.
    """
    return field(default=default, metadata={"help": text, **metadata})


@dataclass(frozen=True)
class Recipe(ABC):
    """What decides a run, as stored in ``config.json``; a subclass for each family adds its model.

    A subclass sets the class attributes, gives ``dataset`` a default and is registered by
    `register`.

    Args:
        dataset: name of the data set.
        preset: name of the preset that filled in what was not given.
        train_on: ``"train"`` (validated on the validation set) or ``"train+validation"``.
        epochs: budget in passes over the training images, or None.
        max_minutes: budget in minutes of training, or None.
        max_steps: budget in optimizer steps, or None.
        batch_size: images per optimizer step.
        learning_rate: peak learning rate of Adamax.
        decay_start: fraction of the budget after which the learning rate decays.
        ema_decay: decay of the Polyak average.
        clip_norm: largest gradient norm per image of a batch (the loss is a sum over images).
        seed: of everything random.
        num_samples: importance samples per test image.
        eval_images: test images to score, in a fixed random order; None for all.
        precision: ``"bf16"``, ``"fp32"``, or ``"auto"`` for what suits the device.
        compile: whether the networks are compiled by `torch.compile`.

    Attributes:
        family: name in `RECIPES` and in ``config.json``.
        values: what the models take; the family applies to all data sets of these values.
        presets: fields that differ from the defaults, by preset.
        dataset_defaults: fields that differ from the preset's, by data set.
        fallback: data set to use when the default one is not found.

    Raises:
        ConfigError: a value that is not among the choices of its field.
    """

    family: ClassVar[str]
    values: ClassVar[Values]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}}
    dataset_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    fallback: ClassVar[str | None] = None

    dataset: str = ""
    preset: str = option("quick", "fills in what is not given")
    train_on: str = option("train", choices=("train", "train+validation"))
    # Batch size, number of epochs and schedule are not in the paper: chosen here.
    epochs: int | None = option(None, "training budget: passes over the data", metavar="N")
    max_minutes: float | None = option(5.0, "training budget in minutes", metavar="M")
    max_steps: int | None = None
    batch_size: int = option(64, "images per optimizer step", metavar="N")
    learning_rate: float = option(0.008, "peak learning rate of Adamax", metavar="LR")
    decay_start: float = 0.5
    ema_decay: float = 0.998
    clip_norm: float = 1000.0
    seed: int = option(0, "of everything random", metavar="N")
    num_samples: int = option(64, "importance samples per test image", metavar="K")
    eval_images: int | None = option(500, "test images to score, shuffled", metavar="N")
    precision: str = option("auto", "of the networks in training", choices=("auto", "bf16", "fp32"))
    compile: bool = option(False, "compile the networks by torch.compile")

    def __post_init__(self) -> None:
        for name, metadata in self.options().items():
            allowed = metadata.get("choices")
            if allowed and getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )

    @classmethod
    def options(cls) -> dict[str, dict[str, Any]]:
        """What `option` says about each field; a subclass may change a default alone."""
        known = {f.name: dict(f.metadata) for f in (*fields(Recipe), *fields(cls)) if f.metadata}
        known.setdefault("dataset", {})["choices"] = dataset_names(cls.values)
        known["preset"]["choices"] = tuple(cls.presets)
        return known

    @abstractmethod
    def build(self) -> tuple[nn.Module, nn.Module]:
        """The model and its guide, not yet trained, on the CPU."""

    @abstractmethod
    def objective(self, dimensions: int) -> ELBO:
        """The ELBO to maximize, for images of so many data dimensions."""

    @abstractmethod
    def describe_parts(self) -> str:
        """The model and guide, in words."""

    @property
    def has_code(self) -> bool:
        """Whether the model has a code, so that images can be reconstructed."""
        return True

    def load_data(self, root: Path | None, device: torch.device) -> ImageDataset:
        """The data set, on a device.

        Args:
            root: folder to look in first.
            device: where the images are kept.
        """
        return load_dataset(self.dataset, root, device)

    def describe(self) -> str:
        """What was chosen, in a few lines."""
        budget = [f"{self.epochs} epochs"] if self.epochs else []
        budget += [f"{self.max_minutes:g} minutes"] if self.max_minutes else []
        budget += [f"{self.max_steps:,} steps"] if self.max_steps else []
        images = f"up to {self.eval_images} test images" if self.eval_images else "all test images"
        return (
            f"preset {self.preset}: {self.describe_parts()}, seed {self.seed}\n"
            f"training on {self.train_on} for {' or '.join(budget)}, batches of "
            f"{self.batch_size}, Adamax {self.learning_rate:g}, Polyak average {self.ema_decay:g}\n"
            f"scoring {images} with {self.num_samples} importance samples each"
        )

    def optimizer(self) -> JointOptim:
        """Adamax with clipped gradients and a Polyak average."""
        return JointOptim(
            torch.optim.Adamax,
            {"lr": self.learning_rate},
            clip_norm=self.clip_norm * self.batch_size,
            ema_decay=self.ema_decay,
        )

    def training_settings(self) -> TrainingSettings:
        """Budget, batches and intervals of the training loop."""
        return TrainingSettings(
            batch_size=self.batch_size,
            epochs=self.epochs,
            max_steps=self.max_steps,
            max_minutes=self.max_minutes,
            seed=self.seed,
            schedule=DecaySchedule(start=self.decay_start),
            checkpoint_minutes=1.0,
            log_every=20 if self.preset == "quick" else 100,
            validate_every=500,
        )

    def to_config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {"family": self.family, **asdict(self)}

    @classmethod
    def from_options(cls, **given: Any) -> Self:
        """The given preset with the other options in place of its own; None means not given.

        A given budget replaces the preset's budget.
        """
        given = {name: value for name, value in given.items() if value is not None}
        chosen = dict(cls.presets.get(given.get("preset", "quick"), {}))
        chosen |= cls.dataset_defaults.get(given.get("dataset", cls.dataset), {})
        if given.keys() & set(BUDGET):
            chosen |= dict.fromkeys(BUDGET)
        return cls(**{**chosen, **given})

    @classmethod
    def resume(cls, folder: Path, **given: Any) -> Self:
        """The recipe of the run in a folder, with a new budget or evaluation if given.

        Raises:
            ConfigError: there is no run of this family in the folder, or a given option
                contradicts it.
        """
        stored = read_recipe(folder)
        if not isinstance(stored, cls):
            raise ConfigError(
                f"the run in {folder} is of the family {stored.family!r}, not {cls.family!r}: "
                "resume it with the script that made it"
            )
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if name not in CHANGEABLE and value != getattr(stored, name):
                offered = cls.options().get(name, {}).get("help")
                shown = "--" + name.replace("_", "-") if offered else name
                raise ConfigError(
                    f"the run in {folder} was made with {shown} {getattr(stored, name)}, got "
                    f"{value}: leave the option out to resume it, or choose another --out for a "
                    "new run"
                )
        new_budget = dict.fromkeys(BUDGET) if given.keys() & set(BUDGET) else {}
        return cls(**{**asdict(stored), **new_budget, **given})


def register(recipe: type[Recipe]) -> type[Recipe]:
    """Enter a recipe class into `RECIPES`; a class decorator."""
    RECIPES[recipe.family] = recipe
    return recipe


def recipe_from_config(config: Mapping[str, Any], source: str | Path) -> Recipe:
    """The recipe that a configuration describes.

    Args:
        config: the content of a ``config.json``.
        source: where it comes from, for messages.

    Raises:
        ConfigError: it is not of a registered family, or not of this version.
    """
    if "family" not in config:
        raise ConfigError(
            f"the run in {source} was made by an older version (its configuration names no "
            "family): use the version that made it"
        )
    family, values = config["family"], {k: v for k, v in config.items() if k != "family"}
    if family not in RECIPES:
        raise ConfigError(
            f"the run in {source} is of the family {family!r}, registered are "
            f"{', '.join(RECIPES)}: import the module that defines its recipe first"
        )
    try:
        return RECIPES[family](**values)
    except TypeError as error:
        raise ConfigError(
            f"the configuration in {source} is not one of this version's ({error}): use the "
            "version that made it"
        ) from error


def read_recipe(folder: Path) -> Recipe:
    """The recipe of the run in a folder.

    Raises:
        ConfigError: there is no run, or one that `recipe_from_config` refuses.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        config["dataset"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"there is no run in {folder}: {path.name} is missing or unreadable ({error}); name "
            "the folder of a run, or start one without --resume"
        ) from error
    return recipe_from_config(config, folder)
