"""What a training run is told, what it returns, and how it can fail."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_vlae.training.schedules import DecaySchedule


class TrainingDivergedError(RuntimeError):
    """A loss, gradient norm or weight became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on a signal, after saving a checkpoint.

    Attributes:
        signal: the signal that came in.
        checkpoint: folder of the checkpoint, ``None`` if no output folder was given.
        exit_code: what a script should exit with, 130 for Ctrl-C and 143 for SIGTERM.
    """

    def __init__(self, number: signal.Signals, step: int, checkpoint: Path | None) -> None:
        saved = f"saved in {checkpoint}" if checkpoint else "nothing was saved (no output folder)"
        super().__init__(f"training stopped by {number.name} after step {step}: {saved}")
        self.signal = number
        self.checkpoint = checkpoint
        self.exit_code = 128 + number


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how to train. Of several budgets the first to run out ends the run.

    Args:
        batch_size: images per step; the last, incomplete batch of an epoch is dropped, unless
            the set is smaller than one batch.
        epochs: budget in passes over the images.
        max_steps: budget in steps.
        max_minutes: budget in minutes, time before a resumption included.
        seed: fixes noise, batch order and the images' binarization.
        schedule: factor on the optimizer's learning rate, given the used share of the budget.
        checkpoint_minutes: time between checkpoints.
        log_every: steps between logged lines.
        validate_every: steps between validations, ``None`` for one after each epoch. The
            last step is always validated.
        validation_images: how many images to validate on at most.

    Raises:
        ValueError: no budget, or a number out of range.
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
            raise ValueError("give a budget: epochs, max_steps or max_minutes")
        for name in ("epochs", "max_steps", "max_minutes", "validate_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("batch_size", "log_every", "validation_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0 or self.checkpoint_minutes < 0:
            raise ValueError(
                "seed and checkpoint_minutes must not be negative, got "
                f"{self.seed} and {self.checkpoint_minutes}"
            )


@dataclass(frozen=True)
class TrainingResult:
    """Where a finished run stands.

    Args:
        step: optimizer steps taken.
        epoch: number of the last epoch, from 1; it may be incomplete.
        images_seen: images trained on, repetitions counted.
        seconds: training time, before resumptions included.
        history: all logged lines, as in ``metrics.jsonl``.
        checkpoint: folder of the checkpoint, if there is one.
    """

    step: int
    epoch: int
    images_seen: int
    seconds: float
    history: list[dict[str, Any]]
    checkpoint: Path | None
    precision: str = "fp32"
