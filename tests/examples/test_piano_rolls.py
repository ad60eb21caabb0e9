"""The scripts for piano rolls, on a few short pieces."""

import json

import pytest
import torch

from pyro_vlae.data import datasets
from pyro_vlae.data.midi import read_midi
from pyro_vlae.data.piano_rolls import PIANO_ROLLS, PianoRollDataset, PianoRollSplit
from pyro_vlae.experiments import ConfigError, piano_roll_music, train_command
from pyro_vlae.experiments.piano_roll_music import melody_mask
from pyro_vlae.experiments.run import RunInterrupted

SIZES = ("--hidden", "4", "--code-channels", "2")
GIVEN = 2


def read_chords(store):
    def split(*lengths):
        generator = torch.Generator().manual_seed(len(lengths))
        frames = torch.rand(sum(lengths), 88, generator=generator) < 0.03
        frames[:, :20] = frames[:, 70:] = False
        return PianoRollSplit(frames.to(torch.uint8), torch.tensor(lengths))

    train = split(*[9] * 16)
    return PianoRollDataset("chords", "chords", train, split(3, 2), split(4, 3, 2))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    entry = read_chords, PIANO_ROLLS
    monkeypatch.setattr(datasets, "_READERS", {**datasets._READERS, "chords": entry})
    monkeypatch.setattr(piano_roll_music, "GIVEN", GIVEN)
    monkeypatch.setattr(piano_roll_music, "_FRAMES", GIVEN + 1)
    monkeypatch.setattr("pyro_vlae.models.piano_roll.FRAMES", 1)


def options(out):
    given = ["--dataset", "chords", "--device", "cpu", "--num-samples", "2", "--out", str(out)]
    return given, [*SIZES, "--code-hidden", "4", "--crop", "8", "--window", "1"]


@pytest.mark.parametrize("model", ["vlae", "unconditional"])
def test_a_run_writes_scores_pictures_and_music(load_example, tmp_path, capsys, model):
    given, sizes = options(tmp_path)
    assert (
        load_example("piano_rolls").main([*given, *sizes, "--epochs", "1", "--model", model]) == 0
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert f"NLL {results['nll_nats_per_frame']:.3f}" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {"samples.png", "continuations.png", "melodies.png", "midi"} <= names
    files = {path.stem: read_midi(path) for path in (tmp_path / "midi").iterdir()}
    code = "own-code" if model == "vlae" else "without-a-code"
    originals = [files[f"continuation-{n}-original"] for n in range(2)]
    chords = read_chords(None).test
    for number, original in enumerate(originals):
        assert (original == chords.piece(number)[: GIVEN + 1].numpy()).all()
        assert (files[f"continuation-{number}-{code}"][:GIVEN] == original[:GIVEN]).all()
        played = torch.from_numpy(files[f"melody-{number}-{code}"])
        mask = melody_mask(torch.from_numpy(original)[None, None])[0, 0]
        assert (played[mask].numpy() == original[mask.numpy()]).all()
    assert files["new-0-sample"].shape == (GIVEN + 1, 88)
    sizes = results["smallest_effective_sample_sizes"][code.replace("-", " ")]
    assert len(sizes) == 2 and all(0.999 < size < 256.1 for size in sizes)


def test_the_melody_is_the_highest_key_and_what_is_above():
    x = torch.zeros(1, 1, 3, 88)
    x[0, 0, 0, [30, 40]] = 1
    x[0, 0, 2] = -1
    mask = melody_mask(x)[0, 0]
    assert mask[0, 40:].all() and not mask[0, :40].any()
    assert not mask[1:].any()  # silence is free


def test_a_study_of_two_windows(load_example, tmp_path):
    example = load_example("piano_roll_windows")
    example.FRAMES = 2
    given, _ = options(tmp_path)
    study = [*given, *SIZES, "--windows", "1", "2", "--steps", "1"]
    assert example.main(study) == 0
    assert (tmp_path / "window_study.png").stat().st_size > 10_000
    for window in ("1", "2"):
        results = json.loads((tmp_path / window / "results.json").read_text())
        assert 0 <= results["probe_pitch_class"] <= 1 and 0 <= results["probe_mode_baseline"] <= 1
    with pytest.raises(ConfigError, match="already holds a study"):
        example.main(study)


def test_resuming_needs_a_folder(load_example):
    with pytest.raises(ConfigError, match="needs --out"):
        load_example("piano_rolls").main(["--resume"])


def test_another_rank_takes_the_folder_of_rank_0_and_plays_nothing(
    load_example, tmp_path, monkeypatch
):
    example = load_example("piano_rolls")
    monkeypatch.setattr(example, "rank", lambda: 1)
    monkeypatch.setattr(train_command, "new_folder", lambda recipe: tmp_path / "own")
    monkeypatch.setattr(
        train_command, "from_rank_0", lambda value: tmp_path / "shared" if value else value
    )
    given, sizes = options(tmp_path)
    assert example.main([*given[:-2], *sizes, "--epochs", "1"]) == 0
    assert not (tmp_path / "own").exists()
    assert (tmp_path / "shared" / "results.json").exists()
    assert not (tmp_path / "shared" / "midi").exists()


def test_ctrl_c_while_music_is_written_says_how_to_go_on(load_example, tmp_path, monkeypatch):
    example = load_example("piano_rolls")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(example, "play", interrupted)
    given, sizes = options(tmp_path / "run")
    with pytest.raises(RunInterrupted) as caught:
        example.main([*given, *sizes, "--epochs", "1"])
    assert caught.value.folder == tmp_path / "run"
