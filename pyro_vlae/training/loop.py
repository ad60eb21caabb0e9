"""A training run in progress: one step after another, with log and checkpoints."""

import math
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pyro
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.reproducible import derive_seed
from pyro_vlae.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    named_parameters,
    read_state,
    save_checkpoint,
)
from pyro_vlae.training.interrupts import InterruptFlag
from pyro_vlae.training.metrics import MetricsLog, StepWindow
from pyro_vlae.training.random_state import capture_random_state, restore_random_state
from pyro_vlae.training.settings import (
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingSettings,
)
from pyro_vlae.training.tensor_files import NonFiniteError
from pyro_vlae.training.validation import ImageSource, validate

_NOISE, _DATA, _ORDER, _VALIDATION = range(4)  # purposes of the seeds derived from the run's

# Logged figures, and the ELBO's attributes that hold them.
_ELBO_FIGURES = dict(kl_nats="last_rate", distortion_nats="last_distortion", gamma="last_gamma")


@dataclass
class Run:
    """The state of a run; its place in the data is a function of ``step``.

    Args:
        model: see :func:`pyro_vlae.training.fit`, as for all others.
        guide: see there.
        data: the training images.
        elbo: see there.
        optimizer: see there.
        settings: see there.
        validation: see there.
        out: an existing folder or ``None``.
        config: see there.
        step: optimizer steps taken.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: ImageSource
    elbo: ELBO
    optimizer: JointOptim
    settings: TrainingSettings
    validation: ImageSource | None
    out: Path | None
    config: dict[str, Any]
    step: int = 0

    def __post_init__(self) -> None:
        settings = self.settings
        self.started = self.saved_at = monotonic()
        parts = {"model": self.model, "guide": self.guide}
        self.modules = {name: m for name, m in parts.items() if isinstance(m, nn.Module)}
        self.batch_size = min(settings.batch_size, len(self.data))
        self.batches = len(self.data) // self.batch_size
        budgets = [settings.max_steps, settings.epochs and settings.epochs * self.batches]
        self.total = min((b for b in budgets if b is not None), default=None)
        floating = (p.dtype for m in self.modules.values() for p in m.parameters())
        self.dtype = next((d for d in floating if d.is_floating_point), torch.get_default_dtype())
        self.base_rate = self.optimizer.learning_rate
        self.checkpoint = None if self.out is None else self.out / "checkpoint"
        self.saved_step: int | None = None
        self.window = StepWindow()
        self.log = MetricsLog(None)
        device = self.data.images.device
        self.generator = torch.Generator(device=device)
        self.shuffled: tuple[int, Tensor] = (-1, torch.empty(0))
        self.svi = SVI(self.model, self.guide, self.optimizer, self.elbo)

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1."""
        return max(self.step - 1, 0) // self.batches + 1

    @property
    def seconds(self) -> float:
        """Time used so far, before resumptions included."""
        return monotonic() - self.started

    @property
    def used(self) -> float:
        """The share of the budget that is used up."""
        minutes = self.settings.max_minutes
        return max(
            self.step / self.total if self.total else 0.0,
            self.seconds / (60 * minutes) if minutes else 0.0,
        )

    @property
    def finished(self) -> bool:
        """Whether a budget is used up."""
        return self.used >= 1

    def start(self, resume: bool) -> None:
        """Seed everything, or take over the checkpoint."""
        seed = self.settings.seed
        metrics = None if self.out is None else self.out / "metrics.jsonl"
        if not resume or self.checkpoint is None:
            self.optimizer.register(named_parameters(self.modules).items())
            pyro.set_rng_seed(derive_seed(seed, _NOISE) % 2**32)  # as NumPy takes it
            self.generator.manual_seed(derive_seed(seed, _DATA))
            self.log = MetricsLog(metrics)
            return
        state = read_state(self.checkpoint)
        for name, now in self._identity().items():
            if state[name] != now:
                raise CheckpointError(
                    f"{self.checkpoint} was made with {name} {state[name]}, now it is {now}: "
                    "resume with the same, or train into another folder"
                )
        state = load_checkpoint(self.checkpoint, self.modules, self.optimizer)
        self.log = MetricsLog(metrics, state["metrics_bytes"])
        self.step = self.saved_step = state["step"]
        self.started -= state["seconds"]
        self.window.restart(state["window"])
        # Guessing it anew would draw random numbers.
        if math.isinf(self.elbo.max_plate_nesting) and state["max_plate_nesting"] is not None:
            self.elbo.max_plate_nesting = state["max_plate_nesting"]
        if state.get("elbo"):
            cast(Any, self.elbo).set_state(state["elbo"])
        self.generator.manual_seed(derive_seed(seed, _DATA, self.step))
        restore_random_state(state["random"], self.generator)

    def train(self, progress: bool) -> None:
        """Run until a budget is used up or a signal comes in; save at the end."""
        settings = self.settings
        bar = tqdm(
            total=self.total,
            initial=self.step,
            unit="step",
            disable=not progress,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # a log file needs fewer lines
        )
        with InterruptFlag() as interrupt, warnings.catch_warnings(), bar:
            # The loop reports NaN itself, with the step.
            warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
            first, shown, done = True, (self.seconds, self.step), False
            while not done and interrupt.signal is None:
                self._train_step(checked=first)
                done = self.finished
                self._log_step(done)
                bar.update()
                if progress and self.seconds - shown[0] > 1:
                    speed = (self.step - shown[1]) * self.batch_size / (self.seconds - shown[0])
                    bar.set_postfix_str(f"{self._summary()}{speed:.0f} images/s", refresh=False)
                    shown = (self.seconds, self.step)
                # One at once, so that an unusable folder shows and a run can always resume.
                due = first or monotonic() - self.saved_at >= 60 * settings.checkpoint_minutes
                first = False
                if due and not done and interrupt.signal is None:
                    self.save()
            self.save()
        if interrupt.signal is not None:
            raise TrainingInterrupted(interrupt.signal, self.step, self.checkpoint)

    def save(self) -> None:
        """Write a checkpoint, if there is a folder for it."""
        self.saved_at = monotonic()
        if self.checkpoint is None:
            return
        nesting = self.elbo.max_plate_nesting
        state = {
            "step": self.step,
            "epoch": self.epoch,
            "batch_in_epoch": self.step % self.batches,
            "images_seen": self.step * self.batch_size,
            "seconds": self.seconds,
            "learning_rate_factor": self.settings.schedule(self.used),
            "metrics_bytes": self.log.synced_length(),
            "window": self.window.values(),
            "max_plate_nesting": None if math.isinf(nesting) else nesting,
            "elbo": getattr(self.elbo, "get_state", dict)(),
            "random": capture_random_state(self.generator),
            "config": self.config,
            **self._identity(),
        }
        try:
            save_checkpoint(self.checkpoint, self.modules, self.optimizer, state)
        except NonFiniteError as error:
            raise self._diverged(str(error)) from error
        self.saved_step = self.step

    def _identity(self) -> dict[str, int]:
        """What must not change on the way."""
        return {
            "batch_size": self.batch_size,
            "seed": self.settings.seed,
            "training_images": len(self.data),
        }

    def _batch(self) -> Tensor:
        epoch, batch = divmod(self.step, self.batches)
        if self.shuffled[0] != epoch:
            seed = derive_seed(self.settings.seed, _ORDER, epoch)
            order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed))
            self.shuffled = (epoch, order.to(self.data.images.device))
        start = batch * self.batch_size
        batch_of = self.shuffled[1][start : start + self.batch_size]
        return self.data.batch(batch_of, self.generator).to(self.dtype)

    def _train_step(self, checked: bool) -> None:
        self.optimizer.learning_rate = self.base_rate * self.settings.schedule(self.used)
        x = self._batch()
        if hasattr(self.elbo, "progress"):
            self.elbo.progress = self.used
        with nullcontext() if checked else pyro.validation_enabled(False):
            loss = self.svi.step(x)
        self.step += 1
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        if checked and self.optimizer.never_moved:
            names = self.optimizer.never_moved
            raise RuntimeError(
                f"{len(names)} trainable parameters are not trained, {names[0]!r} first: Pyro's "
                "parameter store holds another tensor in their place, or none. Call "
                "pyro.clear_param_store() before building a new model, register modules under "
                "distinct names, or requires_grad_(False) what is to stay fixed"
            )
        figures: dict[str, float | Tensor] = {"loss": loss / self.batch_size}
        if self.optimizer.gradient_norm is not None:
            figures["gradient_norm"] = self.optimizer.gradient_norm
        for name, attribute in _ELBO_FIGURES.items():
            if (value := getattr(self.elbo, attribute, None)) is not None:
                figures[name] = value
        self.window.add(figures)

    def _log_step(self, last: bool) -> None:
        """Write a line if one is due."""
        every = self.settings.validate_every or self.batches
        validating = self.validation is not None and (last or self.step % every == 0)
        if not (last or validating or self.step % self.settings.log_every == 0):
            return
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": self.epoch,
            "images_seen": self.step * self.batch_size,
            **self._training_figures(),
            "learning_rate": self.optimizer.learning_rate,
        }
        if validating and self.validation is not None:
            with self.optimizer.averaged():
                figures = validate(
                    self.model,
                    self.guide,
                    self.validation,
                    num_images=self.settings.validation_images,
                    dtype=self.dtype,
                    batch_size=self.settings.batch_size,
                    seed=derive_seed(self.settings.seed, _VALIDATION),
                )
            line |= {f"validation_{name}": value for name, value in figures.items()}
        strange = [name for name, value in line.items() if not math.isfinite(value)]
        if strange:
            raise self._diverged(f"{strange[0]} is {line[strange[0]]}")
        self.log.write(line)
        self.window.restart()

    def _training_figures(self) -> dict[str, float]:
        """Means since the last line, nats per image."""
        means = self.window.means()
        elbo = -means.pop("loss")
        if "kl_nats" in means and "distortion_nats" in means:
            elbo = -(means["kl_nats"] + means["distortion_nats"])
        order = (*_ELBO_FIGURES, "gradient_norm")
        return {"elbo": elbo, **{name: means[name] for name in order if name in means}}

    def _summary(self) -> str:
        # Just after a line was logged, its figures are the newest.
        figures = self._training_figures() if self.window.values() else self.log.lines[-1]
        bits = f"KL {figures['kl_nats'] / math.log(2):.1f} bits, " if "kl_nats" in figures else ""
        return f"ELBO {figures['elbo']:.2f}, {bits}"

    def _diverged(self, what: str) -> TrainingDivergedError:
        last = "there is no checkpoint yet"
        if self.saved_step is not None:
            last = f"the last good checkpoint is step {self.saved_step} in {self.checkpoint}"
        return TrainingDivergedError(
            f"training diverged at step {self.step}: {what}; {last}. Use a lower learning rate "
            "or a smaller clip_norm"
        )
