"""Which of several models gives the same images the higher log p(x), and how surely."""

import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyro_vlae.infer.weights import MarginalLikelihood

Floats = npt.NDArray[np.float64]
Scores = MarginalLikelihood | Tensor | Floats | Sequence[float] | str | os.PathLike[str]


@dataclass(frozen=True)
class ComparedModel:
    """A row of a comparison; nats per image.

    Attributes:
        name: of the model.
        mean_log_prob: mean of log p(x) over the common images.
        standard_error: of that mean, from having so many images only.
        difference: mean of log p(x) minus the reference's, image by image: negative is worse.
        difference_error: standard error of that difference from having so many images only. The
            images' spread contains the Monte Carlo noise of their estimates: do not add the next.
        monte_carlo_error: the part of it that more importance samples would remove, the errors of
            the two models taken as independent; NaN where they are not known.
        num_samples: importance samples per image, None where that is not known.
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
    """Models on the same images, best first; ``print`` it, or take `to_rows` further.

    Attributes:
        models: a row each.
        reference: name of the model that the differences are to.
        num_images: how many images all of them scored.
    """

    models: tuple[ComparedModel, ...]
    reference: str
    num_images: int

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary per model, for JSON, `csv.DictWriter` or `pandas.DataFrame`."""
        return [asdict(model) for model in self.models]

    def __str__(self) -> str:
        head = ("model", "log p(x)", "difference", "Monte Carlo", "samples")
        cells = [head, *map(self._cells, self.models)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        title = (
            f"log p(x) in nats per image, {self.num_images} images; "
            f"differences to {self.reference}, ± standard errors"
        )
        return "\n".join([title, *lines])

    def _cells(self, model: ComparedModel) -> tuple[str, ...]:
        difference, noise = "0", model.monte_carlo_error
        if model.name != self.reference:
            difference = f"{model.difference:+.2f} ± {model.difference_error:.2f}"
        return (
            model.name,
            f"{model.mean_log_prob:.2f} ± {model.standard_error:.2f}",
            difference,
            f"± {noise:.3f}" if noise > 0 else "",  # not NaN
            "" if model.num_samples is None else str(model.num_samples),
        )


def compare_models(scores: Mapping[str, Scores], reference: str | None = None) -> ModelComparison:
    """Compare models by the paired differences of their log p(x), image by image.

    Images differ far more from each other than models do: on the same images the standard error of
    a difference is a fraction of that of either mean.

    Why not PSIS-LOO or WAIC, as ``az.compare`` has them: both measure how well parameters fitted to
    all observations predict one that was left out, and their pointwise terms are log p(x | z). Here
    each image has a code of its own. The posterior of that code rests on that one image, so that
    leaving the image out leaves the prior, and importance weights from the one to the other are
    hopeless (on a linear-Gaussian toy LOO gave -1044 where the truth is -2915, with Pareto k above
    0.7 for every image). The held-out quantity is log p(x) itself, and a model's weights have
    never seen the test images.

    An estimate of log p(x) is biased downwards, the more the fewer importance samples: give all
    models equally many.

    Args:
        scores: by name of the model, either what `pyro_vlae.infer.marginal_log_likelihood`
            returned, or log p(x) of each image ``(N,)`` in nats, in one and the same order; or the
            ``scores.npz`` (or folder) of runs by `pyro_vlae.experiments.run.run`, which are paired
            by their index in the test set, on the images that all of them scored.
        reference: name of the model to take differences to; the best if None.

    Raises:
        ValueError: fewer than two models or two common images, other numbers of images, runs on
            other data sets, values that are not finite, or no such reference.
        FileNotFoundError: a run has no ``scores.npz``.

    Example:
        >>> print(compare_models({"1 hour": "results/static-mnist-vlae",
        ...                       "10 minutes": "results/static-mnist-quick"}))
    """
    if len(scores) < 2:
        raise ValueError(f"a comparison takes at least two models; got {list(scores)}")
    if reference is not None and reference not in scores:
        raise ValueError(f"reference is {reference!r}, expected one of {list(scores)}, or None")
    found = _on_common_images({name: _read(name, value) for name, value in scores.items()})
    best = max(found, key=lambda name: found[name].log_prob.mean())
    to = found[best if reference is None else reference]
    count = len(to.log_prob)
    models = []
    for name, one in found.items():
        difference = one.log_prob - to.log_prob
        noise = np.hypot(one.noise, to.noise) if one is not to else np.zeros(count)
        models.append(
            ComparedModel(
                name=name,
                mean_log_prob=float(one.log_prob.mean()),
                standard_error=float(one.log_prob.std(ddof=1)) / math.sqrt(count),
                difference=float(difference.mean()),
                difference_error=float(difference.std(ddof=1)) / math.sqrt(count),
                monte_carlo_error=float(np.sqrt((noise**2).sum())) / count,
                num_samples=one.num_samples,
            )
        )
    models.sort(key=lambda model: model.mean_log_prob, reverse=True)
    return ModelComparison(tuple(models), best if reference is None else reference, count)


@dataclass(frozen=True, eq=False)
class _PerImage:
    """What one model says about each image; noise is the Monte Carlo error, NaN if not known."""

    log_prob: Floats
    noise: Floats
    num_samples: int | None = None
    index: npt.NDArray[np.int64] | None = None
    dataset: str | None = None

    def at(self, chosen: npt.NDArray[np.int64]) -> "_PerImage":
        return _PerImage(self.log_prob[chosen], self.noise[chosen], self.num_samples)


def _read(name: str, scores: Scores) -> _PerImage:
    """Bring the scores of one model into one form, checked."""
    if isinstance(scores, MarginalLikelihood):
        noise = scores.monte_carlo_error.numpy()
        one = _PerImage(scores.log_prob.numpy(), noise, scores.num_samples)
    elif isinstance(scores, str | os.PathLike):
        one = _read_run(Path(scores))
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
    """Read ``scores.npz``, and beside it ``results.json`` if it is there."""
    if path.is_dir():
        path = path / "scores.npz"
    with np.load(path) as arrays:
        missing = {"test_index", "log_prob", "monte_carlo_error"} - set(arrays)
        if missing:
            raise ValueError(
                f"{path} lacks {sorted(missing)}: expected the scores.npz of a run, or pass the "
                "log-probabilities themselves"
            )
        index = arrays["test_index"]
        log_prob, noise = arrays["log_prob"], arrays["monte_carlo_error"]
    if len(np.unique(index)) < len(index):
        raise ValueError(f"{path}: test_index names an image twice; expected each image once")
    results = path.with_name("results.json")
    about = json.loads(results.read_text()) if results.exists() else {}
    return _PerImage(log_prob, noise, about.get("num_samples"), index, about.get("dataset"))


def _on_common_images(scores: dict[str, _PerImage]) -> dict[str, _PerImage]:
    """The same models on the images that all of them scored, in one order."""
    sizes = {name: len(one.log_prob) for name, one in scores.items()}
    datasets = {one.dataset for one in scores.values() if one.dataset is not None}
    if len(datasets) > 1:
        of = {name: one.dataset for name, one in scores.items()}
        raise ValueError(f"the runs scored images of different data sets: {of}")
    indices = [one.index for one in scores.values() if one.index is not None]
    if len(indices) == len(scores):
        common = functools.reduce(np.intersect1d, indices)
        scores = {name: one.at(_positions(one.index, common)) for name, one in scores.items()}
    elif indices:
        without = [name for name, one in scores.items() if one.index is None]
        raise ValueError(
            f"{without} do not say which images they scored, the runs do: give all models as runs "
            "(scores.npz), or all as log-probabilities in one order"
        )
    elif len(set(sizes.values())) > 1:
        raise ValueError(
            f"the models scored different numbers of images: {sizes}; expected the same images in "
            "the same order"
        )
    count = len(next(iter(scores.values())).log_prob)
    if count < 2:
        raise ValueError(
            f"the models have {count} images in common (of {sizes}); a standard error needs at "
            "least two"
        )
    return scores


def _positions(
    index: npt.NDArray[np.int64] | None, common: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Where in ``index`` the images of ``common`` stand."""
    assert index is not None
    order = np.argsort(index)
    return order[np.searchsorted(index, common, sorter=order)]
