"""Reuse of freed memory on CPUs."""

import ctypes
import sys

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER = 2**31 - 1
_LARGEST = 2**30


def keep_freed_memory() -> bool:
    """Keep the memory of freed CPU tensors for new ones, for the rest of the process.

    By default, the C library of Linux returns the memory of large tensors to the system, which
    fills it with zeros before the next step gets it again. This can take a third of a training
    step. The process's memory then never shrinks below its peak.

    Returns:
        Whether this was possible; False without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        # Setting either threshold fixes the other, so that both are needed.
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        and mallopt(_TRIM_THRESHOLD, _NEVER)
        and mallopt(_TOP_PAD, 2**26)
    )
