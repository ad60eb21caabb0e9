"""One run: train, plot, score, and write it all to a folder."""

import io
import platform
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vlae._version import __version__
from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.recipes import BUDGET, ConfigError, Recipe
from pyro_vlae.infer import MarginalLikelihood, marginal_log_likelihood
from pyro_vlae.infer.weights import PER_IMAGE
from pyro_vlae.plots import plot_reconstructions, plot_samples, plot_training, save_figure
from pyro_vlae.reproducible import write_atomically, write_json
from pyro_vlae.training import TrainingInterrupted, TrainingResult, fit, has_checkpoint, read_state

# Fixes which test images are scored when not all are, and the importance samples of each.
EVALUATION_SEED = 0


def run(recipe: Recipe, data: ImageDataset, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train (or continue training), plot and score; returns the content of ``results.json``.

    Args:
        recipe: what to do.
        data: its data set, on the device to train on.
        out: folder for ``config.json``, ``metrics.jsonl``, ``checkpoint/``, pictures,
            ``scores.npz`` (per image) and ``results.json``.
        resume: continue from the checkpoint in `out`, if there is one by now.

    Raises:
        ConfigError: the data do not suit the recipe, or the folder cannot be used.
    """
    if data.values != recipe.values:
        raise ConfigError(
            f"{data.name} has {data.values.name} values, models of the family {recipe.family!r} "
            f"take {recipe.values.name} ones: choose another data set or family"
        )
    _prepare_folder(recipe, out, resume)
    device = data.train.images.device
    pyro.set_rng_seed(recipe.seed)
    model, guide = (module.to(device) for module in recipe.build())
    optimizer = recipe.optimizer()
    before = read_state(out / "checkpoint") if resume and has_checkpoint(out) else None
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
        write_json(out / "config.json", recipe.to_config())  # a new budget holds from here on
        raise
    if before is not None and result.step == before["step"]:
        # Nothing was left to train: the record keeps the budget that was used.
        print(f"already trained for {result.step:,} steps, {result.seconds / 60:.1f} minutes")
        recipe = replace(recipe, **{name: before["config"][name] for name in BUDGET})
    write_json(out / "config.json", recipe.to_config())
    # The same images and the same importance samples whatever the seed: scores can be paired.
    index = evaluation_index(len(data.test), recipe.eval_images)
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
        **provenance(device),
    }
    write_json(out / "results.json", results)
    return results


def _prepare_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    """Make a new run's folder and write its ``config.json``; leave that of a resumed run alone."""
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
    """Write ``samples.png``, ``reconstructions.png`` (of the first x) and ``training.png``."""
    title = f"{recipe.dataset}, {result.images_seen:,} training images seen"
    to_unit_range = data.values.to_unit_range
    pyro.set_rng_seed(recipe.seed)
    samples = to_unit_range(model(batch_size=64))
    save_figure(plot_samples(samples, f"Samples: {title}"), out / "samples.png")
    if recipe.has_code:
        figure = plot_reconstructions(
            to_unit_range(x[:32]),
            to_unit_range(decompress(model, guide, x[:32])),
            f"Test images and one decompression each: {title}",
        )
        save_figure(figure, out / "reconstructions.png")
    bits_per_dim = x[0].numel() if data.values.unit == "bits/dim" else None
    save_figure(plot_training(result.history, title, bits_per_dim), out / "training.png")


def _write_scores(path: Path, index: Tensor, score: MarginalLikelihood) -> None:
    arrays = {name: getattr(score, name).numpy() for name in PER_IMAGE}
    buffer = io.BytesIO()
    numpy.savez_compressed(buffer, test_index=index.numpy(), **arrays)
    write_atomically(path, buffer.getvalue())


def evaluation_index(size: int, count: int | None) -> Tensor:
    """The first `count` indices of a fixed permutation of a test set; all of them for None."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    return torch.randperm(size, generator=generator)[:count]


def decompress(model: nn.Module, guide: nn.Module, x: Tensor) -> Tensor:
    """One random decompression of each image: ``z ~ q(z | x)``, ``x' ~ p(x | z)``."""
    codes = poutine.trace(guide).get_trace(x)
    return poutine.replay(poutine.uncondition(model), trace=codes)(x)


def provenance(device: torch.device) -> dict[str, Any]:
    """What results say about where they come from: device, versions and command."""
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
