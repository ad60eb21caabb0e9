"""The training loop, and how a run is saved and resumed."""

import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyro
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor, nn

from pyro_vlae.infer.distributed import from_rank_0, rank, wait_for_all_ranks, world_size
from pyro_vlae.infer.initialize import check_held
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.reproducible import derive_seed, set_seed
from pyro_vlae.training import distributed
from pyro_vlae.training.acceleration import HalfPrecision, resolve_precision
from pyro_vlae.training.batches import Batches
from pyro_vlae.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pyro_vlae.training.metrics import MetricsLog, StepMetrics, progress_bar, summary
from pyro_vlae.training.settings import TrainingDivergedError, TrainingInterrupted, TrainingSettings
from pyro_vlae.training.validation import ImageSource, validate
from pyro_vlae.training.weights import (
    CheckpointError,
    NonFiniteError,
    check_trained,
    damaged,
    finite_weights,
    named_parameters,
)

_NOISE, _VALIDATION = 0, 3  # what a derived seed is for


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
    on_log: Callable[[dict[str, Any]], Any] | None

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
        self.keep_precision = self.precision == "auto"
        self.precision = resolve_precision(self.precision, self.data.images.device)
        if self.dtype == torch.float64:
            self.precision = "fp32"  # autocast leaves double precision alone
        self.half_precision = HalfPrecision(self.modules.values())

        self.batches = Batches(self.data, self.settings.batch_size, self.settings.seed, self.dtype)
        self.batch_size = self.batches.size
        self.step, self.saved_at = 0, 0.0
        self.status = distributed.StepStatus(self.svi, self.optimizer)
        self.saved_step: int | None = None
        self.checkpoint = None if self.out is None else self.out / "checkpoint"
        self.recent, self.log = StepMetrics(), MetricsLog(None)
        self.images = None if self.out is None else distributed.digest_of(self.data.images)
        self.best: dict[str, Tensor] | None = None  # the averaged weights that had the best ELBO
        self.best_elbo = -math.inf

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1."""
        return max(self.step - 1, 0) // self.batches.per_epoch + 1

    @property
    def seconds(self) -> float:
        """Training time of rank 0, including the time before resumptions."""
        return self.status.seconds

    @property
    def progress(self) -> float:
        """The used fraction of the budget."""
        return self.settings.progress(self.step, self.seconds, self.batches.per_epoch)

    @property
    def finished(self) -> bool:
        """Whether a budget is used up."""
        return self.progress >= 1

    def start(self) -> None:
        """Begin a new run: seed everything, open the log."""
        pyro.set_rng_seed(self._seed(_NOISE) % 2**32)  # NumPy takes 32 bits
        self.batches.seed()
        self._compare_ranks()
        if self.out is not None and rank() == 0:
            self.log = MetricsLog(self.out / "metrics.jsonl")

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        assert self.out is not None
        state = checkpoint.state
        try:
            self.precision = state["precision"] if self.keep_precision else self.precision
            state.setdefault("training_data", self.images)  # an older version left it out
            for name, now in self._identity().items():
                if state[name] != now:
                    raise CheckpointError(
                        f"{self.checkpoint} was made with {name} {state[name]}, now it is {now}: "
                        "resume with the same value, or train in another folder"
                    )
            self.batches.seed(state["step"])
            load_checkpoint(checkpoint, self.modules, self.optimizer, self.batches.generator)
            distributed.note_world_size(state.get("world_size", 1))
            self.step = self.saved_step = state["step"]
            self.status.started -= state["seconds"]
            self._compare_ranks()
            if rank() == 0:
                logged = state["metrics_bytes"], state.get("metrics_digest")
                self.log = MetricsLog(self.out / "metrics.jsonl", *logged)
            self.saved_at = self.seconds
            self.recent.values = state["recent_metrics"]
            self.best, self.best_elbo = checkpoint.best, state.get("best_elbo") or -math.inf
            # Otherwise Pyro would guess it again, which consumes random numbers.
            if math.isinf(self.elbo.max_plate_nesting) and state["max_plate_nesting"] is not None:
                self.elbo.max_plate_nesting = state["max_plate_nesting"]
            if state["elbo"]:
                cast(Any, self.elbo).set_state(state["elbo"])
        except (KeyError, TypeError) as error:
            raise damaged(checkpoint.path) from error

    def train(self, show_progress: bool) -> None:
        """Train until a budget is used up or a signal arrives; save at the end."""
        total = self.settings.steps(self.batches.per_epoch)
        bar = progress_bar(total, self.step, show_progress and rank() == 0)
        with self.status.interrupt, warnings.catch_warnings(), bar:
            # The loop reports NaN itself, with the step.
            warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
            # From torch.compile, about tensors that it inspects.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
            first, done = True, False
            while not done and self.status.signal is None:
                self._train_step(first)
                done = self.finished
                done = self._log_step(done) or done
                if bar.update():  # the bar was redrawn
                    speed = self.batch_size * (bar.format_dict["rate"] or 0.0)
                    means = self.recent.means() or self.log.lines[-1]
                    bar.set_postfix_str(summary(means, speed), refresh=False)
                # The first checkpoint comes early, so that an unusable folder is noticed at once.
                due = self.seconds - self.saved_at >= 60 * self.settings.checkpoint_minutes
                if (first or due) and not done and self.status.signal is None:
                    self._save()
                first = False
            self._save()
            wait_for_all_ranks()
        if self.status.signal is not None:
            raise TrainingInterrupted(self.status.signal, self.step, self.checkpoint)

    def _compare_ranks(self) -> None:
        images = {"training images": self.data, "validation images": self.validation}
        others = {"step": self.step, **self._identity(), **self.config}
        self.status.begin(distributed.run_facts(images, self.settings, self.modules, others))

    def _seed(self, *purpose: int) -> int:
        return derive_seed(self.settings.seed, *purpose)

    def _train_step(self, first: bool) -> None:
        progress = self.progress
        self.optimizer.learning_rate = self.learning_rate * self.settings.schedule(progress)
        if hasattr(self.elbo, "progress"):
            cast(Any, self.elbo).progress = progress
        x = self.batches[self.step]
        if first:
            with torch.compiler.set_stance("force_eager"):
                whole = self.batches.whole(self.step, x)
                distributed.initialize_all(self.model, self.guide, self.modules, whole)
            self.optimizer.register(named_parameters(self.modules).items())  # also lazy ones
        if world_size() > 1:  # so that the random state of rank 0 suffices to resume
            set_seed(self._seed(_NOISE, self.step, rank()), x.device)
        with contextlib.ExitStack() as stack:
            if not first:
                stack.enter_context(pyro.validation_enabled(False))
            if self.precision == "bf16":
                stack.enter_context(self.half_precision)
            if first:
                check_held(self.model, self.guide, x)
            loss = self.status.after_step(self.svi.step(x))
        self.step += 1
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        if first:
            check_trained(self.optimizer.never_trained)
        self.recent.add(self.elbo, loss / self.batch_size, self.optimizer.gradient_norm)

    def _log_step(self, last: bool) -> bool:
        """Write a line of metrics if one is due; returns whether ``on_log`` stops the run."""
        every = self.settings.validate_every or self.batches.per_epoch
        validating = self.validation is not None and (last or self.step % every == 0)
        if not (last or validating or self.step % self.settings.log_every == 0):
            return False
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": self.epoch,
            "images_seen": self.step * self.batch_size,
            "world_size": world_size(),
            **self.recent.means(),
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
        if validating and self.checkpoint is not None and validated["elbo"] > self.best_elbo:
            with self.optimizer.averaged():
                self.best, self.best_elbo = finite_weights(self.modules), validated["elbo"]
        self.log.write(line, self._saved)
        self.recent = StepMetrics()
        try:
            called = self.on_log is not None and rank() == 0
            return from_rank_0(called and bool(cast(Any, self.on_log)(dict(line))))
        except BaseException:
            self._save()
            raise

    def _save(self) -> None:
        """Write a checkpoint, if there is a folder for it."""
        self.saved_at = self.seconds
        if self.checkpoint is None or rank() > 0:
            return
        nesting = self.elbo.max_plate_nesting
        length, digest = self.log.sync(self._saved)
        state = {
            "step": self.step,
            "images_seen": self.step * self.batch_size,
            "seconds": self.seconds,
            "world_size": world_size(),
            "metrics_bytes": length,
            "metrics_digest": digest,
            "recent_metrics": self.recent.state(),
            "best_elbo": None if self.best is None else self.best_elbo,
            "max_plate_nesting": None if math.isinf(nesting) else nesting,
            "elbo": getattr(self.elbo, "get_state", dict)(),
            "config": self.config,
            **self._identity(),
        }
        try:
            parts = self.modules, self.optimizer, state, self.batches.generator, self.best
            save_checkpoint(self.checkpoint, *parts)
        except NonFiniteError as error:
            raise self._diverged(str(error)) from error
        self.saved_step = self.step

    def _identity(self) -> dict[str, Any]:
        """The settings that a resumed run must not change."""
        return {
            "batch_size": self.batch_size,
            "seed": self.settings.seed,
            "training_images": len(self.data),
            "training_data": self.images,
            "precision": self.precision,
            "optimizer": self.optimizer.name,
            "objective": type(self.elbo).__name__,
            "ema_decay": self.optimizer.ema_decay,
        }

    @property
    def _saved(self) -> str:
        if self.saved_step is None:
            return "and there is no checkpoint yet"
        return f"the last good checkpoint is step {self.saved_step} in {self.checkpoint}"

    def _diverged(self, what: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"training diverged at step {self.step}: {what}; {self._saved}. Use a lower learning "
            "rate or a smaller clip_norm"
        )
