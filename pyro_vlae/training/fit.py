"""The entry point of training."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.infer.traces import plain_errors
from pyro_vlae.training.acceleration import compiled
from pyro_vlae.training.checkpoint import Checkpoint, has_checkpoint, missing, read_checkpoint
from pyro_vlae.training.run_folder import own_folder
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
    resume: bool | Checkpoint = False,
    config: dict[str, Any] | None = None,
    progress: bool = True,
    precision: str = "auto",
    compile: bool = False,
    on_log: Callable[[dict[str, Any]], Any] | None = None,
) -> TrainingResult:
    """Train a model and a guide by stochastic variational inference.

    This is ``SVI(model, guide, optimizer, elbo)`` with one ``step`` for each batch. Without
    ``max_minutes`` the result depends on the seed alone: on the CPU, a run that was killed and
    resumed gives bitwise the same result as one that was not. The global random generators are
    seeded. `pyro_vlae.infer.initialize` is called with the first batch. The first step uses the
    caller's Pyro validation setting; the others run without validation.

    In a process group of `torch.distributed`, all ranks must call it with the same arguments. They
    share each batch, rank 0 initializes the layers, and rank 0 alone logs, calls ``on_log``, and
    writes.

    On return, model and guide hold the averaged weights, if the optimizer averages them. The last
    weights themselves are in the checkpoint, from which ``resume`` continues, and so are the
    averaged weights with the best validation ELBO (`load_best_weights`).

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
            checkpoint is written after the first step. The folder is locked: no other process can
            train in it at the same time.
        resume: continue from the checkpoint in ``out``, or from this one, read from there by
            `read_checkpoint`; a finished run returns at once. Batch size, seed, and precision must
            be as before; ELBO, schedule, and the optimizer's learning rate are taken as given now.
        config: JSON values stored in the checkpoint, e.g. the options needed to rebuild the model.
        progress: show a progress bar.
        precision: of the networks that model and guide declare (see
            `pyro_vlae.training.acceleration`): ``"bf16"``, ``"fp32"``, or ``"auto"``, which keeps
            the precision of a resumed run and else is bf16 if the device has instructions for it.
        compile: compile these networks with ``torch.compile``.
        on_log: called with a copy of each logged record, a dict of numbers. If it returns a true
            value, or raises an exception, training stops after a checkpoint is saved; an exception
            is passed on. A stopped run can be resumed.

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
        TrainingDivergedError: the loss, a logged metric, or a weight is NaN or infinite; the last
            checkpoint is untouched.
        CheckpointError: ``out`` cannot be written, is used by another process, or already holds a
            checkpoint; with ``resume``, it holds none, or one that does not fit; the log was
            deleted or moved during training.
        ValueError: there are no images, the precision is unknown, or ``resume`` lacks ``out``.
        RuntimeError: Pyro does not train one of the trainable parameters.
        RankError: another rank is gone, or was started with other data, options, or code.
        TypeError: the images are not a split of a data set; with ``out``, the config holds
            something that JSON cannot.
    """
    for name, source in {"train": train, "validation": validation}.items():
        if source is not None and not (hasattr(source, "batch") and hasattr(source, "images")):
            raise TypeError(
                f"{name} must be a split of a data set, such as data.{name}, got "
                f"{type(source).__name__}: for arrays and tensors of images, make the data with "
                "ImageDataset.from_arrays(images)"
            )
    if len(train) == 0 or (validation is not None and len(validation) == 0):
        raise ValueError("the training or validation set has no images")
    if resume and out is None:
        raise ValueError("resume needs the output folder of the run to continue")
    with contextlib.ExitStack() as stack:
        checkpoint = None
        if out is not None:
            out = Path(out)
            try:
                json.dumps(config)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"config must hold JSON values (numbers, texts, lists, dicts): {error}; "
                    "convert others, e.g. a path with str()"
                ) from error
            if resume and not has_checkpoint(out):
                raise missing(out / "checkpoint")
            stack.enter_context(own_folder(out))
            if not resume and has_checkpoint(out):
                raise CheckpointError(
                    f"{out} already holds a checkpoint: continue it (resume=True, in a script "
                    "--resume), or choose another folder"
                )
            if resume:
                given = resume if isinstance(resume, Checkpoint) else None
                checkpoint = given or read_checkpoint(out / "checkpoint")
        trainer = Trainer(
            *(model, guide, train, elbo, optimizer, settings, validation),
            *(out, config or {}, precision, on_log),
        )
        stack.enter_context(torch.enable_grad())
        stack.callback(setattr, optimizer, "learning_rate", optimizer.learning_rate)
        stack.callback(lambda: trainer.log.close())
        trainer.resume(checkpoint) if checkpoint else trainer.start()
        if compile:
            # CUDA graphs keep gradients in memory that a second pass of the same step overwrites.
            one_pass = elbo.num_particles == 1 or elbo.vectorize_particles
            graphs = train.images.is_cuda and one_pass
            options = {"mode": "reduce-overhead"} if graphs else {}
            stack.enter_context(compiled(trainer.modules.values(), **options))
        if not trainer.finished:
            with plain_errors():
                trainer.train(progress)
        optimizer.keep_averages()
    return TrainingResult(
        step=trainer.step,
        epoch=trainer.epoch,
        images_seen=trainer.step * trainer.batch_size,
        seconds=trainer.seconds,
        history=trainer.log.lines,
        checkpoint=trainer.checkpoint,
        precision=trainer.precision,
    )
