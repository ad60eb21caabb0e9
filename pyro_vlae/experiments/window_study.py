"""How the decoder's window determines what the code holds: one run per window, equal budgets.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, sections 3.1 and 4.3.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro
from torch import Tensor

from pyro_vlae.analysis import code_marginals, compare_models, linear_probe
from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.options import ConfigError
from pyro_vlae.experiments.pretrained import load_run
from pyro_vlae.experiments.recipes import Recipe, read_recipe
from pyro_vlae.experiments.run import EVALUATION_SEED, evaluation_index
from pyro_vlae.infer import reconstruct
from pyro_vlae.infer.distributed import rank
from pyro_vlae.nn.two_stack import window_layers
from pyro_vlae.reproducible import write_json
from pyro_vlae.training import has_checkpoint

_BATCH_SIZE = 64
_IMAGE_SIZE = 28


def recipe_of_window(
    kind: type[Recipe], out: Path, resume: bool, given: Mapping[str, Any]
) -> Recipe:
    """The recipe of one run of a study, which is in a folder of the study's.

    Args:
        kind: class of the recipe.
        out: folder of the run.
        resume: whether a run that is in the folder may be continued.
        given: fields of the recipe, None for their defaults.

    Raises:
        ConfigError: the folder holds a run, which is not to be continued, or has other fields.
    """
    if not has_checkpoint(out):
        return kind.from_options(**given)
    if not resume:
        raise ConfigError(
            f"{out.parent} already holds a study: add --resume to continue it, or choose another "
            "--out"
        )
    steps = read_recipe(out).max_steps
    if given.get("max_steps") not in (None, steps):
        raise ConfigError(
            f"the run in {out} was made for {steps} steps, got {given['max_steps']}: give the "
            "number of images or steps that the study was started with, or choose another --out"
        )
    return kind.resume(out, **given)


def window_options(window: str, images: int, free_nats: float) -> dict[str, Any]:
    """The fields of a `BinaryRecipe` for one run of a study.

    There are free bits during the first half of training, so that every model learns to use its
    code, and none during the second half, so that a code that is not needed can collapse.

    Args:
        window: ``"AxB"``, ``"none"`` for a factorized decoder, or ``"all"`` for all earlier pixels.
        images: training images to see, counting repetitions.
        free_nats: free bits during the first half, in nats per image.

    Raises:
        ValueError: no network has this window.
    """
    decoder = {"likelihood": "bernoulli"}
    if window != "none":
        # A window with all columns must have as many rows as the image.
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


def probe_run(
    out: Path, data: ImageDataset, probe_images: int, shown: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Fit a linear probe from the codes of a finished run to the labels, and decompress images.

    Args:
        out: folder of the run; the probe's accuracy is added to its ``results.json``.
        data: labeled images.
        probe_images: number of training images to fit the probe to, and at most as many test
            images to measure its accuracy on.
        shown: images to decompress.

    Returns:
        The content of ``results.json``, with ``probe`` (the accuracy) and ``probe_error`` (its
        standard error), and one decompression of each shown image.

    Raises:
        ValueError: the data set has no labels.
    """
    model, guide = (module.to(shown.device) for module in load_run(out))
    codes, labels = [], []
    for split in (data.train.binarize(EVALUATION_SEED), data.test):
        chosen = split.take(evaluation_index(split, probe_images))
        if chosen.labels is None:
            raise ValueError(f"{data.name} has no labels for the probe: use mnist or digits")
        codes.append(code_marginals(guide, chosen.batch(slice(None))).mean)
        labels.append(chosen.labels)
    probe = linear_probe(codes[0], labels[0], codes[1], labels[1])
    card: Any = model.card
    accuracy = {"probe": probe.accuracy, "probe_error": probe.standard_error}
    results = {**card["results"], **accuracy}
    if rank() == 0:
        write_json(out / "results.json", results)
    pyro.set_rng_seed(card["config"]["seed"])
    return results, reconstruct(model, guide, shown)


def window_rows(results: Mapping[str, Mapping[str, Any]], out: Path) -> list[dict[str, Any]]:
    """The rows for `pyro_vlae.plots.plot_window_study`.

    Args:
        results: content of ``results.json``, by window.
        out: folder with a run folder for each window, whose scores are paired.
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
