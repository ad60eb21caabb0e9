"""The window study, and the figures of a trained code, as a user runs them."""

import json

import pytest
import torch

from pyro_vlae.experiments import BinaryRecipe, ConfigError, load_run
from pyro_vlae.experiments.window_study import WindowResult, plot_window_study, window_options

TINY = ["--dataset", "digits", "--images", "256", "--eval-images", "4", "--num-samples", "3"]
TINY += ["--probe-images", "60", "--device", "cpu"]


def test_a_study_is_a_list_of_runs_with_a_probe_and_resumes(load_example, tmp_path, capsys):
    study = load_example("window_study")
    options = [*TINY, "--windows", "none", "3x2", "--out", str(tmp_path / "study")]
    assert study.main(options) == 0
    stored = {}
    for window in ("none", "3x2"):
        folder = tmp_path / "study" / window
        stored[window] = results = json.loads((folder / "results.json").read_text())
        assert results["train_images_seen"] == 256 and 0.05 < results["probe"] <= 1
        assert results["nll_nats"] <= -results["elbo_nats"] + 1e-3
        assert (folder / "reconstructions.png").exists() and (folder / "scores.npz").exists()
    assert stored["none"]["likelihood"] == "bernoulli" and stored["3x2"]["window"] == "3x2"
    assert (tmp_path / "study" / "window_study.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="already holds a study"):
        study.main(options)
    assert study.main([*options, "--resume"]) == 0
    again = json.loads((tmp_path / "study" / "3x2" / "results.json").read_text())
    assert again["nll_nats"] == pytest.approx(stored["3x2"]["nll_nats"])
    with pytest.raises(ConfigError, match="with max_steps 4, got 8"):
        study.main([*options, "--images", "512", "--resume"])
    with pytest.raises(ValueError, match="window must be"):
        study.main([*TINY, "--windows", "9x2", "--out", str(tmp_path / "other")])
    capsys.readouterr()


def test_free_bits_hold_for_the_first_half_only():
    recipe = BinaryRecipe.from_options(dataset="digits", **window_options("4x2", 256, 7.84))
    assert recipe.max_steps == 4 and recipe.max_minutes is None and recipe.decay_start == 0.5
    elbo = recipe.objective(784)
    model, guide = recipe.build()
    x = torch.rand(4, 1, 28, 28).round()
    floors = []
    for step in range(recipe.max_steps):
        elbo.progress = step / recipe.max_steps
        elbo.loss(model, guide, x)
        floors.append(elbo.free_nats)
    assert floors == [7.84, 7.84, 0.0, 0.0]


def test_the_window_all_sees_every_earlier_pixel():
    assert window_options("all", 64, 0.0)["window"] == "55x28"
    assert window_options("none", 64, 0.0)["likelihood"] == "bernoulli"


def test_the_figure_needs_pictures_for_every_window():
    result = WindowResult("4x2", 90.0, 1.0, 10.0, 81.0, 0.9, 0.01)
    x = torch.zeros(2, 1, 4, 4)
    figure = plot_window_study(x, [x], [result])
    assert len(figure.axes) == 4
    with pytest.raises(ValueError, match="each of the 1 results"):
        plot_window_study(x, [x, x], [result])


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
