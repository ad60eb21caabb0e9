"""Hints for misspelled names."""

import difflib
from collections.abc import Iterable


def similar_name(name: str, names: Iterable[str]) -> str:
    """A hint to append to an error: the name that was probably meant, or an empty string."""
    close = difflib.get_close_matches(name.lower().replace("_", "-"), list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
