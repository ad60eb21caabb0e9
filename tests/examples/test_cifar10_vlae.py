"""The color scripts as a user runs them, at small widths on images of random tints."""

import json
import shutil

import numpy as np
import pytest
import torch

from pyro_vlae.data import BYTES, ImageDataset, ImageSplit
from pyro_vlae.experiments import BinaryRecipe, ConfigError, load_run, recipes, train_command
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.reproducible import read_json, write_json

TINY = ["--width", "4", "--filters", "4", "--flow-maps", "16", "--device", "cpu"]
SHORT = ["--num-samples", "2", "--eval-images", "4", "--batch-size", "16", "--epochs", "1"]
RESULT_KEYS = {
    "dataset", "seed", "preset", "prior", "guide", "likelihood", "nll_nats", "nll_standard_error",
    "elbo_nats", "kl_nats", "kl_bits", "bits_per_dim", "num_samples", "num_images",
    "train_images_seen", "train_seconds", "device", "versions", "precision", "family",
}  # fmt: skip
FILES = {
    "config.json", "metrics.jsonl", "checkpoint", "results.json", "samples.png",
    "reconstructions.png", "training.png", "scores.npz",
}  # fmt: skip


def tinted(name, *_):
    assert name == "cifar10"
    generator = torch.Generator().manual_seed(0)

    def split(count):
        tint = torch.randint(20, 230, (count, 3, 1, 1), generator=generator)
        noise = torch.randint(0, 25, (count, 3, 32, 32), generator=generator)
        return ImageSplit((tint + noise).byte(), values=BYTES)

    return ImageDataset("cifar10", "random tints", split(64), split(16), split(40))


@pytest.fixture
def example(load_example, monkeypatch):
    monkeypatch.setattr(recipes, "load_dataset", tinted)
    return load_example("cifar10_vlae")


def test_a_run_writes_everything_and_resumes(example, tmp_path, capsys):
    out = tmp_path / "run"
    assert example.main([*TINY, *SHORT, "--window", "4x2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "width 4 (paper: 48)" in printed and "bits/dim" in printed
    assert {path.name for path in out.iterdir()} == FILES
    results = json.loads((out / "results.json").read_text())
    assert set(results) >= RESULT_KEYS and results["window"] == "4x2"
    assert results["bits_per_dim"] == pytest.approx(results["nll_nats"] / 3072 / 0.69314718)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["gamma"] <= 1 and line["kl_nats"] for line in lines)
    assert example.main(["--resume", "--out", str(out), "--epochs", "2"]) == 0
    assert "resuming at step 4, 64 images seen" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["train_images_seen"] == 128
    with pytest.raises(ConfigError, match="--window 4x2, got 7x4"):
        example.main(["--resume", "--out", str(out), "--window", "7x4"])


def test_a_finished_run_is_loaded_as_it_was_scored(example, tmp_path):
    out = tmp_path / "run"
    assert example.main([*TINY, *SHORT, "--encoder", "densenet", "--out", str(out)]) == 0
    with np.load(out / "scores.npz") as scores:
        index, expected = torch.from_numpy(scores["test_index"]), scores["log_prob"]
    x = tinted("cifar10").test.batch(index)
    model, guide = load_run(out)
    score = marginal_log_likelihood(model, guide, x, 2, image_index=index)
    assert model.card["config"]["encoder"] == "densenet"
    np.testing.assert_allclose(score.log_prob, expected, rtol=1e-6)


def test_flips_mirror_training_images_only(example, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        train_command, "carry_out", lambda recipe, data, *_: seen.append(recipe.augmented(data))
    )
    for options in ([], ["--flips"], ["--flips", "--no-flips"]):
        out = tmp_path / f"run{len(options)}"
        assert example.main([*TINY, *SHORT, *options, "--out", str(out)]) == 0
    assert [data.train.flip for data in seen] == [False, True, False]
    assert not seen[1].test.flip and not seen[1].validation.flip


def test_runs_of_several_windows_make_one_page(example, load_example, tmp_path):
    runs = []
    for window, encoder in (("7x4", "resnet"), ("7x4-gray", "densenet")):
        runs.append(str(tmp_path / window))
        options = [*TINY, *SHORT, "--window", window, "--encoder", encoder, "--prior", "normal"]
        assert example.main([*options, "--out", runs[-1]]) == 0
    page = load_example("cifar10_windows")
    out = tmp_path / "page"
    assert page.main([*runs, "--images", "34", "--device", "cpu", "--out", str(out)]) == 0
    assert (out / "windows.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    figures = read_json(out / "windows.json")
    assert list(figures) == ["7x4", "7x4-gray"]
    for entry in figures.values():
        assert 0 < entry["mean_color_error"] < 255 and entry["num_images"] == 34
    copies = [tmp_path / folder / "7x4" for folder in ("a", "b")]
    for copy in copies:
        shutil.copytree(runs[0], copy)
    given = [runs[0], *map(str, copies), "--images", "4", "--device", "cpu", "--out", str(out)]
    assert page.main(given) == 0
    figures = read_json(out / "windows.json")
    assert list(figures) == ["7x4", *(f"7x4 ({copy})" for copy in copies)]
    with pytest.raises(ConfigError, match="no run in"):
        page.main([str(tmp_path / "nowhere"), "--device", "cpu"])
    assert page.main(["cifar10", "--images", "2", "--device", "cpu", "--out", str(out)]) == 0
    assert list(read_json(out / "windows.json")) == ["7x4"]  # weights that come with the package
    config = read_json(copies[0] / "config.json")
    write_json(copies[0] / "config.json", {**config, "image_shape": [3, 16, 16]})
    with pytest.raises(ConfigError, match=r"the recipe is for \(3, 16, 16\)"):
        page.main([runs[0], str(copies[0]), "--device", "cpu"])
    write_json(copies[0] / "config.json", BinaryRecipe().to_config())
    with pytest.raises(ConfigError, match="of the family 'binary', expected a run on color images"):
        page.main([runs[0], str(copies[0]), "--device", "cpu"])


def test_without_options_every_device_gets_the_reduced_model(example, monkeypatch):
    seen = []
    monkeypatch.setattr(train_command, "carry_out", lambda recipe, *_: seen.append(recipe))
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(train_command, "pick_device", lambda name, d=device: torch.device(d))
        assert example.main([]) == 0
    assert [(recipe.preset, recipe.width) for recipe in seen] == 2 * [("quick", 16)]
