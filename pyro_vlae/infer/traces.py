"""Running Pyro programs."""

from collections.abc import Callable
from typing import Any

from pyro import poutine


def run(program: Callable[..., Any], *args: Any, **kwargs: Any) -> poutine.Trace:
    """Trace a program; an error keeps its own message.

    Pyro appends a table of all shapes to the message of a ValueError or RuntimeError, in which a
    one-line message is easily overlooked.
    """
    try:
        return poutine.trace(program).get_trace(*args, **kwargs)
    except (ValueError, RuntimeError) as error:
        original: BaseException = error
        while (cause := original.__cause__) and str(original).startswith(f"{cause}\n"):
            original = cause
        if original is error:
            raise
        raise original from None
