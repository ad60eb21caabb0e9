"""The commands on a run: train, score, sample, figures."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from pyro_vlae.__main__ import main

TINY = ["--dataset", "digits", "--device", "cpu", "--max-minutes", "0.01"]
TINY += ["--num-samples", "3", "--eval-images", "4"]


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pyro-vlae"])  # commands see their own name here


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("commands") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pyro-vlae"])
        assert main(["train", "binary", *TINY, "--out", str(folder)]) == 0
    return folder


def test_a_result_names_the_command_that_made_it(run):
    stored = json.loads((run / "results.json").read_text())
    assert stored["command"].startswith("pyro-vlae train binary --dataset digits --device cpu ")


def test_scoring_a_run_again_gives_the_score_of_the_run(run, tmp_path, capsys):
    options = ["--num-samples", "3", "--eval-images", "4", "--device", "cpu"]
    out = tmp_path / "score.json"
    assert main(["score", str(run), *options, "--out", str(out)]) == 0
    stored, again = (json.loads(path.read_text()) for path in (run / "results.json", out))
    for name in ("nll_nats", "elbo_nats", "kl_nats"):
        assert again[name] == pytest.approx(stored[name], rel=1e-5)
    assert f"{again['nll_nats']:.4f}" in capsys.readouterr().out
    assert again["num_images"] == 4 and again["dataset"] == "digits"


def test_samples_are_a_figure_or_an_array_and_depend_on_the_seed(run, tmp_path):
    assert main(["sample", str(run), "--count", "2"]) == 0
    assert imread(run / "samples.png").min() < 0.5
    images = []
    for seed in ("0", "0", "1"):
        out = tmp_path / "samples.npy"
        assert main(["sample", str(run), "--count", "2", "--seed", seed, "--out", str(out)]) == 0
        images.append(np.load(out))
    assert images[0].shape == (2, 1, 28, 28) and set(np.unique(images[0])) <= {0.0, 1.0}
    assert (images[0] == images[1]).all() and (images[0] != images[2]).any()


def test_samples_at_temperature_0_depend_on_the_codes_alone(run, tmp_path):
    out = tmp_path / "samples.npy"
    options = ["--count", "3", "--temperature", "0", "--prior-temperature", "0"]
    assert main(["sample", str(run), *options, "--out", str(out)]) == 0
    images = np.load(out)
    assert (images == images[:1]).all()


def test_figures_of_a_run_are_written_to_its_folder(run, capsys):
    assert main(["figures", str(run), "--device", "cpu"]) == 0
    names = ("interpolations", "code_swap", "code_dimensions", "window_in_use", "code_map")
    for name in names:
        assert (run / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "nats more" in capsys.readouterr().out


def test_a_model_that_does_not_exist_is_named(capsys):
    assert main(["score", "nothing"]) == 2
    assert "there is no run in nothing" in capsys.readouterr().err
