"""`python -m pyro_vlae` tells what there is."""

import os
import re
import subprocess
import sys

import pytest

import pyro_vlae
from pyro_vlae import __version__
from pyro_vlae.__main__ import main
from pyro_vlae.data import dataset_names
from pyro_vlae.models import pretrained_names


def run_module(*options, cwd):
    command = [sys.executable, "-m", "pyro_vlae", *options]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.parametrize("options", [[], ["--help"]])
def test_the_page_names_everything_and_fits_80_columns(options, tmp_path):
    result = run_module(*options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"pyro_vlae {__version__}") for line in lines)
    for name in (*dataset_names(), *pretrained_names(), "arXiv:1611.02731"):
        assert name in result.stdout


def test_names_of_notebooks_are_those_of_the_rooms():
    for name in pyro_vlae.__all__:
        assert getattr(pyro_vlae, name) is not None
    assert pyro_vlae.VLAE is pyro_vlae.models.VLAE and pyro_vlae.fit is pyro_vlae.training.fit
    assert set(pyro_vlae.__all__) <= set(dir(pyro_vlae))
    with pytest.raises(AttributeError, match="no attribute 'VALE'"):
        _ = pyro_vlae.VALE


def test_the_version_needs_no_torch(tmp_path):
    code = "import sys, pyro_vlae, pyro_vlae.__main__; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n"
    assert run_module("--version", cwd=tmp_path).stdout == f"pyro_vlae {__version__}\n"


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--verison"])
    assert caught.value.code == 2
    assert re.search(r"unrecognized arguments: --verison", capsys.readouterr().err)
