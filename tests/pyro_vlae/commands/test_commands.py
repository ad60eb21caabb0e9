"""The commands on a run: train, score, sample, figures."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pyro_vlae.__main__ import main
from pyro_vlae.codec import CodecError, LosslessCodec, LossyCodec
from pyro_vlae.commands import figures, paper_table
from pyro_vlae.data import ImageDataset
from pyro_vlae.data.midi import read_midi
from pyro_vlae.data.piano_rolls import PianoRollDataset, PianoRollSplit
from pyro_vlae.experiments import (
    ConfigError,
    GrayRecipe,
    PianoRollRecipe,
    Recipe,
    load_run,
    recipe_for,
)
from pyro_vlae.experiments import run as run_recipe
from pyro_vlae.infer import decode

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


def test_the_place_of_the_scores_is_checked_before_scoring(run, tmp_path, monkeypatch, capsys):
    def stop(*args):
        raise ConfigError("scoring")

    monkeypatch.setattr(Recipe, "score", stop)
    assert main(["score", str(run), "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "is a folder: name the file to write" in capsys.readouterr().err
    out = tmp_path / "new" / "score.json"
    assert main(["score", str(run), "--device", "cpu", "--out", str(out)]) == 2
    assert "scoring" in capsys.readouterr().err and out.parent.is_dir()


def test_scores_are_printed_for_people(run, capsys):
    options = ["--num-samples", "3", "--eval-images", "1", "--device", "cpu"]
    assert main(["score", str(run), *options]) == 0
    printed = capsys.readouterr().out
    assert "with 3 importance samples per image the NLL is noticeably too high" in printed
    assert "(3 importance samples, 1 image)" in printed and "+-" not in printed
    values = dict(line.split() for line in printed.splitlines() if line.startswith("  "))
    assert values["num_samples"] == "3" and values["num_images"] == "1"
    assert values["nll_standard_error"] == "-"  # not known from one image


@pytest.fixture(scope="module")
def run_from_memory(tmp_path_factory):
    """The folder of a run on images that no file holds, and these images."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(60, 8, 8, generator=generator) < 0.3).numpy()
    data = ImageDataset.from_arrays(images, name="cells")
    recipe = recipe_for(data, max_steps=2, num_samples=2, eval_images=4)
    out = tmp_path_factory.mktemp("commands") / "cells"
    return out, images, run_recipe(recipe, data, out)


@pytest.mark.parametrize("command", ["score", "figures"])
def test_images_of_a_run_made_from_memory_can_be_named(run_from_memory, tmp_path, capsys, command):
    out, images, stored = run_from_memory
    np.savez(tmp_path / "cells.npz", images=images)
    assert main([command, str(out), "--device", "cpu"]) == 2
    assert "was trained on cells, which is not there" in capsys.readouterr().err
    given = ["--dataset", str(tmp_path / "cells.npz"), "--device", "cpu"]
    assert main([command, str(out), *given]) == 0
    if command == "score":
        file = tmp_path / "score.json"
        few = ["--num-samples", "2", "--eval-images", "4"]
        assert main([command, str(out), *given, *few, "--out", str(file)]) == 0
        again = json.loads(file.read_text())["nll_nats"]
        assert again == pytest.approx(stored["nll_nats"], rel=1e-5)
    assert main([command, str(out), "--dataset", "digits", "--device", "cpu"]) == 2
    assert "has images of shape (1, 28, 28)" in capsys.readouterr().err
    assert main([command, str(out), "--dataset", "clls.npz", "--device", "cpu"]) == 2
    assert "there is no file or folder clls.npz" in capsys.readouterr().err


def test_samples_are_a_figure_or_an_array_and_depend_on_the_seed(run, tmp_path):
    of_training = (run / "samples.png").read_bytes()
    assert main(["sample", str(run), "--count", "2"]) == 0
    assert imread(run / "new_samples.png").min() < 0.5
    assert (run / "samples.png").read_bytes() == of_training
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


def test_an_array_of_gray_samples_has_one_channel(tmp_path):
    levels = torch.arange(6, dtype=torch.uint8).view(2, 1, 1, 3)
    recipe = GrayRecipe(image_shape=(1, 1, 3))
    recipe.write_samples(recipe.values.sample(levels), tmp_path / "x.npy", "")
    assert np.load(tmp_path / "x.npy") == pytest.approx(levels.numpy() / 255, abs=1e-6)


def test_figures_of_a_run_depend_on_the_seed_alone(run, tmp_path, monkeypatch):
    seen = []

    def record(likelihood, x, seed):
        seen.append((likelihood.context, x))
        raise ValueError("not plotted")

    monkeypatch.setattr(figures, "pixel_influence", record)
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: None)
    for state, seed in ((0, "0"), (1, "0"), (0, "1")):
        torch.manual_seed(state)
        options = ["--device", "cpu", "--out", str(tmp_path), "--seed", seed]
        assert main(["figures", str(run), *options]) == 0
    assert all(torch.equal(*pair) for pair in zip(seen[0], seen[1], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(seen[0], seen[2], strict=True))


def test_figures_of_a_run_are_written_to_its_folder(run, capsys):
    assert main(["figures", str(run), "--device", "cpu"]) == 0
    names = ("interpolations", "code_swap", "code_dimensions", "window_in_use", "code_map")
    for name in (*names, "neighbors"):
        assert (run / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "nats more" in printed
    assert re.search(r"test images by codes has the same label for [\d.]+% ± ", printed)


def test_a_model_that_does_not_exist_is_named(capsys):
    assert main(["score", "nothing"]) == 2
    assert "there is no run in nothing" in capsys.readouterr().err


def test_the_same_command_starts_and_resumes_a_run(tmp_path, capsys):
    command = ["train", "binary", *TINY, "--seed", "3", "--resume", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert "resuming" not in capsys.readouterr().out
    assert main(command) == 0
    assert "resuming at step" in capsys.readouterr().out


def test_rows_of_a_table_that_are_scored_are_skipped(tmp_path, capsys, monkeypatch):
    row = paper_table.TABLES["static-mnist"][0].name
    monkeypatch.setitem(paper_table.TABLES, "digits", paper_table.TABLES["static-mnist"][:1])
    command = ["paper-table", "digits", "--results", str(tmp_path), *TINY[2:]]
    assert main(command) == 0
    results = tmp_path / row / "results.json"
    before = results.stat().st_mtime_ns
    capsys.readouterr()
    for more in ([], ["--resume"], ["--resume", "--max-minutes", "0.005"]):
        assert main([*command, *more]) == 0
        assert f"{row}: skipped" in capsys.readouterr().out
    assert results.stat().st_mtime_ns == before
    assert main([*command, "--resume", "--num-samples", "4"]) == 0  # another evaluation
    assert json.loads(results.read_text())["num_samples"] == 4


@pytest.fixture(scope="module")
def piano_rolls(tmp_path_factory):
    """The folder of a piano-roll run of two steps, and its data."""
    frames = (torch.rand(40, 88, generator=torch.Generator().manual_seed(0)) < 0.03).byte()
    train = PianoRollSplit(frames, torch.tensor([9] * 4 + [4]))
    short = PianoRollSplit(frames[:9], torch.tensor([4, 3, 2]))
    data = PianoRollDataset("chords", "chords", train, short, short)
    sizes = {"hidden": 4, "code_channels": 2, "code_hidden": 4, "window": 1, "crop": 8}
    recipe = PianoRollRecipe(max_steps=2, batch_size=2, num_samples=2, eval_images=3, **sizes)
    out = tmp_path_factory.mktemp("commands") / "piano-rolls"
    return out, data, run_recipe(recipe, data, out)


def test_scores_of_piano_rolls_are_those_of_the_run(piano_rolls, tmp_path, monkeypatch, capsys):
    out, data, stored = piano_rolls
    monkeypatch.setattr(PianoRollRecipe, "load_data", lambda *arguments: data)
    file = tmp_path / "score.json"
    options = ["--num-samples", "2", "--device", "cpu", "--out", str(file)]
    assert main(["score", str(out), *options]) == 0
    again = json.loads(file.read_text())
    for name in ("nll_nats_per_frame", "kl_nats_per_frame"):
        assert again[name] == pytest.approx(stored[name], rel=1e-4)
    assert f"{again['nll_nats_per_frame']:.4f}" in capsys.readouterr().out


def test_a_run_is_resumed_without_naming_its_family(piano_rolls, tmp_path, monkeypatch, capsys):
    out, data, _ = piano_rolls
    monkeypatch.setattr(PianoRollRecipe, "load_data", lambda *arguments: data)
    shutil.copytree(out, tmp_path / "run")
    assert main(["train", "--resume", "--device", "cpu", f"--out={tmp_path / 'run'}"]) == 0
    assert "already trained for 2 steps" in capsys.readouterr().out
    assert main(["train", "color", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "resume it with pyro-vlae train piano_roll" in capsys.readouterr().err


def test_samples_of_piano_rolls_are_a_figure_an_array_or_music(piano_rolls, tmp_path):
    run = str(piano_rolls[0])
    options = ["sample", run, "--count", "2", "--frames", "3", "--seed", "4"]
    for name in ("rolls.png", "rolls.npy", "music"):
        assert main([*options, "--out", str(tmp_path / name)]) == 0
    # Pictures of 48 frames at least, with the keys as rows.
    height, width = imread(tmp_path / "rolls.png").shape[:2]
    assert height > 88 and width > 2 * 48
    rolls = np.load(tmp_path / "rolls.npy")
    assert rolls.shape == (2, 1, 3, 88) and set(np.unique(rolls)) == {0.0, 1.0}
    files = sorted((tmp_path / "music").iterdir())
    assert [path.name for path in files] == ["sample-0.mid", "sample-1.mid"]
    for path, roll in zip(files, rolls, strict=True):
        assert (read_midi(path) == roll[0]).all()


def test_options_that_do_not_fit_the_family_are_refused(run, piano_rolls, tmp_path, capsys):
    out = tmp_path / "samples.npy"
    for folder, option in (
        (run, "--frames"),
        (piano_rolls[0], "--temperature"),
        (piano_rolls[0], "--prior-temperature"),
    ):
        assert main(["sample", str(folder), option, "1", "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"cannot be sampled with {option}: leave it out" in line
    assert not out.exists()


def test_figures_of_codes_refuse_piano_rolls(piano_rolls, capsys):
    assert main(["figures", str(piano_rolls[0])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model of piano rolls" in line and "use pyro-vlae sample" in line


def test_codecs_refuse_piano_rolls(piano_rolls):
    model, guide = load_run(piano_rolls[0])
    for codec in (LossyCodec, LosslessCodec):
        with pytest.raises(CodecError, match="needs lengths, frames"):
            codec(model, guide)


def test_decoding_codes_of_piano_rolls_is_an_error_with_a_reason(piano_rolls):
    model, _ = load_run(piano_rolls[0])
    with pytest.raises(ValueError, match="size of its images must follow"):
        decode(model, torch.zeros(2, 6))
