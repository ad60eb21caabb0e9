"""How the decoder's window decides what the code holds: equal budgets, one run for each window.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, sections 2.3 and 4.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vlae.analysis import code_marginals
from pyro_vlae.analysis.probe import linear_probe
from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.binary import BinaryRecipe
from pyro_vlae.experiments.pretrained import load_run
from pyro_vlae.experiments.run import EVALUATION_SEED, decompress, evaluation_index, run
from pyro_vlae.nn.two_stack import window_layers
from pyro_vlae.plots import plot_rate_distortion
from pyro_vlae.plots.pictures import as_pictures, place
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


@dataclass(frozen=True)
class WindowResult:
    """What `plot_window_study` shows of a run; nats per image.

    Attributes:
        window: its name.
        nll: test NLL, importance-sampled.
        nll_error: its standard error, from having so many test images only.
        rate: KL(q(z | x) || p(z)).
        distortion: -E log p(x | z).
        probe: accuracy of a linear probe of the codes' means.
        probe_error: its standard error.
    """

    window: str
    nll: float
    nll_error: float
    rate: float
    distortion: float
    probe: float
    probe_error: float


def window_result(window: str, results: dict[str, Any]) -> WindowResult:
    """What a figure shows of the ``results.json`` of one window."""
    return WindowResult(
        window=window,
        nll=results["nll_nats"],
        nll_error=results["nll_standard_error"],
        rate=results["kl_nats"],
        distortion=-results["elbo_nats"] - results["kl_nats"],
        probe=results["probe"],
        probe_error=results["probe_error"],
    )


def plot_window_study(
    originals: Tensor,
    decompressions: Sequence[Tensor],
    results: Sequence[WindowResult],
    title: str | None = None,
) -> Figure:
    """One figure of a study: decompressions of the same images, and what the codes cost and hold.

    Args:
        originals: ``(N, C, H, W)`` in [0, 1].
        decompressions: likewise, one tensor for each window.
        results: one for each window, in the same order.
        title: heading of the figure.

    Raises:
        ValueError: not one tensor of decompressions, in the originals' shape, for each result.
    """
    if len(decompressions) != len(results) or any(
        d.shape != originals.shape for d in decompressions
    ):
        raise ValueError(
            f"expected one tensor of decompressions of shape {tuple(originals.shape)} for each of "
            f"the {len(results)} results, got {[tuple(d.shape) for d in decompressions]}"
        )
    names = ["original", *(result.window for result in results)]
    rows = [as_pictures(images, "images") for images in (originals, *decompressions)]
    figure = Figure(figsize=(12, 0.62 * len(rows) + 4.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[0.62 * len(rows) + 0.3, 4.1])
    top, bottom = parts
    axes = top.subplots()
    axes.axis("off")
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
        axes.text(-0.15, k + 0.5, name, ha="right", va="center", fontsize=10)
        place(axes, row, [(float(n), float(k)) for n in range(len(row))])
    axes.set_xlim(-1.5, len(originals))
    axes.set_ylim(len(rows), 0)
    axes.set_aspect("equal")
    plane, probe, nll = bottom.subplots(1, 3)
    runs = {r.window: {"kl_nats": r.rate, "elbo_nats": -r.rate - r.distortion} for r in results}
    plot_rate_distortion(runs, plane)
    positions = range(len(results))
    for panel, values, errors, label in (
        (
            probe,
            [100 * r.probe for r in results],
            [100 * r.probe_error for r in results],
            "accuracy of a linear probe, %",
        ),
        (nll, [r.nll for r in results], [r.nll_error for r in results], "test NLL, nats"),
    ):
        panel.errorbar(positions, values, errors, fmt="o", color="k", capsize=3, ms=5)
        panel.set_xticks(positions, [r.window for r in results], rotation=30, ha="right")
        panel.set_ylabel(label)
        panel.set_xlabel("window of the decoder")
        panel.margins(x=0.1)
        _tidy(panel)
    if title:
        figure.suptitle(title)
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(color="0.92", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
