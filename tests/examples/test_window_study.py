"""The window study, and the figures of a trained code, as a user runs them."""

import json

import pytest

from pyro_vlae.experiments import window_study
from pyro_vlae.experiments.config import ConfigError
from pyro_vlae.models import load_run

TINY = ["--dataset", "digits", "--images", "256", "--eval-images", "4", "--num-samples", "3"]
TINY += ["--probe-images", "60", "--device", "cpu"]


def test_a_study_trains_scores_probes_draws_and_resumes(
    load_example, tmp_path, capsys, monkeypatch
):
    study, floors, fit = load_example("window_study"), [], window_study.fit

    def watched(*args, **kwargs):
        floors.append((kwargs["elbo"].free_nats, kwargs["settings"].max_steps))
        return fit(*args, **kwargs)

    monkeypatch.setattr(window_study, "fit", watched)
    options = [*TINY, "--windows", "none", "3x2", "--out", str(tmp_path / "study")]
    assert study.main(options) == 0
    figures = {}
    for window in ("none", "3x2"):
        stored = json.loads((tmp_path / "study" / window / "window.json").read_text())
        figures[window] = stored
        assert stored["images_seen"] == 256 and 0.05 < stored["probe"] <= 1
        assert stored["nll"] <= stored["rate"] + stored["distortion"] + 1e-3
    # Free bits hold for the first half only.
    assert floors == 2 * [(7.84, 2), (0.0, 4)]
    assert (tmp_path / "study" / "window_study.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="already holds a study"):
        study.main(options)
    assert study.main([*options, "--resume"]) == 0
    again = json.loads((tmp_path / "study" / "3x2" / "window.json").read_text())
    assert again["nll"] == pytest.approx(figures["3x2"]["nll"])
    with pytest.raises(
        ValueError, match=r"was begun with .*'steps': 4.*now it would be .*'steps': 8"
    ):
        study.main([*options, "--images", "512", "--resume"])
    with pytest.raises(ValueError, match="window must be"):
        study.main([*TINY, "--windows", "9x2", "--out", str(tmp_path / "other")])
    capsys.readouterr()


def test_code_figures_of_a_run(load_example, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--dataset", "digits", "--device", "cpu", "--max-minutes", "0.01"]
    options += ["--num-samples", "2", "--eval-images", "2", "--out", str(run)]
    assert load_example("mnist_vlae").main(options) == 0
    model, guide = load_run(run)
    assert model.card["results"]["num_images"] == 2 and not model.training and not guide.training
    assert load_example("code_figures").main([str(run), "--device", "cpu"]) == 0
    names = ("interpolations", "code_swap", "code_dimensions", "window_in_use", "code_map")
    for name in (f"{name}.png" for name in names):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"
    assert "nats more" in capsys.readouterr().out
