"""The training loop's front door."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro.infer import ELBO

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.training.checkpoint import CheckpointError, has_checkpoint, read_state
from pyro_vlae.training.loop import Run
from pyro_vlae.training.settings import TrainingResult, TrainingSettings
from pyro_vlae.training.validation import ImageSource


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

    Plain ``SVI(model, guide, optimizer, elbo)``, one ``step`` for each batch. Without
    ``max_minutes`` the result depends on the seed alone: on the CPU a run that was killed and
    resumed ends with the same bits as one that was not. The global random generators are
    seeded. The first batch runs under the caller's Pyro validation, the rest without.

    Args:
        model: Pyro model; called with a batch of images ``(B, C, H, W)``. Parameters belong in
            modules: with ``out``, one made by a bare ``pyro.param`` is an error.
        guide: its guide.
        train: the images.
        elbo: any Pyro ELBO. If it keeps scalar tensors ``last_rate`` and ``last_distortion``
            (batch means, nats per image), ``elbo`` in the log is minus their sum; else it is
            minus the loss per image. A scalar tensor ``last_gamma`` is logged too, and
            what ``elbo.get_state()`` returns is kept in the checkpoint for ``elbo.set_state()``.
        optimizer: its learning rate is the one that the schedule scales.
        settings: budget, batch size, seed, intervals.
        validation: held-out images, scored with the averaged weights.
        out: folder for ``metrics.jsonl`` and ``checkpoint/``; nothing is written without. The
            first checkpoint is written after the first step.
        resume: continue from the checkpoint in ``out``; a finished run returns at once.
        config: stored with the checkpoint, e.g. what is needed to rebuild the model.
        progress: show a progress bar.

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
        TrainingDivergedError: NaN or infinite loss; the last checkpoint is untouched.
        CheckpointError: ``out`` cannot be written, holds a checkpoint already (or none, or
            one that does not fit, if ``resume``).
        ValueError: no images, or ``resume`` without ``out``.
        RuntimeError: a trainable parameter that Pyro does not train.
    """
    if len(train) == 0 or (validation is not None and len(validation) == 0):
        raise ValueError("the training or validation set has no images")
    if resume and out is None:
        raise ValueError("resume needs the output folder of the run to continue")
    folder = None if out is None else _prepared(Path(out), resume)
    run = Run(model, guide, train, elbo, optimizer, settings, validation, folder, config or {})
    learning_rate = optimizer.learning_rate
    try:
        run.start(resume)
        if not run.finished:
            run.train(progress)
    finally:
        optimizer.learning_rate = learning_rate
        run.log.close()
    return TrainingResult(
        step=run.step,
        epoch=run.epoch,
        images_seen=run.step * run.batch_size,
        seconds=run.seconds,
        history=run.log.lines,
        checkpoint=run.checkpoint,
    )


def _prepared(out: Path, resume: bool) -> Path:
    """The output folder, known to be writable and to hold a checkpoint only if resuming."""
    if resume:
        read_state(out / "checkpoint")
    elif has_checkpoint(out):
        raise CheckpointError(
            f"{out} already holds a checkpoint: resume it (--resume) or choose another folder"
        )
    probe = out / ".write-test"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {out}: {error.strerror or error}; choose another output folder"
        ) from error
    return out
