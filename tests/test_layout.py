"""The house keeps its shape: arrows go one way, and no class exists twice."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vlae.guides
import pyro_vlae.models

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("pyro_vlae", "models", "guides", "examples", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def imported(path):
    return re.findall(r"^\s*(?:from|import)\s+([\w.]+)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_bare_import_of_models_or_guides(path):
    """It would make a second copy of every class beside pyro_vlae.models."""
    assert not [name for name in imported(path) if name.split(".")[0] in ("models", "guides")]


@pytest.mark.parametrize(
    "path",
    [  # __main__ is no part: it tells what the whole package holds
        path
        for path in SOURCES
        if path.parts[len(ROOT.parts)] == "pyro_vlae" and path.name != "__main__.py"
    ],
)
def test_parts_do_not_import_models_or_guides(path):
    names = imported(path)
    assert not [n for n in names if n.startswith(("pyro_vlae.models", "pyro_vlae.guides"))]
    if path.parent.name == "nn":
        assert not [n for n in names if n.split(".")[0] == "pyro"]


def test_models_and_guides_are_those_of_the_tree():
    assert "models" not in sys.modules and "guides" not in sys.modules
    assert set(pyro_vlae.models.__all__) >= {"VLAE", "FlowPrior", "StandardNormalPrior"}
    assert set(pyro_vlae.guides.__all__) >= {"GaussianGuide", "IAFGuide"}


def test_networks_load_without_pyro():
    code = "import sys, pyro_vlae.nn; sys.exit('pyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
