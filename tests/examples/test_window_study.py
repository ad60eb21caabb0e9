"""The window study, as a user runs it."""

import json

import numpy as np
import pytest

from pyro_vlae.experiments import BinaryRecipe, ConfigError, binary
from pyro_vlae.experiments.window_study import window_options, window_rows

TINY = ["--dataset", "digits", "--images", "256", "--eval-images", "4", "--num-samples", "3"]
TINY += ["--probe-images", "60", "--device", "cpu"]


def test_a_study_is_a_list_of_runs_with_a_probe_and_resumes(load_example, tmp_path, capsys):
    study = load_example("window_study")
    options = [*TINY, "--windows", "none", "3x2", "--out", str(tmp_path / "study")]
    assert study.main([*options, "--precision", "fp32"]) == 0
    stored = {}
    for window in ("none", "3x2"):
        folder = tmp_path / "study" / window
        stored[window] = results = json.loads((folder / "results.json").read_text())
        assert results["train_images_seen"] == 256 and 0.05 < results["probe"] <= 1
        assert results["precision"] == "fp32"
        assert results["nll_nats"] <= -results["elbo_nats"] + 1e-3
        assert (folder / "reconstructions.png").exists() and (folder / "scores.npz").exists()
    assert stored["none"]["likelihood"] == "bernoulli" and stored["3x2"]["window"] == "3x2"
    assert (tmp_path / "study" / "window_study.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="already holds a study"):
        study.main(options)
    assert study.main([*options, "--resume"]) == 0
    again = json.loads((tmp_path / "study" / "3x2" / "results.json").read_text())
    assert again["nll_nats"] == pytest.approx(stored["3x2"]["nll_nats"])
    with pytest.raises(ConfigError, match="none was made for 4 steps, got 8: give the number"):
        study.main([*options, "--images", "512", "--resume"])
    with pytest.raises(ValueError, match="window must be"):
        study.main([*TINY, "--windows", "9x2", "--out", str(tmp_path / "other")])
    capsys.readouterr()


def test_free_bits_hold_for_the_first_half_only(monkeypatch):
    recipe = BinaryRecipe.from_options(dataset="digits", **window_options("4x2", 256, 7.84))
    assert recipe.max_steps == 4 and recipe.max_minutes is None and recipe.decay_start == 0.5
    monkeypatch.setattr(binary, "FreeBitsELBO", lambda free_nats: free_nats)
    schedule = recipe.objective(784)
    assert [schedule(step / 4) for step in range(4)] == [7.84, 7.84, 0.0, 0.0]


def test_the_window_all_sees_every_earlier_pixel():
    assert window_options("all", 64, 0.0)["window"] == "55x28"
    assert window_options("none", 64, 0.0)["likelihood"] == "bernoulli"


def test_rows_of_a_figure_hold_paired_errors(tmp_path):
    results = {}
    for window, shift in (("4x2", 0.0), ("7x4", 2.0)):
        (tmp_path / window).mkdir()
        log_prob = np.array([-80.0, -90.0, -100.0]) + shift
        arrays = {
            "test_index": np.arange(3),
            "log_prob": log_prob,
            "monte_carlo_error": np.zeros(3),
        }
        np.savez(tmp_path / window / "scores.npz", **arrays)
        results[window] = {
            "nll_nats": 90.0 - shift, "nll_standard_error": 5.0, "kl_nats": 10.0,
            "elbo_nats": -92.0, "probe": 0.9, "probe_error": 0.01,
            "num_samples": 8, "dataset": "mnist",
        }  # fmt: skip
        (tmp_path / window / "results.json").write_text(json.dumps(results[window]))
    rows = window_rows(results, tmp_path)
    assert [row["distortion"] for row in rows] == [82.0, 82.0]
    assert [row["difference_error"] for row in rows] == pytest.approx([0.0, 0.0])
    alone = window_rows({"4x2": results["4x2"]}, tmp_path)
    assert "difference_error" not in alone[0] and alone[0]["nll_error"] == 5.0
