"""The number of threads that a computation uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_threaded(when: bool = True) -> Iterator[None]:
    """Run a block's CPU operations on one thread.

    Long chains of small matrix products do not benefit from threads: each product waits for the
    slowest thread, which on a busy machine takes milliseconds instead of microseconds.

    Args:
        when: False leaves the number of threads as it is.
    """
    before = torch.get_num_threads()
    if not when or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
