"""What decides a run: presets, the options given, and what a resumed run may change."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pyro.infer import ELBO, Trace_ELBO

from pyro_vlae.infer import FreeBitsELBO
from pyro_vlae.training import DecaySchedule, TrainingSettings

# Free bits of the paper's binary models: nats per data dimension.
FREE_NATS_PER_DIMENSION = 0.01
Config = TypeVar("Config", bound="TrainingConfig")


class ConfigError(ValueError):
    """Options that contradict each other, or the run that is to be resumed."""


@dataclass(frozen=True)
class TrainingConfig:
    """What decides a run whatever the model is.

    Args:
        dataset: name for `pyro_vlae.data.load_dataset`.
        preset: ``"quick"`` or ``"paper"``; it only fills in what was not given.
        train_on: ``"train"`` (validated on the validation set) or ``"train+validation"``.
        epochs: budget in passes over the training images, or None.
        max_minutes: budget in minutes of training, or None.
        batch_size: images per step.
        learning_rate: peak learning rate of Adamax.
        decay_start: share of the budget after which the learning rate decays.
        ema_decay: decay of the Polyak average.
        clip_norm: largest gradient norm per image of a batch (the loss is a sum over images).
        seed: of everything random.
        num_samples: importance samples per image.
        eval_images: test images to score, in a shuffled order; None for all.
    """

    dataset: str = "static-mnist"
    preset: str = "quick"
    train_on: str = "train"
    # Batch size, number of epochs and schedule are not in the paper: chosen here.
    epochs: int | None = None
    max_minutes: float | None = 5.0
    batch_size: int = 64
    learning_rate: float = 0.008
    decay_start: float = 0.5
    ema_decay: float = 0.998
    clip_norm: float = 1000.0
    seed: int = 0
    num_samples: int = 64
    eval_images: int | None = 500

    @property
    def has_code(self) -> bool:
        """Whether the model has a code, so that images can be decompressed."""
        return True

    def elbo(self, dimensions: int) -> ELBO:
        """The objective, for images of so many data dimensions."""
        raise NotImplementedError

    def describe_parts(self) -> str:
        """The model and guide, in words."""
        raise NotImplementedError

    def describe(self) -> str:
        """What was chosen, in a few lines."""
        budget = [f"{self.epochs} epochs"] if self.epochs else []
        budget += [f"{self.max_minutes:g} minutes"] if self.max_minutes else []
        images = f"up to {self.eval_images} test images" if self.eval_images else "all test images"
        return (
            f"preset {self.preset}: {self.describe_parts()}, seed {self.seed}\n"
            f"training on {self.train_on} for {' or '.join(budget)}, batches of "
            f"{self.batch_size}, Adamax {self.learning_rate:g}, Polyak average {self.ema_decay:g}\n"
            f"scoring {images} with {self.num_samples} importance samples each"
        )

    def training_settings(self) -> TrainingSettings:
        """What of this concerns the training loop."""
        return TrainingSettings(
            batch_size=self.batch_size,
            epochs=self.epochs,
            max_minutes=self.max_minutes,
            seed=self.seed,
            schedule=DecaySchedule(start=self.decay_start),
            checkpoint_minutes=1.0,
            log_every=20 if self.preset == "quick" else 100,
            validate_every=500,
        )


@dataclass(frozen=True)
class RunConfig(TrainingConfig):
    """Everything that decides a run on binary images, as stored in ``config.json``.

    Args:
        model: ``"vlae"``, or ``"unconditional"`` for the PixelCNN alone.
        prior: ``"flow"`` or ``"normal"``.
        guide: ``"gaussian"`` or ``"iaf"``.
        likelihood: ``"pixelcnn"`` or ``"bernoulli"``.
        tied: the PixelCNN's masked convolutions share their weights.
        masked_layers: masked convolutions of the PixelCNN.
        window: ``"AxB"`` for a two-stack PixelCNN with that window, or None.
        filters: maps of the PixelCNN's hidden layers.
    """

    model: str = "vlae"
    prior: str = "flow"
    guide: str = "gaussian"
    likelihood: str = "pixelcnn"
    tied: bool = True
    masked_layers: int = 6
    window: str | None = None
    filters: int = 12

    @property
    def has_code(self) -> bool:
        """Whether the model has a code, so that images can be decompressed."""
        return self.model == "vlae"

    def elbo(self, dimensions: int) -> ELBO:
        """The objective, for images of so many data dimensions: free bits where there is a code."""
        return FreeBitsELBO(FREE_NATS_PER_DIMENSION * dimensions) if self.has_code else Trace_ELBO()

    def describe_parts(self) -> str:
        """The model and guide, in words."""
        parts = "unconditional PixelCNN"
        if self.has_code:
            parts = f"{self.prior} prior, {self.guide} guide, {self.likelihood} likelihood"
        if self.window or self.tied:
            parts += f" (window {self.window})" if self.window else " (tied)"
        return parts


PRESETS = {
    "quick": RunConfig(),
    "paper": RunConfig(
        preset="paper",
        train_on="train+validation",
        epochs=500,
        max_minutes=None,
        batch_size=128,
        learning_rate=0.002,
        num_samples=4096,
        eval_images=None,
    ),
}
# The paper ties the masked convolutions against overfitting on static MNIST and unties them for
# the other sets; `digits` is smaller still.
TIED_DATASETS = ("static-mnist", "digits")
# What may change when a run is resumed: none of it contradicts what was trained so far.
CHANGEABLE = ("epochs", "max_minutes", "num_samples", "eval_images")


def make_config(
    given: dict[str, Any],
    presets: Mapping[str, Config] = PRESETS,  # type: ignore[assignment]
) -> Config:
    """The given preset with the other options in place of its own; None means not given.

    A given budget replaces the preset's budget.
    """
    config = presets[given["preset"]]
    given = {name: value for name, value in given.items() if value is not None}
    if "epochs" in given or "max_minutes" in given:
        config = replace(config, epochs=None, max_minutes=None)
    config = replace(config, **given)
    if isinstance(config, RunConfig) and "tied" not in given:
        config = replace(config, tied=config.dataset in TIED_DATASETS)
    return config


def read_config(
    out: Path,
    given: dict[str, Any],
    kind: type[Config] = RunConfig,  # type: ignore[assignment]
) -> Config:
    """The configuration of the run in `out`, with a new budget or evaluation if given.

    Args:
        out: folder of the run.
        given: options; None means not given.
        kind: of the configuration.

    Raises:
        ConfigError: there is no run in `out`, or a given option contradicts it.
    """
    path = out / "config.json"
    try:
        stored = json.loads(path.read_text())
        stored = asdict(kind(**stored))
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, TypeError) and isinstance(stored, dict) and "dataset" in stored:
            raise ConfigError(
                f"the run in {out} was made by another script or version (its data set is "
                f"{stored['dataset']}): resume it with the one that made it"
            ) from error
        raise ConfigError(
            f"no run to resume in {out}: {path.name} is missing or unreadable ({error}); "
            "start one without --resume"
        ) from error
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in CHANGEABLE and stored[name] != value:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"the run in {out} was made with {option} {stored[name]}, got {value}: leave the "
                "option out to resume it, or choose another --out for a new run"
            )
    if "epochs" in given or "max_minutes" in given:
        stored |= {"epochs": None, "max_minutes": None}
    return kind(**(stored | given))
