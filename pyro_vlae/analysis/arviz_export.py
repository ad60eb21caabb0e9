"""Codes, decompressions, and importance weights of images as an ArviZ object."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vlae._version import __version__
from pyro_vlae.infer.arviz_versions import gather_groups
from pyro_vlae.infer.importance import check_arguments
from pyro_vlae.infer.particles import (
    default_chunk,
    importance_samples,
    is_factor,
    sample_sites,
)
from pyro_vlae.infer.weights import PER_IMAGE, weight_statistics
from pyro_vlae.reproducible import derive_seed, evaluation_context, set_seed

if TYPE_CHECKING:
    import xarray

CHAINS = 4
"""Independent importance samplers for each image; R-hat compares them."""

_DECODED_CODES = 256  # at once; a constant, because decompressions depend on it
_EVENT_DIMS = {1: ("code_dim",), 3: ("channel", "row", "column")}
_Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]


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
    """Sample the posterior of the codes by importance resampling, as an ArviZ object.

    The codes of an image are sampled from the guide, with weights ``p(x, z) / q(z | x)``, and
    divided among `CHAINS` independent chains, each of which resamples its own codes by their
    weights. If R-hat is far above 1 or the Pareto k of an image is above 0.7, a few codes dominate
    the weights and the posterior cannot be trusted. ArviZ's ``ess_bulk`` counts resampled codes;
    ``effective_sample_size`` is that of the weights. Groups:

    - ``posterior``: resampled codes, ``(chain, draw, image, code_dim)``.
    - ``posterior_predictive``: a decompression x' ~ p(x | z) of each code,
      ``(chain, draw, image, channel, row, column)``.
    - ``log_likelihood``: log p(x | z) of the image itself, ``(chain, draw, image)``. Not for
      ``az.loo`` or ``az.waic``: see `pyro_vlae.analysis.compare_models`.
    - ``observed_data``: the images.
    - ``sample_stats``: ``log_weight`` of all codes, ``(importance_sample, image)``; the
      ``sample_index`` of each resampled code among these, ``(chain, draw, image)``; and the
      estimates of `pyro_vlae.infer.MarginalLikelihood`, ``(image,)``.

    Sites whose events have other shapes, and several sites in one group, have dimensions
    ``<site>_dim_<n>``.

    Args:
        model: as for `pyro_vlae.infer.marginal_log_likelihood`.
        guide: as for ``marginal_log_likelihood``; samples at least one site.
        images: ``(N, *event)``, on the device of model and guide.
        num_samples: codes sampled per image, over all chains: a multiple of `CHAINS`.
        num_codes: resampled codes per image, over all chains: a multiple of `CHAINS`.
        seed: seed of all samples; ``log_prob`` equals that of ``marginal_log_likelihood`` with the
            same seed.
        image_index: index of each image in its data set, ``(N,)``; ``0..N-1`` if None.
        max_codes_per_chunk: as for ``marginal_log_likelihood``.

    Returns:
        An ``arviz.InferenceData`` with ArviZ 0.x, an ``xarray.DataTree`` with 1.x. Both have
        ``to_netcdf(path)``, and ``arviz.from_netcdf`` reads it (for ArviZ 1.x install
        ``pyro-vlae[netcdf]``).

    Raises:
        ValueError: as for ``marginal_log_likelihood``; or a number of codes is not a positive
            multiple of `CHAINS`, or the guide samples nothing.

    Example:
        >>> data = to_inference_data(model, guide, x[:10])
        >>> arviz.summary(data, var_names="z", coords={"image": [0]})

    References:
        Rubin, "Using the SIR Algorithm to Simulate Posterior Distributions", 1988.
    """
    index = check_arguments(images, num_samples, image_index, max_codes_per_chunk)
    for name, count in (("num_samples", num_samples), ("num_codes", num_codes)):
        if count < 1 or count % CHAINS:
            raise ValueError(
                f"{name} is {count}, expected a multiple of {CHAINS} (chains), such as "
                f"{CHAINS * max(1, round(count / CHAINS))}"
            )
    resampled = ("chain", "draw", "image")
    parts: list[dict[tuple[str, tuple[str, ...]], dict[str, Tensor]]] = []
    with evaluation_context(images.device, model, guide):
        # At most the codes of one image in a chunk, so that each block is one image.
        chunk = min(max_codes_per_chunk or default_chunk(images.device), num_samples)
        blocks = importance_samples(model, guide, images, num_samples, seed, index, chunk)
        for samples, image, number in zip(blocks, images.split(1), index, strict=True):
            if not samples.codes:
                raise ValueError(
                    "the guide samples nothing: a model without a code has no posterior to export; "
                    "use marginal_log_likelihood for its log p(x)"
                )
            estimates = weight_statistics(samples.log_weight, samples.log_ratio, [number])
            chosen = _resample(samples.log_weight, num_codes, derive_seed(seed, number, "resample"))
            codes = {name: value[chosen] for name, value in samples.codes.items()}
            set_seed(derive_seed(seed, number, "decompress"), images.device)
            decompressed, observed = _decompress(model, codes, image)
            log_likelihood = {"_".join(observed): samples.log_likelihood[chosen]}
            parts.append(
                {
                    ("posterior", resampled): codes,
                    ("posterior_predictive", resampled): decompressed,
                    ("log_likelihood", resampled): log_likelihood,
                    ("sample_stats", ("importance_sample", "image")): {
                        "log_weight": samples.log_weight
                    },
                    ("sample_stats", resampled): {"sample_index": chosen[:, None]},
                    ("sample_stats", ("image",)): dict(zip(PER_IMAGE, estimates, strict=True)),
                    ("observed_data", ("image",)): observed,
                }
            )
    variables: dict[str, _Variables] = defaultdict(dict)
    for group, dims in parts[0]:
        variables[group] |= _gather([part[group, dims] for part in parts], dims)
    groups = {group: _dataset(arrays, index) for group, arrays in variables.items()}
    groups["log_likelihood"].attrs |= {
        "units": "nats",
        "note": "log p(x | z) given codes of the same image: not for LOO or WAIC",
    }
    for name in ("log_prob", "elbo", "kl", "monte_carlo_error", "log_weight"):
        groups["sample_stats"][name].attrs["units"] = "nats"
    return gather_groups(groups)


def _resample(log_weight: Tensor, num_codes: int, seed: int) -> Tensor:
    """Resample each chain's codes by their weights; return the indices ``(num_codes,)``."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.softmax(log_weight.cpu().view(CHAINS, -1), 1)
    chosen = torch.multinomial(weights, num_codes // CHAINS, replacement=True, generator=generator)
    chains = torch.arange(CHAINS, device="cpu")[:, None]
    return (chains * weights.shape[1] + chosen).flatten()


def _decompress(
    model: Callable, codes: dict[str, Tensor], image: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sample the observed sites given codes ``(n, 1, *event)``; also return observed values."""
    samples, observed = defaultdict(list), {}
    count = len(next(iter(codes.values())))
    for at in torch.arange(count, device="cpu").split(_DECODED_CODES):
        program = pyro.plate("_decompressions", len(at), dim=-2)(poutine.uncondition(model))
        given = {name: value[at] for name, value in codes.items()}
        trace = poutine.trace(poutine.condition(program, data=given)).get_trace(image)
        for name, site in sample_sites(trace):
            if site["infer"].get("was_observed") and not is_factor(site):
                event = site["fn"].event_shape
                samples[name].append(site["value"].expand(len(at), 1, *event))
                observed[name] = site["infer"]["obs"].expand(1, *event)
    return {name: torch.cat(parts).cpu() for name, parts in samples.items()}, observed


def _gather(parts: list[dict[str, Tensor]], leading: tuple[str, ...]) -> _Variables:
    """Concatenate the variables of all images and name their dimensions."""
    arrays: _Variables = {}
    for name in parts[0]:
        values = torch.cat([part[name] for part in parts], 0 if leading == ("image",) else 1)
        if leading[0] == "chain":
            values = values.unflatten(0, (CHAINS, -1))
        ndim = values.ndim - len(leading)
        event = _EVENT_DIMS.get(ndim) if len(parts[0]) == 1 else None
        dims = (*leading, *(event or (f"{name}_dim_{n}" for n in range(ndim))))
        arrays[name] = (dims, values.cpu().numpy())
    return arrays


def _dataset(arrays: _Variables, index: list[int]) -> "xarray.Dataset":
    """Add coordinates: the indices of the images, and positions along all other dimensions."""
    from xarray import Dataset  # takes a second to import

    data = Dataset(arrays)
    data.attrs = {"inference_library": "pyro_vlae", "inference_library_version": __version__}
    coordinates = {name: range(size) for name, size in data.sizes.items()}
    return data.assign_coords({**coordinates, "image": index})
