"""Short, seeded versions of the stress scripts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("kill.py", ["--count", "2", "--jobs", "mnist"]),
        ("fuzz.py", ["--count", "60"]),
        ("archives.py", ["--count", "30"]),
        ("memory.py", ["--count", "60", "--models", "20"]),
    ],
)
def test_a_short_run(script, options):
    command = [sys.executable, str(FOLDER / script), "--seed", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
