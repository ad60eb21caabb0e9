"""Paired comparison of models by log p(x) of the same images."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyro_vlae.infer import MarginalLikelihood
from pyro_vlae.reproducible import open_npz, read_json

Floats = npt.NDArray[np.float64]
Scores = MarginalLikelihood | Tensor | Floats | Sequence[float] | str | os.PathLike[str]


@dataclass(frozen=True)
class ComparedModel:
    """A row of a comparison; nats per image.

    Attributes:
        name: name of the model.
        mean_log_prob: mean of log p(x) over the common images.
        standard_error: standard error of that mean over the images.
        difference: mean paired difference of log p(x) from the reference: negative is worse.
        difference_error: standard error of that difference over the images.
        monte_carlo_error: the part of `difference_error` that more importance samples would remove,
            assuming independent errors of the two models; NaN if unknown.
        num_samples: importance samples per image; None if unknown.
    """

    name: str
    mean_log_prob: float
    standard_error: float
    difference: float
    difference_error: float
    monte_carlo_error: float
    num_samples: int | None


@dataclass(frozen=True)
class ModelComparison:
    """Models on the same images, best first; ``print`` shows a table.

    Attributes:
        models: one row each.
        reference: name of the model that the others are compared with.
        num_images: number of common images.
    """

    models: tuple[ComparedModel, ...]
    reference: str
    num_images: int

    def __str__(self) -> str:
        rows = [("model", "log p(x)", "difference", "Monte Carlo", "samples")]
        for model in self.models:
            difference, noise = "0", ""
            if model.name != self.reference:
                difference = f"{model.difference:+.2f} ± {model.difference_error:.2f}"
                if not math.isnan(model.monte_carlo_error):
                    noise = f"± {model.monte_carlo_error:.3f}"
            mean = f"{model.mean_log_prob:.2f} ± {model.standard_error:.2f}"
            rows.append((model.name, mean, difference, noise, str(model.num_samples or "")))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        title = (
            f"log p(x) in nats per image, {self.num_images} images; differences from "
            f"{self.reference}, ± standard errors"
        )
        return "\n".join([title, *lines])


def compare_models(scores: Mapping[str, Scores], reference: str | None = None) -> ModelComparison:
    """Compare models by the paired differences of their log p(x).

    Images differ far more from each other than models do, so over the same images a difference has
    a much smaller standard error than either mean.

    PSIS-LOO and WAIC, as in ``az.compare``, are wrong here: they reweight the posterior to leave
    one observation out, but each image has its own code, whose posterior without the image is the
    prior. The held-out quantity is log p(x) itself. Its estimate is biased downward, and more so
    with fewer importance samples: use the same number for all models.

    Args:
        scores: for each model name, the result of `pyro_vlae.infer.marginal_log_likelihood`, or
            log p(x) of each image ``(N,)`` in nats, for the same images in the same order; or, for
            all models, the folder of a run or its ``scores.npz``. Runs are paired by the index of
            the test image, on the images that all of them scored.
        reference: name of the model to compare the others with; the best model if None.

    Raises:
        ValueError: fewer than two models or two common images, different numbers of images, runs on
            different data sets, a damaged file, values that are not finite, or no such reference.
        FileNotFoundError: a run has no ``scores.npz``.

    Example:
        >>> print(compare_models({"2 hours": "results/static-mnist-vlae",
        ...                       "10 minutes": "results/static-mnist-quick"}))
    """
    if not isinstance(scores, Mapping):
        raise ValueError(
            f"expected scores by model name, such as {{'mine': 'runs/mine', ...}}, got a "
            f"{type(scores).__name__}"
        )
    if len(scores) < 2:
        raise ValueError(f"a comparison takes at least two models; got {list(scores)}")
    if reference is not None and reference not in scores:
        raise ValueError(f"reference is {reference!r}, expected one of {list(scores)}, or None")
    found = _on_common_images({name: _read(name, value) for name, value in scores.items()})
    if reference is None:
        reference = max(found, key=lambda name: found[name].log_prob.mean())
    against = found[reference]
    count = len(against.log_prob)
    rows = []
    for name, one in found.items():
        noise = np.zeros(count) if name == reference else np.hypot(one.noise, against.noise)
        monte_carlo_error = float(np.linalg.norm(noise)) / count
        estimates = *_mean(one.log_prob), *_mean(one.log_prob - against.log_prob)
        rows.append(ComparedModel(name, *estimates, monte_carlo_error, one.num_samples))
    rows.sort(key=lambda row: row.mean_log_prob, reverse=True)
    return ModelComparison(tuple(rows), reference, count)


def _mean(values: Floats) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


@dataclass(frozen=True, eq=False)
class _PerImage:
    """Log p(x) of each image, its Monte Carlo error (NaN if unknown), and the run's metadata."""

    log_prob: Floats
    noise: Floats
    num_samples: int | None = None
    index: list[int] | None = None
    dataset: str | None = None


def _read(name: str, scores: Scores) -> _PerImage:
    if isinstance(scores, str | os.PathLike):
        one = _read_run(Path(scores))
    elif isinstance(scores, MarginalLikelihood):
        noise = scores.monte_carlo_error.numpy()
        one = _PerImage(scores.log_prob.numpy(), noise, scores.num_samples)
    else:
        values = scores.detach().cpu().numpy() if isinstance(scores, Tensor) else scores
        log_prob = np.asarray(values, dtype=np.float64)
        one = _PerImage(log_prob, np.full(log_prob.shape, math.nan))
    if one.log_prob.ndim != 1:
        raise ValueError(
            f"the log-probabilities of {name!r} have shape {one.log_prob.shape}, expected (N,): "
            "one per image, summed over its pixels"
        )
    broken = np.flatnonzero(~np.isfinite(one.log_prob))
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {len(one.log_prob)} log-probabilities of {name!r} are not finite "
            f"(first: image {broken[0]}): leave these images out for all models"
        )
    return one


def _read_run(path: Path) -> _PerImage:
    """Read ``scores.npz`` and, if it exists, ``results.json`` beside it."""
    path = path / "scores.npz" if path.is_dir() else path
    results = path.with_name("results.json")
    names = "test_index", "log_prob", "monte_carlo_error"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: name the folder of a run that has been scored, or its "
            "scores.npz (weights that come with the package have none)"
        )
    content = path.read_bytes()
    try:
        with open_npz(io.BytesIO(content)) as file:
            index, log_prob, noise = (file[name] for name in names)
        numeric = (index.dtype.kind, log_prob.dtype.kind, noise.dtype.kind) == ("i", "f", "f")
        if not numeric:
            raise ValueError("expected integers and two arrays of floats")
    except Exception as error:  # of many kinds, from zipfile, zlib, and NumPy
        raise ValueError(
            f"cannot read {path} with {', '.join(names)} ({error}): restore it from a copy, or "
            "score the run again with --resume"
        ) from error
    num_samples, dataset = None, None
    if results.exists():
        about = read_json(results)
        if not {"num_samples", "dataset"} <= about.keys():
            raise ValueError(
                f"{results} does not hold the results of a run: restore it from a copy, or move it "
                "away and score the run again with --resume"
            )
        num_samples, dataset = about["num_samples"], about["dataset"]
    if not index.shape == log_prob.shape == noise.shape or len(set(index.flat)) < index.size:
        raise ValueError(
            f"{path}: test_index, log_prob, and monte_carlo_error have shapes {index.shape}, "
            f"{log_prob.shape} and {noise.shape}; expected one of each per image, each image once"
        )
    return _PerImage(log_prob, noise, num_samples, index.tolist(), dataset)


def _on_common_images(scores: dict[str, _PerImage]) -> dict[str, _PerImage]:
    """Return the same models on the images that all of them scored, in one order."""
    datasets = {name: one.dataset for name, one in scores.items() if one.dataset is not None}
    if len(set(datasets.values())) > 1:
        raise ValueError(f"the runs scored images of different data sets: {datasets}")
    sizes = {name: len(one.log_prob) for name, one in scores.items()}
    unpaired = sorted(name for name, one in scores.items() if one.index is None)
    if unpaired and len(unpaired) < len(scores):
        raise ValueError(
            f"{unpaired} have no image indices, unlike the runs: give all models as runs "
            "(scores.npz), or all as log-probabilities in one order"
        )
    if unpaired and len(set(sizes.values())) > 1:
        raise ValueError(
            f"the models scored different numbers of images: {sizes}; expected the same images in "
            "the same order"
        )
    rows = {  # of each model, by image
        name: {image: row for row, image in enumerate(one.index or range(sizes[name]))}
        for name, one in scores.items()
    }
    common = sorted(set.intersection(*map(set, rows.values())))
    if len(common) < 2:
        raise ValueError(
            f"the models have {len(common)} images in common (of {sizes}); a standard error needs "
            "at least two"
        )
    at = {name: [row[image] for image in common] for name, row in rows.items()}
    return {
        name: replace(one, log_prob=one.log_prob[at[name]], noise=one.noise[at[name]])
        for name, one in scores.items()
    }
