"""The state of a training run: how it starts, and how it is saved and resumed."""

import math
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pyro
import torch
from pyro.infer import ELBO
from torch import nn

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.reproducible import derive_seed
from pyro_vlae.training.acceleration import resolve_precision
from pyro_vlae.training.checkpoint import load_checkpoint, read_state, save_checkpoint
from pyro_vlae.training.metrics import MetricsLog, RunningMeans
from pyro_vlae.training.settings import TrainingDivergedError, TrainingSettings
from pyro_vlae.training.validation import ImageSource
from pyro_vlae.training.weights import CheckpointError, NonFiniteError, named_parameters

NOISE_SEED, DATA_SEED, ORDER_SEED, VALIDATION_SEED = range(4)  # what a derived seed is for


class RunState:
    """The state of a training run, with the arguments of `pyro_vlae.training.fit`.

    The position in the data follows from ``step``, the number of steps taken.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        data: ImageSource,
        elbo: ELBO,
        optimizer: JointOptim,
        settings: TrainingSettings,
        validation: ImageSource | None,
        out: Path | None,
        config: dict[str, Any],
        precision: str,
    ) -> None:
        self.model, self.guide, self.elbo, self.optimizer = model, guide, elbo, optimizer
        self.data, self.validation = data, validation
        self.settings, self.out, self.config = settings, out, config
        parts = {"model": model, "guide": guide}
        self.modules = {name: m for name, m in parts.items() if isinstance(m, nn.Module)}
        parameters = named_parameters(self.modules)
        self.dtype = next((p.dtype for p in parameters.values()), torch.get_default_dtype())
        optimizer.register(parameters.items())
        optimizer.drop_gradients()  # of an interrupted step, which would add to the first one
        self.learning_rate = optimizer.learning_rate
        self.asked_precision = precision
        self.precision = resolve_precision(precision, data.images.device)

        self.batch_size = min(settings.batch_size, len(data))
        self.batches = len(data) // self.batch_size
        epochs = None if settings.epochs is None else settings.epochs * self.batches
        self.total = min((n for n in (settings.max_steps, epochs) if n is not None), default=None)
        self.step = 0
        self.started = monotonic()
        self.saved_at = 0.0
        self.checkpoint = None if out is None else out / "checkpoint"
        self.saved_step: int | None = None
        self.generator = torch.Generator(device=data.images.device)
        self.means = RunningMeans()
        self.log = MetricsLog(None)

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1."""
        return max(self.step - 1, 0) // self.batches + 1

    @property
    def seconds(self) -> float:
        """Training time, before resumptions included."""
        return monotonic() - self.started

    @property
    def progress(self) -> float:
        """The used fraction of the budget."""
        minutes = self.settings.max_minutes
        return max(
            self.step / self.total if self.total else 0.0,
            self.seconds / (60 * minutes) if minutes else 0.0,
        )

    @property
    def finished(self) -> bool:
        """Whether a budget is used up."""
        return self.progress >= 1

    @property
    def save_is_due(self) -> bool:
        """Whether the time between checkpoints has passed."""
        return self.seconds - self.saved_at >= 60 * self.settings.checkpoint_minutes

    def start(self) -> None:
        """Begin a new run: seed everything, open the log."""
        # NumPy takes 32 bits.
        pyro.set_rng_seed(derive_seed(self.settings.seed, NOISE_SEED) % 2**32)
        self.generator.manual_seed(derive_seed(self.settings.seed, DATA_SEED))
        if self.out is not None:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CheckpointError(
                    f"cannot write to {self.out}: {error.strerror or error}; choose another output "
                    "folder"
                ) from error
            self.log = MetricsLog(self.out / "metrics.jsonl")

    def resume(self) -> None:
        """Continue from the checkpoint."""
        assert self.checkpoint is not None and self.out is not None
        state = read_state(self.checkpoint)
        if self.asked_precision == "auto":
            self.precision = state["precision"]
        for name, now in self._identity().items():
            if state[name] != now:
                raise CheckpointError(
                    f"{self.checkpoint} was made with {name} {state[name]}, now it is {now}: "
                    "resume with the same, or train into another folder"
                )
        self.generator.manual_seed(derive_seed(self.settings.seed, DATA_SEED, state["step"]))
        load_checkpoint(self.checkpoint, self.modules, self.optimizer, self.generator)
        self.log = MetricsLog(self.out / "metrics.jsonl", state["metrics_bytes"])
        self.step = self.saved_step = state["step"]
        self.started -= state["seconds"]
        self.saved_at = self.seconds
        self.means = RunningMeans(state["means"])
        # Pyro would guess it again, which takes random numbers.
        if math.isinf(self.elbo.max_plate_nesting) and state["max_plate_nesting"] is not None:
            self.elbo.max_plate_nesting = state["max_plate_nesting"]
        if state["elbo"]:
            cast(Any, self.elbo).set_state(state["elbo"])

    def save(self) -> None:
        """Write a checkpoint, if there is a folder for it."""
        self.saved_at = self.seconds
        if self.checkpoint is None:
            return
        nesting = self.elbo.max_plate_nesting
        state = {
            "step": self.step,
            "epoch": self.epoch,
            "batch_in_epoch": self.step % self.batches,
            "images_seen": self.step * self.batch_size,
            "seconds": self.seconds,
            "metrics_bytes": self.log.synced_length(),
            "means": self.means.values(),
            "max_plate_nesting": None if math.isinf(nesting) else nesting,
            "elbo": getattr(self.elbo, "get_state", dict)(),
            "config": self.config,
            **self._identity(),
        }
        try:
            save_checkpoint(self.checkpoint, self.modules, self.optimizer, state, self.generator)
        except NonFiniteError as error:
            raise self.diverged(str(error)) from error
        self.saved_step = self.step

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must not change."""
        return {
            "batch_size": self.batch_size,
            "seed": self.settings.seed,
            "training_images": len(self.data),
            "precision": self.precision,
        }

    def diverged(self, what: str) -> TrainingDivergedError:
        last = "there is no checkpoint yet"
        if self.saved_step is not None:
            last = f"the last good checkpoint is step {self.saved_step} in {self.checkpoint}"
        return TrainingDivergedError(
            f"training diverged at step {self.step}: {what}; {last}. Use a lower learning rate "
            "or a smaller clip_norm"
        )
