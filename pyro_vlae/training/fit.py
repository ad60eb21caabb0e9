"""The entry point of training."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.training.acceleration import compiled
from pyro_vlae.training.checkpoint import has_checkpoint
from pyro_vlae.training.settings import TrainingResult, TrainingSettings
from pyro_vlae.training.trainer import Trainer
from pyro_vlae.training.validation import ImageSource
from pyro_vlae.training.weights import CheckpointError


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
    ``max_minutes`` the result depends on the seed alone: on the CPU, a run that was killed and
    resumed gives bitwise the same result as one that was not. The global random generators are
    seeded. `pyro_vlae.infer.initialize` is called with the first batch. The first step uses the
    caller's Pyro validation setting; the others run without validation.

    Args:
        model: Pyro model, called with a batch of images ``(B, C, H, W)``. With ``out``, all
            parameters must belong to modules; a bare ``pyro.param`` is an error.
        guide: its guide.
        train: the images.
        elbo: any Pyro ELBO. If it has scalar tensors ``last_rate`` and ``last_distortion`` (batch
            means, nats per image), the logged ``elbo`` is minus their sum, else minus the loss per
            image. A scalar tensor ``last_gamma`` is logged, too. An attribute ``progress`` is set
            to the used fraction of the budget before each step. If it has ``get_state()`` and
            ``set_state()``, its state is part of the checkpoint.
        optimizer: the schedule scales its learning rate.
        settings: budget, batch size, seed, intervals.
        validation: held-out images, scored with the averaged weights.
        out: folder for ``metrics.jsonl`` and ``checkpoint/``; None to write nothing. The first
            checkpoint is written after the first step.
        resume: continue from the checkpoint in ``out``; a finished run returns at once.
        config: stored in the checkpoint, e.g. the options needed to rebuild the model.
        progress: show a progress bar.
        precision: of the networks that model and guide declare (see
            `pyro_vlae.training.acceleration`): ``"bf16"``, ``"fp32"``, or ``"auto"``, which keeps
            the precision of a resumed run and else is bf16 if the device has instructions for it.
        compile: compile these networks with ``torch.compile``.

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
        TrainingDivergedError: the loss is NaN or infinite; the last checkpoint is untouched.
        CheckpointError: ``out`` cannot be written or already holds a checkpoint; with ``resume``,
            it holds none, or one that does not fit.
        ValueError: there are no images, the precision is unknown, or ``resume`` lacks ``out``.
        RuntimeError: Pyro does not train one of the trainable parameters.
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
