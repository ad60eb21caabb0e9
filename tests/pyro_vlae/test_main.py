"""The command ``pyro-vlae`` finds its commands, which know their names."""

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import pyro_vlae
from pyro_vlae import __version__
from pyro_vlae.__main__ import COMMANDS, main
from pyro_vlae.data import dataset_names
from pyro_vlae.models import pretrained_names


def run_module(*options, cwd):
    command = [sys.executable, "-m", "pyro_vlae", *options]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pyro-vlae"])  # commands see their own name here
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("options", [[], ["--help"]])
def test_the_page_names_every_command_and_fits_80_columns(options, tmp_path):
    result = run_module(*options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"pyro_vlae {__version__}") for line in lines)
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{command.summary}$", result.stdout, re.MULTILINE)


def test_info_names_data_sets_and_weights(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for name in (*dataset_names(), *pretrained_names(), "arXiv:1611.02731"):
        assert name in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_knows_its_name_and_its_help_fits_80_columns(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: pyro-vlae {name} ")
    assert max(map(len, shown.splitlines())) <= 80
    assert "--debug" in shown and "%(" not in shown


def test_a_command_reports_errors_in_one_line(capsys):
    assert main(["train", "colour"]) == 2
    error = "error: there is no model family 'colour': choose binary, "
    assert capsys.readouterr().err.startswith(error)
    with pytest.raises(SystemExit):
        main(["trian"])
    assert "there is no command 'trian': choose train, " in capsys.readouterr().err


def test_the_console_script_is_this_module():
    (script,) = entry_points(group="console_scripts", name="pyro-vlae")
    assert script.load() is main


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
