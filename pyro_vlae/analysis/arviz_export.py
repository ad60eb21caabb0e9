"""Codes, decompressions and importance weights of images as an ArviZ object."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vlae._version import __version__
from pyro_vlae.infer.arviz_versions import gather_groups
from pyro_vlae.infer.importance import check_arguments
from pyro_vlae.infer.particles import PARTICLES, ScoredCodes, sample_sites, scored_codes
from pyro_vlae.infer.weights import PER_IMAGE, PendingWeights
from pyro_vlae.reproducible import derive_seed, evaluation_context, set_seed

if TYPE_CHECKING:
    import xarray

CHAINS = 4
"""Independent importance samplings of each image, so that R-hat has something to compare."""

# Codes decoded at once; a constant, because decompressions depend on it.
_DECODED_CODES = 256
_DRAWS = ("chain", "draw", "image")
# Dimensions before those of an event, by group or, in sample_stats, by variable.
_LEADING = {
    "posterior": _DRAWS,
    "posterior_predictive": _DRAWS,
    "log_likelihood": _DRAWS,
    "observed_data": ("image",),
    "sample_stats": ("image",),
    "sample_index": _DRAWS,
    "log_weight": ("importance_sample", "image"),
}
_EVENT_DIMS = {1: ("code_dim",), 3: ("channel", "row", "column")}
_IN_NATS = {"log_prob", "elbo", "kl", "monte_carlo_error", "log_weight"}
_NO_LOO = "log p(x | z) at codes of the very image: not for LOO or WAIC"
_ATTRIBUTES = {"log_likelihood": {"units": "nats", "note": _NO_LOO}}
_Groups = dict[str, dict[str, Tensor]]


@torch.no_grad()
def to_inference_data(
    model: Callable,
    guide: Callable,
    images: Tensor,
    *,
    num_samples: int = 1024,
    num_codes: int = 200,
    seed: int = 0,
    image_index: Sequence[int] | Tensor | None = None,
    max_codes_per_chunk: int | None = None,
) -> Any:
    """Sample the codes' posterior by importance resampling, for ArviZ to look at.

    Each image is treated by itself: its codes are drawn by the guide and weighted by
    ``p(x, z) / q(z | x)`` of that image alone. They are dealt to `CHAINS` chains, and each chain is
    resampled from its own codes by their weights. So the chains are independent runs: where R-hat
    is far above 1, the weights rest on a few codes and the posterior is not to be trusted, nor
    where an image's Pareto k is above 0.7. ArviZ's ``ess_bulk`` counts resampled codes; how many
    codes really carry the weight says ``effective_sample_size``.

    The groups, over dimensions ``chain``, ``draw``, ``image`` (its index in the data set),
    ``code_dim``, ``channel``, ``row`` and ``column``:

    - ``posterior``: resampled codes, ``(chain, draw, image, code_dim)``.
    - ``posterior_predictive``: a decompression x' ~ p(x | z) of each of them.
    - ``log_likelihood``: log p(x | z) of the image itself, ``(chain, draw, image)``. Not for
      ``az.loo`` or ``az.waic``: see `pyro_vlae.analysis.comparison.compare_models`.
    - ``observed_data``: the images.
    - ``sample_stats``: ``log_weight`` of all codes drawn, ``(importance_sample, image)``;
      ``sample_index``, which of them each resampled code is, ``(chain, draw, image)``; and for each
      image the estimates of `pyro_vlae.infer.MarginalLikelihood` from all chains, Pareto k and
      effective sample size among them.

    Sites of other shapes than code vectors and ``(C, H, W)`` images, and several sites of a kind,
    have dimensions ``<site>_dim_<n>``. Draws of an image do not depend on the other images.

    Args:
        model: as for `pyro_vlae.infer.marginal_log_likelihood`.
        guide: likewise; it samples at least one site.
        images: ``(N, *event)``, on the device of model and guide.
        num_samples: codes drawn per image, all chains together: a multiple of `CHAINS`.
        num_codes: resampled codes per image, all chains together: a multiple of `CHAINS`.
        seed: seed of all draws; ``log_prob`` is what ``marginal_log_likelihood`` says with it.
        image_index: index of each image within its data set, ``(N,)``; ``0..N-1`` if None.
        max_codes_per_chunk: as for ``marginal_log_likelihood``.

    Returns:
        An ``arviz.InferenceData`` with ArviZ 0.x, an ``xarray.DataTree`` with 1.x. Both have
        ``to_netcdf(path)``, and ``arviz.from_netcdf`` reads it (for ArviZ 1.x install
        ``pyro-vlae[netcdf]``).

    Raises:
        ValueError: as ``marginal_log_likelihood``, a number of codes is no positive multiple of
            `CHAINS`, or the guide samples nothing.

    Example:
        >>> data = to_inference_data(model, guide, x[:10])
        >>> arviz.summary(data, var_names="z", coords={"image": [0]})

    References:
        Rubin, *Using the SIR algorithm to simulate posterior distributions*, 1988.
    """
    index = check_arguments(images, num_samples, image_index, max_codes_per_chunk)
    for name, count in (("num_samples", num_samples), ("num_codes", num_codes)):
        if count < 1 or count % CHAINS:
            raise ValueError(
                f"{name} is {count}, expected a multiple of {CHAINS} (chains), such as "
                f"{CHAINS * max(1, round(count / CHAINS))}"
            )
    parts: list[_Groups] = []
    with evaluation_context(images.device, model, guide):
        for block in scored_codes(
            model, guide, images, num_samples, seed, index, max_codes_per_chunk
        ):
            if not block.codes:
                raise ValueError(
                    "the guide samples nothing: a model without a code has no posterior to export; "
                    "its log p(x) is what marginal_log_likelihood gives"
                )
            numbers, kl = index[block.images], block.log_q - block.log_prior
            figures = PendingWeights(block.log_weight, kl, numbers).statistics()
            for i, number in enumerate(numbers):
                one = block.of_image(i)
                chosen = _resample(
                    one.log_weight[:, 0], num_codes, derive_seed(seed, number, "resample")
                )
                set_seed(derive_seed(seed, number, "decompress"), images.device)
                groups = _draws(model, one, chosen, images[one.images])
                groups["sample_stats"] = {
                    **dict(zip(PER_IMAGE, figures[:, i : i + 1], strict=True)),
                    "log_weight": one.log_weight.cpu(),
                    "sample_index": chosen.view(CHAINS, -1, 1),
                }
                parts.append(groups)
    return gather_groups({group: _dataset(group, parts, index) for group in parts[0]})


def _resample(log_weight: Tensor, num_codes: int, seed: int) -> Tensor:
    """Numbers ``(num_codes,)`` of resampled codes, chain by chain, each from its own codes."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.softmax(log_weight.cpu().view(CHAINS, -1), 1)
    drawn = torch.multinomial(weights, num_codes // CHAINS, replacement=True, generator=generator)
    first = torch.arange(CHAINS) * weights.shape[1]
    return (first[:, None] + drawn).flatten()


def _draws(model: Callable, scored: ScoredCodes, chosen: Tensor, image: Tensor) -> _Groups:
    """The groups of one image that have draws, and the image itself, by group and variable."""
    codes = {name: value[chosen] for name, value in scored.codes.items()}
    decompressed: dict[str, list[Tensor]] = {}
    for start in range(0, len(chosen), _DECODED_CODES):
        part = {name: value[start : start + _DECODED_CODES] for name, value in codes.items()}
        count = len(next(iter(part.values())))
        decoder = pyro.plate(PARTICLES, count, dim=-2)(poutine.uncondition(model))
        trace = poutine.trace(poutine.condition(decoder, data=part)).get_trace(image)
        seen = {}
        for name, site in sample_sites(trace):
            if name not in codes:
                event = site["fn"].event_shape
                decompressed.setdefault(name, []).append(site["value"].expand(count, 1, *event))
                seen[name] = site["infer"]["obs"].expand(1, *event).cpu()
    of_draws = {
        "posterior": codes,
        "posterior_predictive": {name: torch.cat(part) for name, part in decompressed.items()},
        "log_likelihood": {"_".join(seen): scored.log_likelihood[chosen]},
    }
    groups: _Groups = {
        group: {name: value.cpu().unflatten(0, (CHAINS, -1)) for name, value in variables.items()}
        for group, variables in of_draws.items()
    }
    return {**groups, "observed_data": seen}


def _dataset(group: str, parts: list[_Groups], index: list[int]) -> "xarray.Dataset":
    """Put the variables of one group together, image after image, with names and units."""
    from xarray import Dataset  # it takes a second to import

    variables, sizes = {}, {"image": len(index)}
    for name in parts[0][group]:
        leading = _LEADING.get(name) or _LEADING[group]
        values = torch.cat([part[group][name] for part in parts], leading.index("image"))
        ndim = values.ndim - len(leading)
        event = _EVENT_DIMS.get(ndim, ()) if len(parts[0][group]) == 1 else ()
        dims = (*leading, *(event or (f"{name}_dim_{n}" for n in range(ndim))))
        sizes.update(zip(dims, values.shape, strict=True))
        variables[name] = (dims, values.numpy(), {"units": "nats"} if name in _IN_NATS else {})
    coords = {name: range(size) for name, size in sizes.items()}
    about = {"inference_library": "pyro_vlae", "inference_library_version": __version__}
    return Dataset(variables, {**coords, "image": index}, {**about, **_ATTRIBUTES.get(group, {})})
