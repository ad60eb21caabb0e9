"""Reuse of freed memory on CPUs."""

import ctypes
import sys

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep the memory of freed CPU tensors for new ones, for the rest of the process.

    By default, the C library of Linux returns the memory of large tensors to the system, which
    fills it with zeros before the next step gets it again. The process's memory then never shrinks
    below its peak.

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
        # Older versions of glibc allow at most 32 MiB.
        any(mallopt(_MMAP_THRESHOLD, size) for size in (2**30, 2**25))
        and mallopt(_TRIM_THRESHOLD, _NEVER)
        and mallopt(_TOP_PAD, 2**26)
    )
