"""The training loop, and how a run is saved and resumed."""

import contextlib
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pyro
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vlae.infer.initialize import initialize
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.reproducible import derive_seed
from pyro_vlae.training.acceleration import HalfPrecision, resolve_precision
from pyro_vlae.training.checkpoint import load_checkpoint, read_state, save_checkpoint
from pyro_vlae.training.interrupts import InterruptFlag
from pyro_vlae.training.metrics import MetricsLog
from pyro_vlae.training.settings import (
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingSettings,
)
from pyro_vlae.training.validation import ImageSource, validate
from pyro_vlae.training.weights import CheckpointError, NonFiniteError, named_parameters

_NOISE, _DATA, _ORDER, _VALIDATION = range(4)  # what a derived seed is for
# Metrics that an ELBO may provide, and the names of its attributes.
_ELBO_METRICS = dict(kl_nats="last_rate", distortion_nats="last_distortion", gamma="last_gamma")


@dataclass(eq=False)
class Trainer:
    """A training run, with the arguments of `fit`; ``step`` is the number of steps taken."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: ImageSource
    elbo: ELBO
    optimizer: JointOptim
    settings: TrainingSettings
    validation: ImageSource | None
    out: Path | None
    config: dict[str, Any]
    precision: str

    def __post_init__(self) -> None:
        self.svi = SVI(self.model, self.guide, self.optimizer, self.elbo)
        parts = {"model": self.model, "guide": self.guide}
        self.modules = {name: m for name, m in parts.items() if isinstance(m, nn.Module)}
        parameters = named_parameters(self.modules)
        stored = dict(pyro.get_param_store().named_parameters())
        for parameter in (*parameters.values(), *stored.values()):
            parameter.grad = None  # left over from an interrupted step
        self.dtype = next((p.dtype for p in parameters.values()), torch.get_default_dtype())
        self.optimizer.register(parameters.items())
        self.learning_rate = self.optimizer.learning_rate
        device = self.data.images.device
        self.keep_precision = self.precision == "auto"
        self.precision = resolve_precision(self.precision, device)
        if self.dtype == torch.float64:
            self.precision = "fp32"  # autocast leaves double precision alone
        self.half_precision = HalfPrecision(self.modules.values())

        self.batch_size = min(self.settings.batch_size, len(self.data))
        self.batches = len(self.data) // self.batch_size
        limits = (self.settings.max_steps, self.batches * (self.settings.epochs or 0))
        self.total = min((limit for limit in limits if limit), default=None)
        self.step = 0
        self.started = monotonic()
        self.saved_at = 0.0
        self.saved_step: int | None = None
        self.checkpoint = None if self.out is None else self.out / "checkpoint"
        self.generator = torch.Generator(device=device)
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))  # epoch, its order of images
        # Values of each metric since the last logged line. Scalar tensors stay on their device:
        # adding them needs no host-device synchronization.
        self.recent: dict[str, list[Any]] = {}
        self.log = MetricsLog(None)

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1."""
        return max(self.step - 1, 0) // self.batches + 1

    @property
    def seconds(self) -> float:
        """Training time, including the time before resumptions."""
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

    def start(self) -> None:
        """Begin a new run: seed everything, open the log."""
        pyro.set_rng_seed(self._seed(_NOISE) % 2**32)  # NumPy takes 32 bits
        self.generator.manual_seed(self._seed(_DATA))
        if self.out is not None:
            self.log = MetricsLog(self.out / "metrics.jsonl")

    def resume(self) -> None:
        """Continue from the checkpoint."""
        assert self.checkpoint is not None and self.out is not None
        state = read_state(self.checkpoint)
        if self.keep_precision:
            self.precision = state["precision"]
        for name, now in self._identity().items():
            if state[name] != now:
                raise CheckpointError(
                    f"{self.checkpoint} was made with {name} {state[name]}, now it is {now}: "
                    "resume with the same value, or train in another folder"
                )
        self.generator.manual_seed(self._seed(_DATA, state["step"]))
        load_checkpoint(self.checkpoint, self.modules, self.optimizer, self.generator)
        self.log = MetricsLog(self.out / "metrics.jsonl", state["metrics_bytes"])
        self.step = self.saved_step = state["step"]
        self.started -= state["seconds"]
        self.saved_at = self.seconds
        self.recent = state["recent_metrics"]
        # Otherwise Pyro would guess it again, which consumes random numbers.
        if math.isinf(self.elbo.max_plate_nesting) and state["max_plate_nesting"] is not None:
            self.elbo.max_plate_nesting = state["max_plate_nesting"]
        if state["elbo"]:
            cast(Any, self.elbo).set_state(state["elbo"])

    def train(self, show_progress: bool) -> None:
        """Train until a budget is used up or a signal arrives; save at the end."""
        interval = 1 if sys.stderr.isatty() else 10  # seconds; fewer lines in a log file
        options: dict[str, Any] = dict(unit="step", mininterval=interval, disable=not show_progress)
        bar = tqdm(total=self.total, initial=self.step, **options)
        with InterruptFlag() as interrupt, warnings.catch_warnings(), bar:
            # The loop reports NaN itself, with the step.
            warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
            # From torch.compile, about tensors that it inspects.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
            first, done = True, False
            while not done and interrupt.signal is None:
                self._train_step(first)
                done = self.finished
                self._log_step(done)
                if bar.update():  # the bar was redrawn
                    bar.set_postfix_str(self._summary(bar.format_dict["rate"]), refresh=False)
                # The first checkpoint comes early, so that an unusable folder is noticed at once.
                due = self.seconds - self.saved_at >= 60 * self.settings.checkpoint_minutes
                if (first or due) and not done and interrupt.signal is None:
                    self._save()
                first = False
            self._save()
        if interrupt.signal is not None:
            raise TrainingInterrupted(interrupt.signal, self.step, self.checkpoint)

    def _seed(self, *purpose: int) -> int:
        return derive_seed(self.settings.seed, *purpose)

    def _batch(self) -> Tensor:
        epoch, batch = divmod(self.step, self.batches)
        if self.order[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed(_ORDER, epoch))
            order = torch.randperm(len(self.data), generator=generator)
            self.order = (epoch, order.to(self.data.images.device))
        index = self.order[1][batch * self.batch_size :][: self.batch_size]
        return self.data.batch(index, self.generator).to(self.dtype)

    def _train_step(self, first: bool) -> None:
        progress = self.progress
        self.optimizer.learning_rate = self.learning_rate * self.settings.schedule(progress)
        if hasattr(self.elbo, "progress"):
            cast(Any, self.elbo).progress = progress
        x = self._batch()
        if first:
            with torch.compiler.set_stance("force_eager"):
                initialize(self.model, self.guide, x)
        with contextlib.ExitStack() as stack:
            if not first:
                stack.enter_context(pyro.validation_enabled(False))
            if self.precision == "bf16":
                stack.enter_context(self.half_precision)
            loss = self.svi.step(x)
        self.step += 1
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        if first and (names := self.optimizer.never_trained):
            raise RuntimeError(
                f"{len(names)} trainable parameters are not trained, {names[0]!r} first: Pyro's "
                "parameter store holds another tensor in their place, or none. Call "
                "pyro.clear_param_store() before building a new model, register modules under "
                "distinct names, or call requires_grad_(False) on what should stay fixed"
            )
        metrics: dict[str, Any] = {"elbo": -loss / self.batch_size}
        offered = {n: getattr(self.elbo, where, None) for n, where in _ELBO_METRICS.items()}
        metrics |= {name: value for name, value in offered.items() if value is not None}
        if "kl_nats" in metrics and "distortion_nats" in metrics:
            metrics["elbo"] = -(metrics["kl_nats"] + metrics["distortion_nats"])
        for name, value in {**metrics, "gradient_norm": self.optimizer.gradient_norm}.items():
            self.recent.setdefault(name, []).append(value)

    def _means(self) -> dict[str, float]:
        return {name: math.fsum(map(float, v)) / len(v) for name, v in self.recent.items()}

    def _log_step(self, last: bool) -> None:
        """Write a line of metrics if one is due."""
        every = self.settings.validate_every or self.batches
        validating = self.validation is not None and (last or self.step % every == 0)
        if not (last or validating or self.step % self.settings.log_every == 0):
            return
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": self.epoch,
            "images_seen": self.step * self.batch_size,
            **self._means(),
            "learning_rate": self.optimizer.learning_rate,
        }
        if validating:
            with self.optimizer.averaged(), torch.compiler.set_stance("force_eager"):
                validated = validate(
                    self.model,
                    self.guide,
                    cast(ImageSource, self.validation),
                    num_images=self.settings.validation_images,
                    dtype=self.dtype,
                    batch_size=self.settings.batch_size,
                    seed=self._seed(_VALIDATION),
                )
            line |= {f"validation_{name}": value for name, value in validated.items()}
        for name, value in line.items():
            if not math.isfinite(value):
                raise self._diverged(f"{name} is {value}")
        self.log.write(line)
        self.recent = {}

    def _summary(self, steps_per_second: float | None) -> str:
        metrics = self._means() or self.log.lines[-1]
        bits = f"KL {metrics['kl_nats'] / math.log(2):.1f} bits, " if "kl_nats" in metrics else ""
        speed = self.batch_size * (steps_per_second or 0.0)
        return f"ELBO {metrics['elbo']:.2f}, {bits}{speed:.0f} images/s"

    def _save(self) -> None:
        """Write a checkpoint, if there is a folder for it."""
        self.saved_at = self.seconds
        if self.checkpoint is None:
            return
        nesting = self.elbo.max_plate_nesting
        state = {
            "step": self.step,
            "images_seen": self.step * self.batch_size,
            "seconds": self.seconds,
            "metrics_bytes": self.log.synced_length(),
            "recent_metrics": {name: [float(v) for v in vs] for name, vs in self.recent.items()},
            "max_plate_nesting": None if math.isinf(nesting) else nesting,
            "elbo": getattr(self.elbo, "get_state", dict)(),
            "config": self.config,
            **self._identity(),
        }
        try:
            save_checkpoint(self.checkpoint, self.modules, self.optimizer, state, self.generator)
        except NonFiniteError as error:
            raise self._diverged(str(error)) from error
        self.saved_step = self.step

    def _identity(self) -> dict[str, Any]:
        """The settings that a resumed run must not change."""
        return {
            "batch_size": self.batch_size,
            "seed": self.settings.seed,
            "training_images": len(self.data),
            "precision": self.precision,
            "optimizer": self.optimizer.name,
            "objective": type(self.elbo).__name__,
            "ema_decay": self.optimizer.ema_decay,
        }

    def _diverged(self, what: str) -> TrainingDivergedError:
        last = "there is no checkpoint yet"
        if self.saved_step is not None:
            last = f"the last good checkpoint is step {self.saved_step} in {self.checkpoint}"
        return TrainingDivergedError(
            f"training diverged at step {self.step}: {what}; {last}. Use a lower learning rate "
            "or a smaller clip_norm"
        )
