"""Type checks of what is read back from the files of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pyro_vlae.reproducible import read_json

_CHECKED = {int, float, str, bool, type(None), list, tuple}
# Types of what is read from results.json.
_RESULTS: Mapping[str, Any] = (
    dict.fromkeys(("family", "dataset", "preset", "device"), str)
    | dict.fromkeys(("nll_nats", "elbo_nats", "kl_nats", "kl_bits", "train_seconds"), float)
    | dict.fromkeys(("num_samples", "num_images", "train_images_seen", "seed"), int)
)
_OPTIONAL: Mapping[str, Any] = {
    "nll_standard_error": float | None,
    "nll_monte_carlo_error": float | None,
    "world_size": int,
}


def read_results(path: Path) -> dict[str, Any]:
    """Read and check a ``results.json``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is truncated, altered, or holds no results; the message names it.
    """
    results = read_json(path)
    missing = [name for name in _RESULTS if name not in results]
    if missing:
        raise ValueError(
            f"{path} has no {missing[0]!r}, so it does not hold the results of a run: restore it "
            "from a copy, or move it away and score the run again with --resume"
        )
    check_types(results, {**_RESULTS, **_OPTIONAL}, path)
    return results


def field_types(recipe: type) -> dict[str, Any]:
    """The types of the fields of a recipe that are numbers, strings, tuples, and the like."""
    hints = get_type_hints(recipe)
    return {name: hint for name, hint in hints.items() if set(_members(hint)) <= _CHECKED}


def check_types(values: Mapping[str, Any], types: Mapping[str, Any], source: str | Path) -> None:
    """Raise a ValueError, naming the source, unless values have these types."""
    for name in values.keys() & types.keys():
        members = _members(types[name])
        allowed = (*members, int) if float in members else members
        if type(values[name]) not in allowed:
            raise ValueError(
                f"{source} is damaged: {name} is {values[name]!r}, expected "
                f"{' or '.join(kind.__name__ for kind in members)}; restore it from a copy"
            )


def _members(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is tuple:
        return tuple, list  # as which JSON stores it
    return get_args(hint) or (hint,)
