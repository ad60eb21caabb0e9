"""The scores of a model in words, as scripts and commands print them."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.recipes import Recipe

FEW_SAMPLES = 64


def warn_of_few_samples(recipe: Recipe) -> None:
    """Print a note if the importance samples of the recipe are too few to compare models."""
    if recipe.has_code and recipe.num_samples < FEW_SAMPLES:
        print(
            f"note: with {recipe.num_samples} importance samples per {recipe.values.item} the "
            f"NLL is noticeably too high; use --num-samples {FEW_SAMPLES} or more to compare models"
        )


def print_scores(results: Mapping[str, Any], data: ImageDataset) -> None:
    """Print the NLL, the bound, and the rate; say if importance sampling is unreliable.

    Args:
        results: content of ``results.json``, in which NaN is None, or the scores alone.
        data: the data set that was scored.
    """
    scores = results["nll_nats"], -results["elbo_nats"], results["kl_nats"]
    error = results["nll_standard_error"]
    unknown = error is None or isnan(error)  # for a single image
    if data.values.unit != "nats":
        dimensions = data.test.images[0].numel()
        nll, bound, rate = (data.values.score(nats, dimensions) for nats in scores)
        spread = "" if unknown else f" +- {data.values.score(error, dimensions):.3f}"
        unit = data.values.unit
        print(f"test NLL {nll:.3f}{spread} {unit}, bound {bound:.3f}, rate {rate:.4f}")
    nll, bound, rate = scores
    spread = "" if unknown else f" +- {error:.2f}"
    count, items, item = results["num_samples"], results["num_images"], data.values.item
    print(
        f"test NLL {nll:.2f}{spread} nats ({count} importance sample{'s' * (count > 1)}, "
        f"{items} {item}{'s' * (items > 1)}), "
        f"bound {bound:.2f}, rate {rate:.2f} nats = {results['kl_bits']:.1f} bits"
    )
    high = results["fraction_of_pareto_k_above_0.7"] or 0.0  # None with few samples
    if high > 0.1:
        print(
            "the importance sampling estimate is unreliable: median effective sample size "
            f"{results['median_effective_sample_size']:.1f} of {count}, Pareto k above 0.7 for "
            f"{high:.0%} of the {item}s; more --num-samples would lower the NLL"
        )
