"""Recipes: all settings of a run, one frozen dataclass per family of models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vlae.data import ImageDataset, dataset_names, load_dataset
from pyro_vlae.experiments.options import DATA, ConfigError, given_options, option
from pyro_vlae.experiments.samples import SampleHooks
from pyro_vlae.experiments.stored import check_types, field_types
from pyro_vlae.infer import JointOptim, MarginalLikelihood, marginal_log_likelihood
from pyro_vlae.reproducible import read_json
from pyro_vlae.training import DecaySchedule, TrainingSettings
from pyro_vlae.training.distributed import one_rank_first

# Fields that may change when a run is resumed: they do not affect the training so far.
CHANGEABLE = ("epochs", "max_minutes", "num_samples", "eval_images", "compile")
MOST_SAMPLES = 1_000_000  # the codes of one image must fit into memory
_OLD = "another version of pyro_vlae wrote it; use that version"

RECIPES: dict[str, type["Recipe"]] = {}
"""The recipe class of each family, by its name."""


@dataclass(frozen=True)
class Recipe(SampleHooks, ABC):
    """All settings of a run, as stored in ``config.json``; each family adds those of its model.

    A subclass sets the class attributes, gives ``dataset`` a default, and is decorated: `register`.

    Args:
        dataset: name of the data set.
        preset: name of the preset that set the defaults of the fields.
        train_on: ``"train"`` (validated on the validation set) or ``"train+validation"``.
        start_from: run folder or name of shipped weights to fine-tune; they must fit the model.
        epochs: training budget in passes over the training images, or None.
        max_minutes: training budget in minutes, or None.
        max_steps: training budget in optimizer steps, or None.
        batch_size: images per optimizer step.
        learning_rate: peak learning rate of Adamax.
        decay_start: fraction of the budget after which the learning rate decays, in [0, 1].
        ema_decay: decay of the Polyak average.
        clip_norm: limit of the gradient norm, per image in the batch (the loss is a sum).
        seed: seed of training and samples.
        num_samples: importance samples per test image.
        eval_images: how many test images to score, in a fixed random order; None for all.
        precision: ``"bf16"``, ``"fp32"``, or ``"auto"`` to choose by device.
        compile: whether to compile the networks with `torch.compile`.

    Attributes:
        family: name in `RECIPES` and in ``config.json``.
        values: pixel values that the models expect; the family covers all data sets with these.
        presets: fields that differ from the defaults, by preset.
        dataset_defaults: fields that differ from the preset's, by data set.
        fallback: data set to use when the default one is not found.

    Raises:
        ConfigError: a value is not among the choices of its field, or not finite.
    """

    family: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}}
    dataset_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    fallback: ClassVar[str | None] = None

    dataset: str = ""
    preset: str = option("quick", "sets the other options' defaults")
    train_on: str = option("train", "splits to train on", choices=("train", "train+validation"))
    start_from: str | None = option(
        None, "weights to fine-tune: a run's folder, or a name of shipped weights", metavar="RUN"
    )
    # The paper does not state the batch size, the number of epochs, or the schedule.
    epochs: int | None = option(None, "training budget in epochs", metavar="N")
    max_minutes: float | None = option(5.0, "training budget in minutes", metavar="M")
    max_steps: int | None = None
    batch_size: int = option(64, "images per optimizer step", metavar="N")
    learning_rate: float = option(0.008, "peak learning rate of Adamax", metavar="LR")
    decay_start: float = option(0.5, "budget fraction before LR decay", metavar="F", or_zero=True)
    ema_decay: float = option(0.998, "decay of the Polyak average", metavar="D", or_zero=True)
    clip_norm: float = 1000.0
    seed: int = option(0, "seed of training and samples", metavar="N")
    num_samples: int = option(64, "importance samples per test image", metavar="K")
    eval_images: int | None = option(500, "number of test images to score", metavar="N")
    precision: str = option("auto", "precision of the networks", choices=("auto", "bf16", "fp32"))
    compile: bool = option(False, "compile the networks with torch.compile")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            count = name in ("num_samples", "eval_images") and value is not None
            if count and not (type(value) is int and 1 <= value <= MOST_SAMPLES):
                raise ConfigError(f"{name} must be 1 to {MOST_SAMPLES}, got {value!r}")
            if isinstance(value, float) and not isfinite(value):
                raise ConfigError(f"{name} must be a finite number, got {value}")
        if not self.clip_norm > 0:  # here: the optimizer knows its product with the batch size
            raise ConfigError(f"clip_norm must be positive, got {self.clip_norm}")
        for name, metadata in self.options().items():
            value, allowed = getattr(self, name), metadata.get("choices")
            if allowed and value not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")

    @classmethod
    def options(cls) -> dict[str, dict[str, Any]]:
        """Help, choices, and metavar by field; fields that a subclass redefines keep the base's."""
        known = {f.name: dict(f.metadata) for f in (*fields(Recipe), *fields(cls)) if f.metadata}
        known.setdefault("dataset", {})["choices"] = dataset_names(cls.values)
        known["preset"]["choices"] = tuple(cls.presets)
        return known

    @abstractmethod
    def build(self) -> tuple[nn.Module, nn.Module]:
        """A new model and its guide, on the CPU."""

    @abstractmethod
    def objective(self, dimensions: int) -> ELBO:
        """The ELBO to maximize, for images with this many dimensions."""

    @abstractmethod
    def describe_parts(self) -> str:
        """The model and guide, in words."""

    def describe_objective(self) -> str:
        """What training maximizes, in words."""
        return "ELBO"

    @property
    def dataset_name(self) -> str:
        """The name of the data set, even if ``dataset`` is a path."""
        return Path(self.dataset).name.removesuffix(".npz")

    def score(
        self, model: nn.Module, guide: nn.Module, split: Any, index: Tensor, seed: int, file: Path
    ) -> tuple[MarginalLikelihood, dict[str, Any]]:
        """Score the test images at ``index``; ``file`` may keep what is needed to go on later.

        Returns:
            The estimates per image, and further entries of ``results.json``.
        """
        options: Any = dict(seed=seed, image_index=index, progress=True, resume_file=file)
        x = split.batch(index)
        return marginal_log_likelihood(model, guide, x, self.num_samples, **options), {}

    def pictured(self, split: Any, index: Tensor) -> Tensor:
        """The test images to show beside their decompressions."""
        return split.batch(index[:32])

    def load_data(self, root: Path | None, device: torch.device) -> ImageDataset:
        """The data set, on a device; `root` is the folder to look in first."""
        with one_rank_first():
            return load_dataset(self.dataset, root, device)

    def augmented(self, data: ImageDataset) -> ImageDataset:
        """The data with the augmentation of training images that the recipe asks for."""
        return data

    def for_data(self, data: ImageDataset) -> Self:
        """This recipe for data of another shape, if the family has models for it."""
        return self

    def check(self, data: ImageDataset) -> None:
        """Raise a `ConfigError` unless models of this recipe take these data."""
        if data.values != self.values:
            raise ConfigError(
                f"{data.name} has {data.values.name} values, models of the family {self.family!r} "
                f"take {self.values.name} ones: choose another data set or family"
            )

    def describe(self) -> str:
        """A summary in three lines."""
        budget = [f"{self.epochs} epochs"] if self.epochs else []
        budget += [f"{self.max_minutes:g} minutes"] if self.max_minutes else []
        budget += [f"{self.max_steps:,} steps"] if self.max_steps else []
        source = f" from {self.start_from}" if self.start_from else ""
        count = f"up to {self.eval_images}" if self.eval_images else "all"
        return (
            f"preset {self.preset}: {self.describe_parts()}, seed {self.seed}\n"
            f"training{source} on {self.train_on} for {' or '.join(budget)}, batches of "
            f"{self.batch_size}, Adamax {self.learning_rate:g}, Polyak average {self.ema_decay:g}, "
            f"{self.describe_objective()}\n"
            f"scoring {count} test {self.values.item}s, {self.num_samples} importance samples each"
        )

    def optimizer(self, **options: Any) -> JointOptim:
        """Adamax with clipped gradients and a Polyak average; options are for `JointOptim`."""
        return JointOptim(
            torch.optim.Adamax,
            {"lr": self.learning_rate},
            clip_norm=self.clip_norm * self.batch_size,
            ema_decay=self.ema_decay,
            **options,
        )

    def training_settings(self) -> TrainingSettings:
        """Budget, batches, and intervals of the training loop."""
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
        """Make a recipe from a preset and the given options (None: not given)."""
        given = given_options(given)
        preset = cls.presets.get(given.get("preset", "quick"), {})
        defaults = cls.dataset_defaults.get(given.get("dataset", cls.dataset), {})
        return cls(**{**preset, **defaults, **given})

    @classmethod
    def resume(cls, folder: Path, **given: Any) -> Self:
        """The recipe of the run in a folder; the options in `CHANGEABLE` may have new values.

        Raises:
            ConfigError: the folder has no run of this family, or an option contradicts it.
        """
        stored = read_recipe(folder)
        if type(stored) is not cls:
            raise ConfigError(
                f"the run in {folder} is of the family {stored.family!r}, not {cls.family!r}: "
                f"resume it with pyro-vlae train {stored.family}, or the script that made it"
            )
        # Precision "auto" is the run's own.
        given = {k: v for k, v in given_options(given).items() if (k, v) != ("precision", "auto")}
        for name, value in given.items():
            made_with = getattr(stored, name)
            if name not in CHANGEABLE and value not in (None, made_with):
                offered = cls.options().get(name, {}).get("help")
                shown = "--" + name.replace("_", "-") if offered else name
                raise ConfigError(
                    f"the run in {folder} was made with {shown} {made_with}, got {value}: leave "
                    "the option out to resume it, or choose another folder for a new run"
                )
        return cls(**{**asdict(stored), **given})


def register(recipe: type[Recipe]) -> type[Recipe]:
    """Class decorator that adds a recipe to `RECIPES`."""
    RECIPES[recipe.family] = recipe
    return recipe


def recipe_from_config(config: Mapping[str, Any], source: str | Path) -> Recipe:
    """The recipe that a configuration describes.

    Args:
        config: the content of a ``config.json``.
        source: its origin, for error messages.

    Raises:
        ConfigError: the configuration is of an unregistered family or of another version.
        ValueError: a value is of the wrong type.
    """
    values = {name: value for name, value in config.items() if name != DATA}
    family = values.pop("family", None)
    if family is None:
        raise ConfigError(f"the configuration in {source} has no family: {_OLD}")
    if family not in RECIPES:
        raise ConfigError(
            f"the run in {source} is of the family {family!r}, but only these are registered: "
            f"{', '.join(RECIPES)}; import the module that defines its recipe first"
        )
    check_types(values, field_types(RECIPES[family]), source)
    try:
        return RECIPES[family](**values)
    except TypeError as error:
        raise ConfigError(f"the configuration in {source} does not fit ({error}): {_OLD}") from None


def read_recipe(folder: Path) -> Recipe:
    """The recipe of the run in a folder.

    Raises:
        ConfigError: the folder contains no run, or as for `recipe_from_config`.
    """
    path = folder / "config.json"
    try:
        config = read_json(path)
        config["dataset"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"there is no run in {folder}: {path.name} is missing or unreadable ({error}); name "
            "the folder of a run"
        ) from error
    return recipe_from_config(config, path)
