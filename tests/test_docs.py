"""Names of this package that pages and notebooks mention exist."""

import ast
import importlib
import re
import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples" / "notebooks").glob("*.py")),
]


def resolve(name):
    """The object of a dotted name, the longest part that is a module imported."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_name_of_the_package_exists(page):
    for name in set(re.findall(r"\bpyro_vlae(?:\.\w+)+", page.read_text())):
        resolve(name)


def test_a_name_that_does_not_exist_is_noticed():
    with pytest.raises(AttributeError):
        resolve("pyro_vlae.models.ModelOfNothing")
    with pytest.raises(AttributeError):
        resolve("pyro_vlae.infer.marginal_likelihood")


def test_every_notebook_can_be_read_as_a_script_and_links_to_existing_ones():
    folder = ROOT / "examples" / "notebooks"
    assert len(list(folder.glob("[0-9]*.py"))) == 8
    for path in folder.glob("[0-9]*.py"):
        text = path.read_text()
        assert text.startswith("# %% [markdown]\n# # ")
        compile(text, path.name, "exec")
        for target in re.findall(r"\]\((\d\d_\w+)\)", text):
            assert (folder / f"{target}.py").exists(), target


def test_code_that_pages_include_by_name_is_there():
    included = []
    for page in (ROOT / "docs").glob("*.md"):
        pattern = r"\{literalinclude\} (\S+)\n(?::[^\n]*\n)*?:pyobject: (\S+)"
        included += [
            (page.parent / path, name) for path, name in re.findall(pattern, page.read_text())
        ]
    assert len(included) > 5
    for path, name in included:
        body = ast.parse(path.read_text()).body
        for part in name.split("."):
            (found,) = [node for node in body if getattr(node, "name", None) == part]
            body = getattr(found, "body", [])


def test_api_pages_document_the_public_names_of_every_room(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "examples" / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "conf.py", tmp_path / "docs")
    runpy.run_path(str(tmp_path / "docs" / "conf.py"))
    pages = {path.stem: path.read_text() for path in (tmp_path / "docs" / "api").glob("*.rst")}
    packages = [path.parent.name for path in (ROOT / "pyro_vlae").glob("*/__init__.py")]
    packages.remove("commands")  # has no public names
    assert pages.keys() == {f"pyro_vlae.{name}" for name in (*packages, "models", "guides")}
    for room, page in pages.items():
        module = importlib.import_module(room)
        for name in module.__all__:
            if isinstance(getattr(module, name), dict):
                continue  # a registry: documented with what is registered
            assert len(re.findall(rf"^   {name}$", page, re.MULTILINE)) == 1
            assert len(re.findall(rf"^\.\. auto\w+:: {name}$", page, re.MULTILINE)) == 1
