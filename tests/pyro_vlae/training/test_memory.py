"""Freed memory is kept for new tensors."""

import subprocess
import sys

import pytest

from pyro_vlae.training import keep_freed_memory

PAGE_FAULTS = """
import itertools, resource, sys, torch
from pyro_vlae.training import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    for megabytes in (40, 3, 64, 10):
        a = torch.ones(megabytes * 2**18)
        b = a + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [work() for _ in range(10)]
# The first rounds still enlarge the heap.
print(min(after - before for before, after in itertools.pairwise(counts)))
"""


def page_faults(setting):
    command = [sys.executable, "-c", PAGE_FAULTS, setting]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_tensors_reuse_freed_memory():
    assert page_faults("keep") < 100
    assert page_faults("default") > 1000  # else there would be nothing to gain


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
