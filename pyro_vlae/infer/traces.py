"""Running Pyro programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyro import poutine


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors in Pyro programs keep their own messages.

    Pyro appends a table of all shapes to the message of a ValueError or RuntimeError, in which a
    one-line message is easily overlooked.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        original: BaseException = error
        while (cause := original.__cause__) and str(original).startswith(f"{cause}\n"):
            original = cause
        if original is error:
            raise
        raise original from None


def run(program: Callable[..., Any], *args: Any, **kwargs: Any) -> poutine.Trace:
    """Trace a program, with `plain_errors`."""
    with plain_errors():
        return poutine.trace(program).get_trace(*args, **kwargs)
