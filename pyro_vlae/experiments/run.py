"""One run: train, plot, score, and write everything to a folder."""

import io
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
from pyro_vlae.experiments.recipes import BUDGET, ConfigError, Recipe
from pyro_vlae.infer import MarginalLikelihood, marginal_log_likelihood, reconstruct
from pyro_vlae.infer.weights import PER_IMAGE
from pyro_vlae.plots import plot_reconstructions, plot_samples, plot_training, save_figure
from pyro_vlae.reproducible import write_atomically, write_json
from pyro_vlae.training import TrainingInterrupted, TrainingResult, fit, has_checkpoint, read_state

# Fixes the scored test images and their importance samples, independently of the run's seed, so
# that the scores of different runs can be paired.
EVALUATION_SEED = 0


def run(
    recipe: Recipe, data: ImageDataset, out: str | Path, resume: bool = False
) -> dict[str, Any]:
    """Train (or continue training), plot, and score; return the content of ``results.json``.

    Args:
        recipe: the settings.
        data: the data set, on the device to train on.
        out: folder for ``config.json``, ``metrics.jsonl``, ``checkpoint/``, figures, ``scores.npz``
            (per image), and ``results.json``.
        resume: continue from the checkpoint in `out`, if there is one.

    Raises:
        ConfigError: the data set does not fit the recipe, or the folder cannot be used.
    """
    out = Path(out)
    recipe.check(data)
    _prepare_folder(recipe, out, resume)
    before = read_state(out / "checkpoint") if has_checkpoint(out) else None
    device = data.train.images.device
    pyro.set_rng_seed(recipe.seed)
    model, guide = (module.to(device) for module in recipe.build())
    optimizer = recipe.optimizer()
    validated = recipe.train_on == "train"
    try:
        result = fit(
            model,
            guide,
            data.train if validated else data.train_validation,
            elbo=recipe.objective(data.train.images[0].numel()),
            optimizer=optimizer,
            settings=recipe.training_settings(),
            validation=data.validation if validated else None,
            out=out,
            resume=before is not None,
            config=recipe.to_config(),
            precision=recipe.precision,
            compile=recipe.compile,
        )
    except TrainingInterrupted:
        write_json(out / "config.json", recipe.to_config())  # keep a new budget
        raise
    if before is not None and result.step == before["step"]:
        # There was nothing left to train: record the budget that was used.
        print(f"already trained for {result.step:,} steps, {result.seconds / 60:.1f} minutes")
        recipe = replace(recipe, **{name: before["config"][name] for name in BUDGET})
    write_json(out / "config.json", recipe.to_config())
    index = evaluation_index(data.test, recipe.eval_images)
    x = data.test.batch(index)
    with optimizer.averaged(), torch.no_grad(), pyro.validation_enabled(False):
        _plot(recipe, data, model, guide, x, result, out)
        score = marginal_log_likelihood(
            model,
            guide,
            x,
            recipe.num_samples,
            seed=EVALUATION_SEED,
            image_index=index,
            progress=True,
        )
    _write_scores(out / "scores.npz", index, score)
    results = {
        **recipe.to_config(),
        "dataset_description": data.description,
        **score.summary(),
        "train_images_seen": result.images_seen,
        "train_seconds": round(result.seconds, 1),
        "precision": result.precision,
        **_provenance(device),
    }
    write_json(out / "results.json", results)
    return results


def evaluation_index(split: Sized, count: int | None) -> Tensor:
    """The first `count` indices (None: all) of a fixed permutation of a split."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    return torch.randperm(len(split), generator=generator)[:count]


def _prepare_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    """Make a new run's folder and write its ``config.json``; leave a resumed run's unchanged."""
    begun = has_checkpoint(out)
    if not begun and (out / "results.json").exists():
        raise ConfigError(
            f"{out} holds the results of a run, but no checkpoint to resume: move them away, "
            "or choose another folder"
        )
    if begun and not resume:
        raise ConfigError(
            f"{out} already holds a run: add --resume to continue it, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not begun:
            write_json(out / "config.json", recipe.to_config())
    except OSError as error:
        raise ConfigError(
            f"cannot write to {out} ({error.strerror or error}): choose another --out"
        ) from error


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
    title = f"{data.name}, {result.images_seen:,} training images seen"
    show = data.values.to_unit_range
    pyro.set_rng_seed(recipe.seed)
    samples = plot_samples(show(model(batch_size=64)), f"Samples: {title}")
    save_figure(samples, out / "samples.png")
    if recipe.has_code:
        pairs = show(x[:32]), show(reconstruct(model, guide, x[:32]))
        figure = plot_reconstructions(*pairs, f"Test images and one decompression each: {title}")
        save_figure(figure, out / "reconstructions.png")
    dimensions = x[0].numel() if data.values.unit == "bits/dim" else None
    save_figure(plot_training(result.history, title, dimensions), out / "training.png")


def _write_scores(path: Path, index: Tensor, score: MarginalLikelihood) -> None:
    arrays = {name: getattr(score, name).numpy() for name in PER_IMAGE}
    buffer = io.BytesIO()
    numpy.savez_compressed(buffer, test_index=index.numpy(), **arrays)
    write_atomically(path, buffer.getvalue())


def _provenance(device: torch.device) -> dict[str, Any]:
    """The device, versions, and command that produced the results."""
    name = f"{device.type} ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        name = f"cuda ({torch.cuda.get_device_name(device)})"
    versions = {
        "pyro_vlae": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": numpy.__version__,
    }
    return {"device": name, "versions": versions, "command": shlex.join(["python", *sys.argv])}
