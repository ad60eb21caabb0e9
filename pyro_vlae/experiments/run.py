"""One run: train, plot, score, and write everything to a folder."""

import io
import json
import platform
import shlex
import sys
from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pyro
import torch
from torch import Tensor, nn

from pyro_vlae._version import __version__
from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.options import BUDGET, DATA, ConfigError
from pyro_vlae.experiments.pretrained import start_from
from pyro_vlae.experiments.recipes import Recipe
from pyro_vlae.experiments.stored import read_results
from pyro_vlae.infer import MarginalLikelihood, reconstruct
from pyro_vlae.infer.distributed import from_rank_0, rank, world_size
from pyro_vlae.infer.partial import file_of_rank
from pyro_vlae.infer.weights import PER_IMAGE
from pyro_vlae.plots import plot_reconstructions, plot_samples, plot_training, save_figure
from pyro_vlae.reproducible import write_atomically, write_json
from pyro_vlae.training import (
    Checkpoint,
    TrainingInterrupted,
    TrainingResult,
    fit,
    has_checkpoint,
    own_folder,
    read_checkpoint,
)

# Fixes the scored test images and their importance samples, independently of the run's seed, so
# that the scores of different runs can be paired.
EVALUATION_SEED = 0


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM outside of the training steps, such as during scoring.

    Args:
        folder: the folder of the run, which can be resumed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("interrupted")
        self.folder = folder


def run(
    recipe: Recipe, data: ImageDataset, out: str | Path, resume: bool = False
) -> dict[str, Any]:
    """Train (or continue training), plot, and score; return the content of ``results.json``.

    In a process group of `torch.distributed`, the ranks train and score together, and rank 0 alone
    plots and writes.

    Args:
        recipe: the settings.
        data: the data set, on the device to train on.
        out: folder for ``config.json``, ``metrics.jsonl``, ``checkpoint/``, figures, ``scores.npz``
            (per image), and ``results.json``. It belongs to this process until the run ends.
        resume: continue from the checkpoint in `out`, if there is one. A run that was interrupted
            while scoring goes on scoring; a finished one is plotted again, but not scored again.

    Raises:
        CheckpointError: another process uses the folder, it cannot be written, or a file in it is
            damaged.
        ConfigError: the data set does not fit the recipe, or is not the one that the run was
            trained on, or the folder holds another run.
        TrainingInterrupted: Ctrl-C or SIGTERM during training, after a checkpoint was saved.
        RunInterrupted: Ctrl-C (in scripts, also SIGTERM) before or after training.
        ValueError: there is no budget, or a setting is out of range.
    """
    out = Path(out)
    recipe.check(data)
    # All three raise errors, before there is a folder.
    recipe.training_settings()
    recipe.optimizer()
    data = recipe.augmented(data)
    try:
        with own_folder(out):
            return _run(recipe, data, out, resume)
    except TrainingInterrupted:
        raise
    except KeyboardInterrupt as error:
        raise RunInterrupted(out) from error


def _run(recipe: Recipe, data: ImageDataset, out: Path, resume: bool) -> dict[str, Any]:
    if resume and (out / "config.json").exists() and not has_checkpoint(out):
        print(f"{out} has no checkpoint yet: training starts from the beginning")
    _refuse_folder(out, resume)
    before = read_checkpoint(out / "checkpoint") if has_checkpoint(out) else None
    if before is not None:
        _refuse_other_data(before, data, out)
        step, seen = before.state["step"], before.state["images_seen"]
        print(f"resuming at step {step}, {seen:,} {recipe.values.item}s seen", flush=True)
    device = data.train.images.device
    pyro.set_rng_seed(recipe.seed)
    model, guide = (module.to(device) for module in recipe.build())
    if before is None:
        if recipe.start_from is not None:
            start_from(recipe, model, guide)
        _write_config(recipe, out)
    validated = recipe.train_on == "train"
    try:
        result = fit(
            model,
            guide,
            data.train if validated else data.train_validation,
            elbo=recipe.objective(data.train.images[0].numel()),
            optimizer=recipe.optimizer(),
            settings=recipe.training_settings(),
            validation=data.validation if validated else None,
            out=out,
            resume=before or False,
            config={**recipe.to_config(), DATA: data.description},
            precision=recipe.precision,
            compile=recipe.compile,
        )
    except TrainingInterrupted:
        if rank() == 0:
            write_json(out / "config.json", recipe.to_config())  # keep a new budget
        raise
    if before is not None and result.step == before.state["step"]:
        # There was nothing left to train: record the budget that was used.
        print(f"already trained for {result.step:,} steps, {result.seconds / 60:.1f} minutes")
        recipe = replace(recipe, **{name: before.state["config"][name] for name in BUDGET})
    if rank() == 0:
        write_json(out / "config.json", recipe.to_config())
    finished = from_rank_0(_finished(recipe, result, out))
    index = evaluation_index(data.test, recipe.eval_images)
    model.eval(), guide.eval()  # without dropout
    partial = out / "scores.partial.npz"
    with torch.no_grad(), pyro.validation_enabled(False):
        if rank() == 0:
            _plot(recipe, data, model, guide, recipe.pictured(data.test, index), result, out)
        if finished is not None:
            print(f"already scored: {out / 'results.json'}")
            return finished
        score, more = recipe.score(model, guide, data.test, index, EVALUATION_SEED, partial)
    results = {
        **recipe.to_config(),
        DATA: data.description,
        **score.summary(),
        **more,
        "train_images_seen": result.images_seen,
        "train_seconds": round(result.seconds, 1),
        "precision": result.precision,
        "world_size": world_size(),
        **_provenance(device),
    }
    if rank() == 0:
        _write_scores(out / "scores.npz", index, score)
        write_json(out / "results.json", results)
    results = from_rank_0(results)  # when the files are there
    file_of_rank(partial).unlink(missing_ok=True)
    return results


def _finished(recipe: Recipe, result: TrainingResult, out: Path) -> dict[str, Any] | None:
    """The content of ``results.json`` if this version wrote it for these weights and settings."""
    try:
        results = read_results(out / "results.json")
    except (OSError, ValueError):
        return None  # none, or damaged: it is written anew
    made_with = {
        **json.loads(json.dumps(recipe.to_config())),
        "precision": result.precision,
        "train_images_seen": result.images_seen,
        "versions": _versions(),
    }
    complete = (out / "scores.npz").exists() and made_with.items() <= results.items()
    return results if complete else None


def evaluation_index(split: Sized, count: int | None) -> Tensor:
    """The first `count` indices (None: all) of a fixed permutation of a split."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    return torch.randperm(len(split), generator=generator, device="cpu")[:count]


def _refuse_folder(out: Path, resume: bool) -> None:
    """Refuse the folder of another run."""
    begun = has_checkpoint(out)
    if not begun and (out / "results.json").exists():
        raise ConfigError(
            f"{out} holds the results of a run, but no checkpoint to resume: move them away, "
            "or choose another folder"
        )
    if begun and not resume:
        raise ConfigError(
            f"{out} already holds a run: continue it (--resume, in Python resume=True), or choose "
            "another folder"
        )


def _write_config(recipe: Recipe, out: Path) -> None:
    """Write the ``config.json`` of a new run."""
    try:
        if rank() == 0:
            write_json(out / "config.json", recipe.to_config())
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot write to {out} ({reason}): choose another folder") from error


def _refuse_other_data(checkpoint: Checkpoint, data: ImageDataset, out: Path) -> None:
    """Raise a `ConfigError` unless the run of a checkpoint was trained on these data."""
    trained_on = checkpoint.state["config"].get(DATA)  # older runs do not record it
    if trained_on not in (None, data.description):
        raise ConfigError(
            f"the run in {out} was trained on other data: {trained_on}; now they are "
            f"{data.description}: resume it with the same data, or choose another folder"
        )


def _plot(
    recipe: Recipe,
    data: ImageDataset,
    model: nn.Module,
    guide: nn.Module,
    x: Tensor,
    result: TrainingResult,
    out: Path,
) -> None:
    """Write ``samples.png``, ``reconstructions.png`` (32 images), and ``training.png``."""
    title = run_title(recipe, result.images_seen)
    show = data.values.to_unit_range
    pyro.set_rng_seed(recipe.seed)
    samples = plot_samples(show(model(batch_size=64)), f"Samples: {title}")
    save_figure(samples, out / "samples.png")
    if recipe.has_code:
        pairs = show(x), show(reconstruct(model, guide, x))
        caption = f"Test {data.values.item}s and one decompression each: {title}"
        save_figure(plot_reconstructions(*pairs, caption), out / "reconstructions.png")
    dimensions = x[0].numel() if data.values.unit == "bits/dim" else None
    if result.history:  # none if metrics.jsonl was moved away
        save_figure(plot_training(result.history, title, dimensions), out / "training.png")


def run_title(recipe: Recipe, images_seen: int) -> str:
    """A run's data set, model, and training, for the titles of its figures."""
    objective = recipe.describe_objective()
    training = [f"{images_seen:,} training {recipe.values.item}s seen"]
    training += [objective] if objective != "ELBO" else []
    training += [f"starting from {Path(recipe.start_from).name}"] if recipe.start_from else []
    parts = f"{recipe.dataset_name}, {recipe.describe_parts()}"
    return f"{parts}\n{', '.join(training)}, seed {recipe.seed}"


def _write_scores(path: Path, index: Tensor, score: MarginalLikelihood) -> None:
    arrays = {name: getattr(score, name).numpy() for name in PER_IMAGE}
    buffer = io.BytesIO()
    numpy.savez_compressed(buffer, test_index=index.numpy(), **arrays)
    write_atomically(path, buffer.getvalue())


def _provenance(device: torch.device) -> dict[str, Any]:
    """The device, versions, and command that produced the results."""
    threads = torch.get_num_threads()
    name = f"{device.type} ({threads} thread{'s' * (threads > 1)})"
    if device.type == "cuda":
        name = f"cuda ({torch.cuda.get_device_name(device)})"
    return {"device": name, "versions": _versions(), "command": command()}


def _versions() -> dict[str, str]:
    return {
        "pyro_vlae": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": numpy.__version__,
    }


def command() -> str:
    """The command line of this process, as it can be repeated."""
    return f"{program()} {shlex.join(sys.argv[1:])}".rstrip()


def program() -> str:
    """How this process was called: ``pyro-vlae COMMAND``, or ``python SCRIPT``."""
    called = sys.argv[0]
    return called if called.startswith("pyro-vlae ") else shlex.join(["python", called])
