"""One run of the main job: train, score, draw, and write it all to a folder.

The scripts in ``examples/`` build a model and a guide and hand them over; what a run needs to be
repeated or resumed stands in its ``config.json``.
"""

import json
import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vlae._version import __version__
from pyro_vlae.data import ImageDataset, ImageSplit
from pyro_vlae.figures import plot_reconstructions, plot_samples, plot_training, save_figure
from pyro_vlae.infer import FreeBitsELBO, JointOptim, MarginalLikelihood, marginal_log_likelihood
from pyro_vlae.run_config import ConfigError, RunConfig
from pyro_vlae.training import TrainingResult, fit
from pyro_vlae.training.tensor_files import write_atomically

# Free bits of the paper: nats per data dimension.
FREE_NATS_PER_DIMENSION = 0.01


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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def prepare_folder(config: RunConfig, out: Path, resume: bool) -> None:
    """Make the run's folder and write its ``config.json``.

    Raises:
        ConfigError: the folder holds a run already (and resume is not set) or cannot be written.
    """
    if not resume and (out / "config.json").exists():
        raise ConfigError(
            f"{out} already holds a run: add --resume to continue it, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_json(out / "config.json", asdict(config))
    except OSError as error:
        raise ConfigError(
            f"cannot write to {out} ({error.strerror or error}): choose another --out"
        ) from error


def run(
    config: RunConfig,
    data: ImageDataset,
    model: nn.Module,
    guide: nn.Module,
    out: Path,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train (or go on training), draw the figures and score; returns what ``results.json`` holds.

    Args:
        config: what to do; `prepare_folder` has been called with it.
        data: images on the device to train on; model and guide are there too.
        model: a Pyro model with sites ``"z"`` and ``"x"``.
        guide: its guide.
        out: folder for ``metrics.jsonl``, ``checkpoint/``, pictures and ``results.json``.
        resume: go on from the checkpoint in `out`.
        progress: show progress bars.
    """
    optimizer = JointOptim(
        torch.optim.Adamax,
        {"lr": config.learning_rate},
        clip_norm=config.clip_norm * config.batch_size,
        ema_decay=config.ema_decay,
    )
    dimensions = data.train.images[0].numel()
    validated = config.train_on == "train"
    result = fit(
        model,
        guide,
        data.train if validated else data.train_validation,
        elbo=FreeBitsELBO(FREE_NATS_PER_DIMENSION * dimensions),
        optimizer=optimizer,
        settings=config.training_settings(),
        validation=data.validation if validated else None,
        out=out,
        resume=resume,
        config=asdict(config),
        progress=progress,
    )
    test = data.test
    test = test.subset(min(config.eval_images or len(test), len(test)), config.seed)
    with optimizer.averaged(), torch.no_grad(), pyro.validation_enabled(False):
        draw_figures(config, model, guide, test, result, out)
        x = test.draw(slice(None))
        score = marginal_log_likelihood(
            model, guide, x, config.num_samples, seed=config.seed, progress=progress
        )
    results = summarise(config, data, score, result, x.device)
    _write_json(out / "results.json", results)
    return results


def draw_figures(
    config: RunConfig,
    model: nn.Module,
    guide: nn.Module,
    test: ImageSplit,
    result: TrainingResult,
    out: Path,
) -> None:
    """Write ``samples.png``, ``reconstructions.png`` and ``training.png``."""
    named = f"{config.dataset}, {result.images_seen:,} training images seen"
    pyro.set_rng_seed(config.seed)
    samples = model(batch_size=64)
    save_figure(plot_samples(samples.cpu(), f"Samples: {named}"), out / "samples.png")
    originals = test.draw(slice(0, min(32, len(test))))
    figure = plot_reconstructions(
        originals.cpu(),
        decompress(model, guide, originals).cpu(),
        f"Test images and one decompression each: {named}",
    )
    save_figure(figure, out / "reconstructions.png")
    save_figure(plot_training(result.history, named), out / "training.png")


def decompress(model: nn.Module, guide: nn.Module, x: Tensor) -> Tensor:
    """One random decompression of each image: ``z ~ q(z | x)``, ``x' ~ p(x | z)``."""
    codes = poutine.trace(guide).get_trace(x)
    return poutine.replay(poutine.uncondition(model), trace=codes)(x)


def summarise(
    config: RunConfig,
    data: ImageDataset,
    score: MarginalLikelihood,
    result: TrainingResult,
    device: torch.device,
) -> dict[str, Any]:
    """The content of ``results.json``; nats per image, except where the name says otherwise."""
    chosen = ("dataset", "seed", "preset", "prior", "guide", "likelihood", "tied", "train_on")
    return {
        **{name: getattr(config, name) for name in chosen},
        "dataset_description": data.description,
        **score.summary(),
        "train_images_seen": result.images_seen,
        "train_seconds": round(result.seconds, 1),
        "device": device_name(device),
        "versions": versions(),
        "command": shlex.join(["python", *sys.argv]),
    }
