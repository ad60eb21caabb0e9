"""How the decoder's window decides what the code holds: equal budgets, one run for each window.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, sections 2.3 and 4.3.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vlae.analysis import code_marginals, compare_models, linear_probe
from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.binary import BinaryRecipe
from pyro_vlae.experiments.pretrained import load_run
from pyro_vlae.experiments.run import EVALUATION_SEED, decompress, evaluation_index, run
from pyro_vlae.nn.two_stack import window_layers
from pyro_vlae.reproducible import write_json

PICTURES = 8
_BATCH_SIZE = 64
_IMAGE_SIZE = 28


def window_options(window: str, images: int, free_nats: float) -> dict[str, Any]:
    """The fields of a `BinaryRecipe` for one run of a study.

    Free bits hold in the first half of the training, so that every model finds out what a code is
    good for, and not in the second, so that a code that is not needed can collapse.

    Args:
        window: ``"AxB"``, ``"none"`` for a factorized decoder, or ``"all"`` for one that sees all
            earlier pixels.
        images: training images to see, repetitions counted.
        free_nats: free bits of the first half, nats per image.

    Raises:
        ValueError: no network has this window.
    """
    decoder = {"likelihood": "bernoulli"}
    if window != "none":
        # As many columns to the left as there are, hence more rows than there are.
        everything = f"{2 * _IMAGE_SIZE - 1}x{_IMAGE_SIZE}"
        decoder = {"window": everything if window == "all" else window}
        window_layers(decoder["window"])
    return {
        **decoder,
        "max_steps": max(2, images // _BATCH_SIZE),
        "batch_size": _BATCH_SIZE,
        "learning_rate": 0.004,
        "free_nats": free_nats,
        "free_until": 0.5,
    }


def study_window(
    recipe: BinaryRecipe, data: ImageDataset, out: Path, resume: bool, probe_images: int
) -> tuple[dict[str, Any], Tensor]:
    """Run (or resume) one window, and probe its codes for the labels.

    Args:
        recipe: with the fields of `window_options`.
        data: labeled images, on the device to train on.
        out: folder of the run.
        resume: as in `pyro_vlae.experiments.run`.
        probe_images: training images whose codes the linear probe is fitted to; it is tested on
            as many test images, or all there are.

    Returns:
        The content of ``results.json``, with ``probe`` (accuracy) and ``probe_error`` (its standard
        error), and a decompression of each of the first test images ``(8, C, H, W)``.

    Raises:
        ValueError: the data set has no labels, or the run cannot be made (see
            `pyro_vlae.experiments.run`).
    """
    if data.train.labels is None or data.test.labels is None:
        raise ValueError(f"{data.name} has no labels for the probe; use mnist or digits")
    results = run(recipe, data, out, resume)
    model, guide = (module.to(data.test.images.device) for module in load_run(out))
    codes, labels = [], []
    for split in (data.train.binarize(EVALUATION_SEED), data.test):
        chosen = split.take(evaluation_index(len(split), probe_images))
        assert chosen.labels is not None
        codes.append(code_marginals(guide, chosen.batch(slice(None))).mean)
        labels.append(chosen.labels)
    probe = linear_probe(codes[0], labels[0], codes[1], labels[1])
    results |= {"probe": probe.accuracy, "probe_error": probe.standard_error}
    write_json(out / "results.json", results)
    with torch.no_grad(), pyro.validation_enabled(False):
        pyro.set_rng_seed(recipe.seed)
        pictures = decompress(model, guide, first_test_images(data))
    return results, pictures


def first_test_images(data: ImageDataset) -> Tensor:
    """The test images that a study shows, ``(8, C, H, W)``."""
    return data.test.batch(evaluation_index(len(data.test), PICTURES))


def window_rows(results: Mapping[str, Mapping[str, Any]], out: Path) -> list[dict[str, Any]]:
    """What `pyro_vlae.plots.plot_window_study` shows of each window.

    Args:
        results: content of ``results.json``, by window.
        out: folder that holds a folder for each window; the scores in them are paired.
    """
    rows = [
        {
            "window": window,
            "nll": run["nll_nats"],
            "nll_error": run["nll_standard_error"],
            "rate": run["kl_nats"],
            "distortion": -run["elbo_nats"] - run["kl_nats"],
            "probe": run["probe"],
            "probe_error": run["probe_error"],
        }
        for window, run in results.items()
    ]
    if len(rows) > 1 and all(row["nll_error"] is not None for row in rows):
        scores = {window: out / window for window in results}
        compared = compare_models(scores, reference=rows[0]["window"])
        errors = {model.name: model.difference_error for model in compared.models}
        for row in rows:
            row["difference_error"] = errors[row["window"]]
    return rows
