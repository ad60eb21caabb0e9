"""Settings, results, and errors of a training run."""

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

# Smallest allowed values of numeric settings.
_LEAST = dict.fromkeys(
    ("epochs", "max_steps", "validate_every", "batch_size", "log_every", "validation_images"), 1
) | dict.fromkeys(("seed", "checkpoint_minutes", "max_minutes"), 0)


class TrainingDivergedError(RuntimeError):
    """A loss, gradient norm, or weight became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on a signal, after saving a checkpoint.

    Attributes:
        signal: the signal.
        checkpoint: folder of the checkpoint, None if no output folder was given.
        exit_code: recommended exit code of a script, 130 for Ctrl-C and 143 for SIGTERM.
    """

    def __init__(self, number: signal.Signals, step: int, checkpoint: Path | None) -> None:
        saved = f"saved in {checkpoint}" if checkpoint else "nothing was saved (no output folder)"
        super().__init__(f"training stopped by {number.name} after step {step}: {saved}")
        self.signal = number
        self.checkpoint = checkpoint
        self.exit_code = 128 + number


@dataclass(frozen=True)
class DecaySchedule:
    """A constant learning rate, followed by a cosine decay to a small fraction of it.

    Args:
        start: training progress at which the decay begins, in [0, 1]; 1 means never.
        floor: factor at the end, in [0, 1].

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> DecaySchedule(start=0.5)(0.25)
        1.0
        >>> DecaySchedule(start=0.5, floor=0.01)(1.0)
        0.01
    """

    start: float = 0.5
    floor: float = 0.01

    def __post_init__(self) -> None:
        for name in ("start", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"decay {name} must lie in [0, 1], got {getattr(self, name)}")

    def __call__(self, progress: float) -> float:
        """Return the factor on the learning rate at this training progress, in [0, 1]."""
        if progress <= self.start or self.start == 1:
            return 1.0
        fraction = min(1.0, (progress - self.start) / (1 - self.start))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * fraction)) / 2


@dataclass(frozen=True)
class TrainingSettings:
    """Budget, batch size, seed, and intervals of a run. The first budget to run out ends it.

    Args:
        batch_size: images per step; the last, incomplete batch of an epoch is dropped, unless
            the set is smaller than one batch.
        epochs: budget in passes over the images.
        max_steps: budget in steps.
        max_minutes: budget in minutes, including the time before a resumption.
        seed: determines noise, batch order, and the binarization of images.
        schedule: factor on the optimizer's learning rate as a function of training progress, the
            used fraction of the budget.
        checkpoint_minutes: time between checkpoints.
        log_every: steps between logged lines.
        validate_every: steps between validations; None for one after each epoch. The last step is
            always followed by one.
        validation_images: maximum number of validation images.

    Raises:
        ValueError: there is no budget, or a number is out of range or of the wrong type.
    """

    batch_size: int = 64
    epochs: int | None = None
    max_steps: int | None = None
    max_minutes: float | None = None
    seed: int = 0
    schedule: Callable[[float], float] = field(default_factory=DecaySchedule)
    checkpoint_minutes: float = 5.0
    log_every: int = 50
    validate_every: int | None = None
    validation_images: int = 1000

    def __post_init__(self) -> None:
        if self.epochs is None and self.max_steps is None and self.max_minutes is None:
            raise ValueError("give a budget: epochs, max_steps, or max_minutes")
        optional = ("epochs", "max_steps", "max_minutes", "validate_every")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            kind: Any = Real if name.endswith("minutes") else Integral
            if not isinstance(value, kind) or isinstance(value, bool) or not value >= least:
                what = "a number" if kind is Real else "a whole number"
                raise ValueError(f"{name} must be {what} of at least {least}, got {value!r}")
        if self.max_minutes == 0:
            raise ValueError("max_minutes must be positive, got 0")

    def steps(self, per_epoch: int) -> int | None:
        """The budget in steps, given the steps per epoch; None if there is none but time."""
        limits = (self.max_steps, per_epoch * (self.epochs or 0))
        return min((limit for limit in limits if limit), default=None)

    def progress(self, step: int, seconds: float, per_epoch: int) -> float:
        """The fraction of the budget used by these steps and seconds; 1 or more ends the run."""
        steps, minutes = self.steps(per_epoch) or math.inf, self.max_minutes or math.inf
        return max(step / steps, seconds / (60 * minutes))


@dataclass(frozen=True)
class TrainingResult:
    """The state of a finished run.

    Args:
        step: optimizer steps taken.
        epoch: number of the last epoch, from 1; it may be incomplete.
        images_seen: images trained on, counting repetitions.
        seconds: training time, including the time before resumptions.
        history: all logged lines, as in ``metrics.jsonl``.
        checkpoint: folder of the checkpoint, if there is one.
        precision: precision of the networks, ``"bf16"`` or ``"fp32"``.
    """

    step: int
    epoch: int
    images_seen: int
    seconds: float
    history: list[dict[str, Any]]
    checkpoint: Path | None
    precision: str
