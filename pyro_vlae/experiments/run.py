"""One run of the main job: train, score, draw, and write it all to a folder.

The scripts in ``examples/`` build a model and a guide and hand them over; what a run needs to be
repeated or resumed stands in its ``config.json``.
"""

import io
import platform
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vlae._version import __version__
from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.config import ConfigError, TrainingConfig
from pyro_vlae.infer import JointOptim, MarginalLikelihood, marginal_log_likelihood
from pyro_vlae.infer.weights import PER_IMAGE
from pyro_vlae.plots import plot_reconstructions, plot_samples, plot_training, save_figure
from pyro_vlae.reproducible import write_atomically, write_json
from pyro_vlae.training import TrainingInterrupted, TrainingResult, fit
from pyro_vlae.training.checkpoint import has_checkpoint, read_state

# Fixes which test images are scored when not all are, and the importance samples of each.
EVALUATION_SEED = 0


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "pyro_vlae": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": numpy.__version__,
    }


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def provenance(device: torch.device) -> dict[str, Any]:
    """What a file of results says about where its numbers come from."""
    return {
        "device": device_name(device),
        "versions": versions(),
        "command": shlex.join(["python", *sys.argv]),
    }


def prepare_folder(config: TrainingConfig, out: Path, resume: bool) -> None:
    """Make a new run's folder and write its ``config.json``; a resumed run's is left alone.

    Raises:
        ConfigError: the folder holds a run already (and resume is not set), or the results of one
            whose checkpoint is gone, or cannot be written.
    """
    if not has_checkpoint(out) and (out / "results.json").exists():
        raise ConfigError(
            f"{out} holds the results of a run, but no checkpoint to go on with: move them away, "
            "or choose another folder"
        )
    if not resume and has_checkpoint(out):
        raise ConfigError(
            f"{out} already holds a run: add --resume to continue it, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not has_checkpoint(out):
            write_json(out / "config.json", asdict(config))
    except OSError as error:
        raise ConfigError(
            f"cannot write to {out} ({error.strerror or error}): choose another --out"
        ) from error


def run(
    config: TrainingConfig,
    data: ImageDataset,
    model: nn.Module,
    guide: nn.Module,
    out: Path,
    resume: bool = False,
) -> dict[str, Any]:
    """Train (or go on training), draw the figures and score; returns what ``results.json`` holds.

    Args:
        config: what to do; `prepare_folder` has been called with it.
        data: images on the device to train on; model and guide are there too.
        model: a Pyro model with sites ``"z"`` and ``"x"``.
        guide: its guide.
        out: folder for ``metrics.jsonl``, ``checkpoint/``, pictures, ``scores.npz`` (per image)
            and ``results.json``.
        resume: go on from the checkpoint in `out`, if there is one by now.
    """
    optimizer = JointOptim(
        torch.optim.Adamax,
        {"lr": config.learning_rate},
        clip_norm=config.clip_norm * config.batch_size,
        ema_decay=config.ema_decay,
    )
    validated = config.train_on == "train"
    trained, kept = None, None
    begun = resume and has_checkpoint(out)
    if begun:
        state = read_state(out / "checkpoint")
        trained, kept = state["step"], state["config"]
    try:
        result = fit(
            model,
            guide,
            data.train if validated else data.train_validation,
            elbo=config.elbo(data.train.images[0].numel()),
            optimizer=optimizer,
            settings=config.training_settings(),
            validation=data.validation if validated else None,
            out=out,
            resume=begun,
            config=asdict(config),
        )
    except TrainingInterrupted:
        write_json(out / "config.json", asdict(config))  # a new budget holds from here on
        raise
    if kept is not None and result.step == trained:
        # Nothing was left to train: the record keeps the budget that was used.
        print(f"already trained for {trained:,} steps, {result.seconds / 60:.1f} minutes")
        config = replace(config, epochs=kept["epochs"], max_minutes=kept["max_minutes"])
    write_json(out / "config.json", asdict(config))
    # The same images and the same draws whatever the seed: scores of two models can be paired.
    index = shuffled(len(data.test), config.eval_images)
    x = data.test.batch(index)
    with optimizer.averaged(), torch.no_grad(), pyro.validation_enabled(False):
        draw_figures(config, data, model, guide, x, result, out)
        score = marginal_log_likelihood(
            model,
            guide,
            x,
            config.num_samples,
            seed=EVALUATION_SEED,
            image_index=index,
            progress=True,
        )
    _write_scores(out / "scores.npz", index, score)
    results = summarize(config, data, score, result, x.device)
    write_json(out / "results.json", results)
    return results


def _write_scores(path: Path, index: Tensor, score: MarginalLikelihood) -> None:
    arrays = {name: getattr(score, name).numpy() for name in PER_IMAGE}
    buffer = io.BytesIO()
    numpy.savez_compressed(buffer, test_index=index.numpy(), **arrays)
    write_atomically(path, buffer.getvalue())


def draw_figures(
    config: TrainingConfig,
    data: ImageDataset,
    model: nn.Module,
    guide: nn.Module,
    x: Tensor,
    result: TrainingResult,
    out: Path,
) -> None:
    """Write ``samples.png``, ``reconstructions.png`` (of the first x) and ``training.png``."""
    show = data.values.to_unit_range
    named = f"{config.dataset}, {result.images_seen:,} training images seen"
    pyro.set_rng_seed(config.seed)
    samples = model(batch_size=64)
    save_figure(plot_samples(show(samples), f"Samples: {named}"), out / "samples.png")
    if config.has_code:
        figure = plot_reconstructions(
            show(x[:32]),
            show(decompress(model, guide, x[:32])),
            f"Test images and one decompression each: {named}",
        )
        save_figure(figure, out / "reconstructions.png")
    save_figure(plot_training(result.history, named), out / "training.png")


def shuffled(size: int, count: int | None) -> Tensor:
    """The first so many (None: all) of the indices of a test set, in a fixed random order."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    return torch.randperm(size, generator=generator)[:count]


def decompress(model: nn.Module, guide: nn.Module, x: Tensor) -> Tensor:
    """One random decompression of each image: ``z ~ q(z | x)``, ``x' ~ p(x | z)``."""
    codes = poutine.trace(guide).get_trace(x)
    return poutine.replay(poutine.uncondition(model), trace=codes)(x)


def color_error(originals: Tensor, decompressions: Tensor) -> Tensor:
    """How far off the mean color of each decompression is: ``(N,)``, in levels of 0 to 255.

    The absolute difference of an image's mean red to that of its decompression, likewise green and
    blue, averaged over the three.

    Args:
        originals: ``(N, 3, H, W)`` in [-1, 1].
        decompressions: one for each original.
    """
    return 127.5 * (originals - decompressions).mean((-2, -1)).abs().mean(-1)


def summarize(
    config: TrainingConfig,
    data: ImageDataset,
    score: MarginalLikelihood,
    result: TrainingResult,
    device: torch.device,
) -> dict[str, Any]:
    """The content of ``results.json``; nats per image, except where the name says otherwise."""
    return {
        **asdict(config),
        "dataset_description": data.description,
        **score.summary(),
        "train_images_seen": result.images_seen,
        "train_seconds": round(result.seconds, 1),
        **provenance(device),
    }
