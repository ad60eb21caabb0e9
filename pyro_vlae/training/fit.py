"""The training loop."""

import contextlib
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyro
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor
from tqdm import tqdm

from pyro_vlae.infer.initialize import initialize
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.reproducible import derive_seed
from pyro_vlae.training.acceleration import HalfPrecision, compiled
from pyro_vlae.training.checkpoint import has_checkpoint
from pyro_vlae.training.interrupts import InterruptFlag
from pyro_vlae.training.metrics import RunningMeans
from pyro_vlae.training.run_state import ORDER_SEED, VALIDATION_SEED, RunState
from pyro_vlae.training.settings import TrainingInterrupted, TrainingResult, TrainingSettings
from pyro_vlae.training.validation import ImageSource, validate
from pyro_vlae.training.weights import CheckpointError

# Metrics that an ELBO may offer, and its attributes that hold them.
_ELBO_METRICS = dict(kl_nats="last_rate", distortion_nats="last_distortion", gamma="last_gamma")


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    train: ImageSource,
    *,
    elbo: ELBO,
    optimizer: JointOptim,
    settings: TrainingSettings,
    validation: ImageSource | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    progress: bool = True,
    precision: str = "auto",
    compile: bool = False,
) -> TrainingResult:
    """Train a model and a guide by stochastic variational inference.

    This is ``SVI(model, guide, optimizer, elbo)`` with one ``step`` for each batch. Without
    ``max_minutes`` the result depends on the seed alone: on the CPU a run that was killed and
    resumed ends with the same bits as one that was not. The global random generators are seeded.
    `pyro_vlae.infer.initialize` is called with the first batch. The first step runs under the
    caller's Pyro validation, the others without.

    Args:
        model: Pyro model; called with a batch of images ``(B, C, H, W)``. With ``out``, all its
            parameters must belong to modules: one made by a bare ``pyro.param`` is an error.
        guide: its guide.
        train: the images.
        elbo: any Pyro ELBO. If it has scalar tensors ``last_rate`` and ``last_distortion`` (batch
            means, nats per image), the logged ``elbo`` is minus their sum, else minus the loss per
            image. A scalar tensor ``last_gamma`` is logged, too; an attribute ``progress`` is set
            to the used fraction of the budget before each step; and the checkpoint keeps what
            ``get_state()`` returns for ``set_state()``.
        optimizer: the schedule scales its learning rate.
        settings: budget, batch size, seed, intervals.
        validation: held-out images, scored with the averaged weights.
        out: folder for ``metrics.jsonl`` and ``checkpoint/``; None to write nothing. The first
            checkpoint is written after the first step.
        resume: continue from the checkpoint in ``out``; a finished run returns at once.
        config: stored in the checkpoint, e.g. the options needed to rebuild the model.
        progress: show a progress bar.
        precision: of the networks that model and guide declare (see
            `pyro_vlae.training.acceleration`): ``"bf16"``, ``"fp32"``, or ``"auto"`` for bf16 where
            the device has instructions for it, and for the precision so far when resuming.
        compile: compile these networks by ``torch.compile``.

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
        TrainingDivergedError: NaN or infinite loss; the last checkpoint is untouched.
        CheckpointError: ``out`` cannot be written, or already holds a checkpoint; with ``resume``,
            it holds none or one that does not fit.
        ValueError: no images, an unknown precision, or ``resume`` without ``out``.
        RuntimeError: a trainable parameter that Pyro does not train.
    """
    if len(train) == 0 or (validation is not None and len(validation) == 0):
        raise ValueError("the training or validation set has no images")
    if resume and out is None:
        raise ValueError("resume needs the output folder of the run to continue")
    out = None if out is None else Path(out)
    if out is not None and not resume and has_checkpoint(out):
        raise CheckpointError(
            f"{out} already holds a checkpoint: resume it (--resume) or choose another folder"
        )
    trainer = Trainer(
        model, guide, train, elbo, optimizer, settings, validation, out, config or {}, precision
    )
    learning_rate = optimizer.learning_rate
    options = {"mode": "reduce-overhead"} if train.images.is_cuda else {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.callback(setattr, optimizer, "learning_rate", learning_rate)
        stack.callback(lambda: trainer.log.close())
        trainer.resume() if resume else trainer.start()
        if compile:
            stack.enter_context(compiled(trainer.modules.values(), **options))
        if not trainer.finished:
            trainer.train(progress)
    return TrainingResult(
        step=trainer.step,
        epoch=trainer.epoch,
        images_seen=trainer.step * trainer.batch_size,
        seconds=trainer.seconds,
        history=trainer.log.lines,
        checkpoint=trainer.checkpoint,
        precision=trainer.precision,
    )


class Trainer(RunState):
    """The training loop; arguments as `fit`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.svi = SVI(self.model, self.guide, self.optimizer, self.elbo)
        self.half_precision = HalfPrecision(self.modules.values())
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))  # an epoch and its order of images

    def train(self, show_progress: bool) -> None:
        """Train until a budget is used up or a signal arrives; save at the end."""
        bar = tqdm(
            total=self.total,
            initial=self.step,
            unit="step",
            disable=not show_progress,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # fewer lines in a log file
        )
        with InterruptFlag() as interrupt, warnings.catch_warnings(), bar:
            # Reported by the loop itself, with the step.
            warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
            # Of torch.compile, about tensors that it inspects.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
            first, done, shown = True, False, (self.seconds, self.step)
            while not done and interrupt.signal is None:
                self._train_step(first)
                done = self.finished
                self._log_step(done)
                bar.update()
                if show_progress and self.seconds - shown[0] > 1:
                    speed = (self.step - shown[1]) * self.batch_size / (self.seconds - shown[0])
                    bar.set_postfix_str(f"{self._summary()}{speed:.0f} images/s", refresh=False)
                    shown = (self.seconds, self.step)
                # One at once, so that an unusable folder shows and every run can be resumed.
                if (first or self.save_is_due) and not done and interrupt.signal is None:
                    self.save()
                first = False
            self.save()
        if interrupt.signal is not None:
            raise TrainingInterrupted(interrupt.signal, self.step, self.checkpoint)

    def _batch(self) -> Tensor:
        epoch, batch = divmod(self.step, self.batches)
        if self.order[0] != epoch:
            seed = derive_seed(self.settings.seed, ORDER_SEED, epoch)
            order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed))
            self.order = (epoch, order.to(self.data.images.device))
        index = self.order[1][batch * self.batch_size :][: self.batch_size]
        return self.data.batch(index, self.generator).to(self.dtype)

    def _initialize(self, x: Tensor) -> None:
        """Initialize layers that are new; a resumed run takes the same random numbers as before."""
        state = pyro.util.get_rng_state()
        with torch.compiler.set_stance("force_eager"):
            initialize(self.model, self.guide, x)
        pyro.util.set_rng_state(state)

    def _train_step(self, first: bool) -> None:
        self.optimizer.learning_rate = self.learning_rate * self.settings.schedule(self.progress)
        if hasattr(self.elbo, "progress"):
            cast(Any, self.elbo).progress = self.progress
        x = self._batch()
        if first:
            self._initialize(x)
        with contextlib.ExitStack() as stack:
            if not first:
                stack.enter_context(pyro.validation_enabled(False))
            if self.precision == "bf16":
                stack.enter_context(self.half_precision)
            loss = self.svi.step(x)
        self.step += 1
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is {loss}")
        if first and (names := self.optimizer.never_trained):
            raise RuntimeError(
                f"{len(names)} trainable parameters are not trained, {names[0]!r} first: Pyro's "
                "parameter store holds another tensor in their place, or none. Call "
                "pyro.clear_param_store() before building a new model, register modules under "
                "distinct names, or requires_grad_(False) what is to stay fixed"
            )
        self.means.add(self._step_metrics(loss / self.batch_size))

    def _step_metrics(self, loss: float) -> dict[str, float | Tensor]:
        """The metrics of one step, nats per image; what is logged are their means."""
        metrics: dict[str, float | Tensor] = {"elbo": -loss}
        for name, attribute in _ELBO_METRICS.items():
            if (value := getattr(self.elbo, attribute, None)) is not None:
                metrics[name] = value
        if "kl_nats" in metrics and "distortion_nats" in metrics:
            metrics["elbo"] = -(metrics["kl_nats"] + metrics["distortion_nats"])
        if self.optimizer.gradient_norm is not None:
            metrics["gradient_norm"] = self.optimizer.gradient_norm
        return metrics

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
            **self.means.means(),
            "learning_rate": self.optimizer.learning_rate,
        }
        if validating and self.validation is not None:
            with self.optimizer.averaged(), torch.compiler.set_stance("force_eager"):
                validated = validate(
                    self.model,
                    self.guide,
                    self.validation,
                    num_images=self.settings.validation_images,
                    dtype=self.dtype,
                    batch_size=self.settings.batch_size,
                    seed=derive_seed(self.settings.seed, VALIDATION_SEED),
                )
            line |= {f"validation_{name}": value for name, value in validated.items()}
        for name, value in line.items():
            if not math.isfinite(value):
                raise self.diverged(f"{name} is {value}")
        self.log.write(line)
        self.means = RunningMeans()

    def _summary(self) -> str:
        metrics = self.means.means() or self.log.lines[-1]
        bits = f"KL {metrics['kl_nats'] / math.log(2):.1f} bits, " if "kl_nats" in metrics else ""
        return f"ELBO {metrics['elbo']:.2f}, {bits}"
