"""Sphinx: the pages of this folder, the notebooks, and the API from the docstrings.

    OMP_NUM_THREADS=1 sphinx-build -W --keep-going -j 8 docs docs/_build/html

Needs no network. The notebooks run in the build, several at a time; `NOTEBOOKS=off` leaves them
unexecuted.
"""

import os
import pkgutil
import shutil
from pathlib import Path

import pyro_vlae

DOCS = Path(__file__).parent

project = "pyro_vlae"
author = "The pyro_vlae developers"
version = release = pyro_vlae.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
]
exclude_patterns = ["_build", "conf.py"]
html_theme = "furo"
html_title = f"pyro_vlae {release}"
myst_enable_extensions = ["dollarmath"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".py": "myst-nb"}

# `name` in a docstring is a link where there is something to link to.
default_role = "py:obj"
autodoc_inherit_docstrings = False  # torch's own words on forward are no news
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
nb_output_stderr = "remove"  # progress bars and other people's announcements


def write_api() -> None:
    """One page per package: what it exports, from the docstrings."""
    pages = {"pyro_vlae": []}
    for module in pkgutil.iter_modules(pyro_vlae.__path__, "pyro_vlae."):
        if module.name.rpartition(".")[2].startswith("_"):
            continue
        if module.ispkg:
            pages[module.name] = [module.name]
        else:
            pages["pyro_vlae"].append(module.name)
    for name in ("pyro_vlae.models", "pyro_vlae.guides"):
        pages[name] = [name]  # in a source tree they are not in the folder of the package
    folder = DOCS / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for page, modules in pages.items():
        lines = [page, "=" * len(page), ""]
        for name in modules:
            if name != page:
                lines += [name, "-" * len(name), ""]
            lines += [f".. automodule:: {name}", "   :members:", ""]
        (folder / f"{page}.rst").write_text("\n".join(lines))


def copy_notebooks() -> None:
    """Sphinx reads only what lies in its own folder."""
    shutil.rmtree(DOCS / "notebooks", ignore_errors=True)
    shutil.copytree(DOCS.parent / "examples" / "notebooks", DOCS / "notebooks")


write_api()
copy_notebooks()
