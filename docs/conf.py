"""Sphinx: the pages of this folder, the notebooks, and the API from the docstrings.

    OMP_NUM_THREADS=1 sphinx-build -W --keep-going -j 8 docs docs/_build/html

Needs no network. The notebooks run in the build, several at a time; `NOTEBOOKS=off` leaves them
unexecuted.
"""

import importlib
import inspect
import os
import pkgutil
import shutil
import sys
from pathlib import Path

import pyro_vlae

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))  # for mathml.py

project = "pyro_vlae"
author = "The pyro_vlae developers"
copyright = f"2026, {author}. MIT license"
version = release = pyro_vlae.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
    "myst_nb",
]
exclude_patterns = ["_build", "conf.py", "mathml.py", "notebooks/small_digits.py"]
html_theme = "furo"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_title = f"pyro_vlae {release}"
myst_heading_anchors = 2  # as on GitHub
myst_enable_extensions = ["dollarmath"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".py": "myst-nb"}

# `name` in a docstring is a link where there is something to link to.
default_role = "py:obj"
autodoc_inherit_docstrings = False  # torch's own docstring of forward says nothing new
autosummary_generate = False  # the tables link to the docstrings on the same page
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Shapes", "notes_style")]

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = os.environ.get("NOTEBOOKS", "force")
suppress_warnings = ["myst-nb.lexer"] if nb_execution_mode == "off" else []  # nobody says "Python"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True  # one box for all lines that a cell prints
nb_output_stderr = "remove"  # progress bars and other people's announcements


def write_api() -> None:
    """One page per package: a table of its public names, and the docstring of each."""
    found = pkgutil.iter_modules(pyro_vlae.__path__, "pyro_vlae.")
    packages = {module.name for module in found if module.ispkg}
    # In a source tree these two are not in the folder of pyro_vlae.
    packages |= {"pyro_vlae.models", "pyro_vlae.guides"}
    folder = DOCS / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for package in sorted(packages):
        module = importlib.import_module(package)
        # Registries are plain dicts, whose docstring is that of dict.
        names = [
            n for n in getattr(module, "__all__", []) if not isinstance(getattr(module, n), dict)
        ]
        names.sort(key=str.lower)
        if not names:
            continue  # commands: their help is their documentation
        lines = [package, "=" * len(package), "", f".. automodule:: {package}", ""]
        lines += [".. autosummary::", "", *(f"   {name}" for name in names), ""]
        for name in names:
            public = getattr(module, name)
            kind = "autofunction" if callable(public) else "autodata"
            kind = "autoclass" if inspect.isclass(public) else kind
            lines += [f".. {kind}:: {name}", *(["   :members:"] * inspect.isclass(public)), ""]
        (folder / f"{package}.rst").write_text("\n".join(lines))


def copy_notebooks() -> None:
    """Sphinx reads only what lies in its own folder."""
    shutil.rmtree(DOCS / "notebooks", ignore_errors=True)
    shutil.copytree(DOCS.parent / "examples" / "notebooks", DOCS / "notebooks")


write_api()
copy_notebooks()
