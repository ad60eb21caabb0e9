"""The rooms of the package: which may import which, what they export, and how long files are."""

import ast
import importlib
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pyro_vlae.guides
import pyro_vlae.models

ROOT = Path(__file__).parents[1]
LONGEST = 300
PARTS = {"data", "distributions", "infer", "nn", "transforms"}
PROGRAMS = {"guides", "models"}
PLUMBING = {"_version", "registration", "reproducible"}
UPPER = {"analysis", "codec", "plots", "training"}
# What the modules of each room may import from other rooms.
ARROWS = {
    "_version": set(),
    "registration": set(),
    "reproducible": {"nn"},
    "nn": set(),
    "data": {"reproducible"},
    "distributions": {"nn"},
    "transforms": {"nn"},
    "infer": {"distributions", "nn", "registration", "reproducible"},
    "training": {"data", "infer", "nn", "registration", "reproducible"},
    "codec": {"data", "distributions", "infer", "nn", "reproducible", "transforms"},
    "analysis": {"_version", "distributions", "infer", "nn", "reproducible"},
    "plots": {"analysis", "data", "reproducible"},
    "models": {"distributions", "infer", "nn", "registration", "transforms"},
    "guides": {"distributions", "infer", "nn", "registration", "transforms"},
    "testing": PARTS | PROGRAMS | PLUMBING | UPPER,
    "experiments": PARTS | PROGRAMS | PLUMBING | UPPER | {"__init__", "testing"},
    "commands": PARTS | PROGRAMS | PLUMBING | UPPER | {"experiments"},
    # The package itself offers names of all rooms.
    "__init__": PARTS | PROGRAMS | PLUMBING | UPPER | {"experiments", "testing"},
    "__main__": {"_version"},  # commands are loaded when they are called
}
# `pyro_vlae.models` offers these, too: imported lazily, when they are asked for.
LAZY = {("pyro_vlae.models", "pyro_vlae.experiments.pretrained")}
OFFERED_TWICE = {"build_from_config", "load_pretrained", "load_run", "pretrained_names"}
# Temporary exceptions, to be removed: arrows, files that are too long, modules with __all__.
TEMPORARY: set = set()


def module_name(path):
    """The dotted name that a file of the tree has when it is installed."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "pyro_vlae" else ("pyro_vlae", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = [
    path for f in ("pyro_vlae", "models", "guides") for path in sorted(ROOT.glob(f"{f}/**/*.py"))
]
MODULES = {module_name(path): path for path in PATHS}
ROOMS = sorted(name for name, path in MODULES.items() if path.name == "__init__.py" and "." in name)


def room(module):
    """The room of a module; that of a file at the root of the package is its own name."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(tree, module="", is_package=False):
    """Dotted names that a parsed file imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: None if is_package else -1]
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def arrows(sources):
    """Pairs of importing and imported module of the package, given sources by module name."""
    found = set()
    for name, source in sources.items():
        for target in imported(ast.parse(source), name, name in ROOMS):
            while target and target not in sources:
                target = target.rpartition(".")[0]
            if target and target != name:
                found.add((name, target))
    return found


def wrong_arrows(found):
    """The arrows between rooms that the table does not allow."""
    return {
        (start, end)
        for start, end in found
        if room(start) != room(end) and room(end) not in ARROWS.get(room(start), set())
    }


def cycle(found):
    """A circle of arrows, or None."""
    graph = {}
    for start, end in found:
        graph.setdefault(start, set()).add(end)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


FOUND = arrows({name: path.read_text() for name, path in MODULES.items()}) - LAZY - TEMPORARY


def test_arrows_between_rooms_are_allowed():
    assert wrong_arrows(FOUND) == set()


def test_no_circle_of_imports():
    assert cycle(FOUND) is None


def test_wrong_arrows_and_cycles_are_noticed():
    sources = {
        "pyro_vlae.nn": "",
        "pyro_vlae.nn.a": "def f():\n    from pyro_vlae import distributions",
        "pyro_vlae.nn.b": "from . import a\nfrom pyro_vlae.nn.c import f",
        "pyro_vlae.nn.c": "import pyro_vlae.nn.b",
        "pyro_vlae.distributions": "from pyro_vlae.nn.a import f",
    }
    found = arrows(sources)
    assert wrong_arrows(found) == {("pyro_vlae.nn.a", "pyro_vlae.distributions")}
    assert ("pyro_vlae.nn.b", "pyro_vlae.nn.a") in found
    assert set(cycle(found))
    assert cycle({arrow for arrow in found if arrow[0] != "pyro_vlae.nn.c"}) is not None
    assert cycle({("a", "b"), ("b", "c"), ("a", "c")}) is None


def test_every_file_has_a_room():
    assert {room(name) for name in MODULES} <= set(ARROWS)
    loose = {path.name for path in (ROOT / "pyro_vlae").glob("*.py")}
    allowed = {"__init__", "__main__", "_version", "registration", "reproducible"}
    assert loose <= {f"{name}.py" for name in allowed}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - TEMPORARY))
def test_files_are_short(name):
    assert len(MODULES[name].read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_exports_its_public_names_once(name):
    package = importlib.import_module(name)
    listed = list(getattr(package, "__all__", []))
    assert len(listed) == len(set(listed))
    for public in listed:
        assert hasattr(package, public), public
    tree = ast.parse(MODULES[name].read_text())
    names = [
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_vlae")
        for alias in node.names
    ]
    assert {public for public in names if not public.startswith("_")} <= set(listed)


def test_a_public_name_belongs_to_one_room():
    rooms = [importlib.import_module(name) for name in ROOMS]
    count = Counter(public for package in rooms for public in getattr(package, "__all__", []))
    assert {public for public, times in count.items() if times > 1} <= OFFERED_TWICE


def test_modules_leave_the_list_of_public_names_to_their_room():
    for name, path in MODULES.items():
        if path.name != "__init__.py" and name not in TEMPORARY:
            assert "__all__" not in path.read_text(), name


def everywhere():
    return [*PATHS, *sorted(ROOT.glob("examples/**/*.py")), *sorted(ROOT.glob("tests/**/*.py"))]


@pytest.mark.parametrize("path", everywhere(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_bare_import_of_models_or_guides(path):
    """It would make a second copy of every class beside pyro_vlae.models."""
    names = imported(ast.parse(path.read_text()))
    assert not [name for name in names if name.split(".")[0] in PROGRAMS]


def test_models_and_guides_are_those_of_the_tree():
    assert "models" not in sys.modules and "guides" not in sys.modules
    assert set(pyro_vlae.models.__all__) >= {"VLAE", "FlowPrior", "StandardNormalPrior"}
    assert set(pyro_vlae.guides.__all__) >= {"GaussianGuide", "IAFGuide"}


def test_networks_know_neither_pyro_nor_matplotlib():
    for path in (ROOT / "pyro_vlae" / "nn").glob("*.py"):
        names = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert not names & {"pyro", "matplotlib"}, path.name
    code = "import sys, pyro_vlae.nn; sys.exit('pyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0


def test_matplotlib_is_imported_in_the_room_of_plots_only():
    for name, path in MODULES.items():
        roots = {target.split(".")[0] for target in imported(ast.parse(path.read_text()))}
        assert "matplotlib" not in roots or room(name) == "plots", name
