"""What every script of examples/ does with its options, before it does anything else."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vlae import __version__
from pyro_vlae.experiments import command_line
from pyro_vlae.experiments.run import RunInterrupted

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(p.name for p in EXAMPLES.glob("*.py") if "__main__" in p.read_text())
PAGE = EXAMPLES.parent / "results" / "README.md"


def run_script(name, *options):
    command = [sys.executable, f"examples/{name}", *options]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=EXAMPLES.parent
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_fits_80_columns(name):
    page = PAGE.read_bytes()
    result = run_script(name, "--help")
    assert result.returncode == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert f"python examples/{name}" in result.stdout  # how it is called
    assert "--debug" in result.stdout
    assert PAGE.read_bytes() == page  # asking for help does nothing else


@pytest.mark.parametrize("name", SCRIPTS)
def test_version(name, load_example, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--version"])
    with pytest.raises(SystemExit) as caught:
        load_example(name.removesuffix(".py")).main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pyro_vlae {__version__}\n"


def test_the_traceback_of_an_error_is_shown_on_demand(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    options = ["--resume", "--out", str(tmp_path)]
    plain = run_script("mnist_vlae.py", *options)
    assert plain.returncode == 2
    assert plain.stderr.startswith("error: there is no run in")
    assert len(plain.stderr.splitlines()) == 1
    debugged = run_script("mnist_vlae.py", *options, "--debug")
    assert debugged.returncode == 2
    assert debugged.stderr.startswith("Traceback")
    assert "in read_recipe" in debugged.stderr
    assert debugged.stderr.endswith(plain.stderr)


def test_options_cannot_be_shortened(load_example, capsys):
    """--deb would parse, but would not be seen where errors are shown."""
    with pytest.raises(SystemExit) as caught:
        load_example("mnist_vlae").main(["--deb"])
    assert caught.value.code == 2
    assert "--deb" in capsys.readouterr().err


def test_ctrl_c_outside_training_ends_without_a_traceback(load_example, capsys):
    def main():
        raise KeyboardInterrupt

    assert command_line.exit_status(main) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_ctrl_c_during_scoring_says_how_to_go_on(capsys):
    def main():
        raise RunInterrupted(Path("runs/mine"))

    assert command_line.exit_status(main, "--resume --out {out}") == 130
    assert capsys.readouterr().err == "\ninterrupted; to continue, use --resume --out runs/mine\n"


@pytest.mark.parametrize("scoring", [True, False])
def test_sigterm_outside_training_is_like_ctrl_c(capsys, scoring):
    before = signal.getsignal(signal.SIGTERM)

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            os.kill(os.getpid(), signal.SIGTERM)  # ignored, while scores are saved
            if scoring:
                raise RunInterrupted(Path("runs/mine")) from error
            raise

    assert command_line.exit_status(main, "--resume --out {out}") == 143
    way_on = "; to continue, use --resume --out runs/mine" if scoring else ""
    assert capsys.readouterr().err == f"\ninterrupted{way_on}\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_missing_optional_package_is_one_line(capsys, monkeypatch):
    def main():
        monkeypatch.setitem(sys.modules, "constriction", None)
        for name in [name for name in sys.modules if name.startswith("pyro_vlae.codec")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.import_module("pyro_vlae.codec")

    assert command_line.exit_status(main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and 'pip install "pyro-vlae[codec]"' in line
