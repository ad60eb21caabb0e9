"""Runs on piano rolls: train, score in nats per frame, resume, load."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vlae.data import datasets
from pyro_vlae.data.piano_rolls import KEYS, PIANO_ROLLS, PianoRollDataset, PianoRollSplit
from pyro_vlae.experiments import PianoRollRecipe, load_run, piano_roll
from pyro_vlae.experiments.piano_roll import score_pieces
from pyro_vlae.experiments.train_command import train
from pyro_vlae.infer import importance
from pyro_vlae.infer.partial import PartialScores
from pyro_vlae.infer.weights import PER_IMAGE

ROOT = Path(__file__).parents[3]
ROW = re.compile(
    r"^\|.*\| `(results/[\w-]+)` \| ([\d.]+) ± ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) steps",
    re.MULTILINE,
)
SIZES = ("--window", "2", "--hidden", "8", "--code-hidden", "8", "--crop", "8")


def read_scales(store):
    """Scales upward, which the past frame predicts."""

    def split(*lengths):
        frames = torch.zeros(sum(lengths), KEYS, dtype=torch.uint8)
        frames[torch.arange(len(frames)), 40 + torch.arange(len(frames)) % 12] = 1
        return PianoRollSplit(frames, torch.tensor(lengths))

    return PianoRollDataset("scales", "scales", split(*[12] * 16), split(12, 9), split(6, 3, 4))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    entry = read_scales, PIANO_ROLLS
    monkeypatch.setattr(datasets, "_READERS", {**datasets._READERS, "scales": entry})


def start(out, *options):
    given = ["--dataset", "scales", "--num-samples", "3", "--device", "cpu", "--out", str(out)]
    return train(PianoRollRecipe, "Rolls.", [*given, *options])


@pytest.mark.parametrize("model", ["vlae", "unconditional"])
def test_a_run_trains_scores_and_resumes(tmp_path, monkeypatch, capsys, model):
    monkeypatch.setattr("pyro_vlae.models.piano_roll.FRAMES", 1)
    assert start(tmp_path, *SIZES, "--epochs", "1", "--model", model) == 0
    first = json.loads((tmp_path / "results.json").read_text())
    assert start(tmp_path, "--resume", "--epochs", "2") == 0
    printed = capsys.readouterr().out
    assert "all test pieces" in printed and "16 pieces seen" in printed
    assert "image" not in printed.replace(str(tmp_path), "")
    results = json.loads((tmp_path / "results.json").read_text())
    assert (first["train_images_seen"], results["train_images_seen"]) == (16, 32)
    scores = np.load(tmp_path / "scores.npz")
    lengths = np.array([6, 3, 4])[scores["test_index"]]
    assert results["num_frames"] == 13
    assert results["nll_nats_per_frame"] == pytest.approx(-scores["log_prob"].sum() / 13)
    assert results["bound_nats_per_frame"] == pytest.approx(-scores["elbo"].sum() / 13)
    rate = results["kl_nats_per_frame"]
    assert rate == pytest.approx((scores["kl"]).sum() / 13)
    assert (rate == 0) == (model == "unconditional")
    assert results["bound_nats_per_frame"] >= results["nll_nats_per_frame"]
    bits = results["nll_nats_per_frame"] / (KEYS * math.log(2))
    assert results["bits_per_dim"] == pytest.approx(bits)
    residual = -scores["log_prob"] - results["nll_nats_per_frame"] * lengths
    error = residual.std(ddof=1) * 3**0.5 / 13
    assert results["nll_nats_per_frame_standard_error"] == pytest.approx(error)
    loaded, guide = load_run(tmp_path)
    assert loaded(batch_size=2, frames=3).shape == (2, 1, 3, KEYS)
    data = read_scales(None)
    again = score_pieces(loaded, guide, data.test, torch.tensor([2, 0]), 3)
    order = [scores["test_index"].tolist().index(n) for n in (2, 0)]
    np.testing.assert_allclose(again.log_prob, scores["log_prob"][order], atol=1e-3)


def test_figures_of_the_page_are_those_of_the_committed_runs():
    rows = ROW.findall((ROOT / "docs" / "piano_rolls.md").read_text())
    assert len(rows) >= 2
    for run, *figures, steps in rows:
        results = json.loads((ROOT / run / "results.json").read_text())
        names = ("nll", "nll", "bound", "kl")
        ends = ("", "_standard_error", "", "")
        for figure, name, end in zip(figures, names, ends, strict=True):
            exact = results[f"{name}_nats_per_frame{end}"]
            assert float(figure) == pytest.approx(math.ceil(1000 * exact) / 1000)
        assert int(steps.replace(",", "")) * results["batch_size"] == results["train_images_seen"]


def test_bits_per_dimension_of_committed_runs_are_per_key():
    runs = [json.loads(path.read_text()) for path in (ROOT / "results").glob("**/results.json")]
    runs = [run for run in runs if "nll_nats_per_frame" in run]
    assert len(runs) >= 9
    for run in runs:
        bits = run["nll_nats_per_frame"] / (KEYS * math.log(2))
        assert run["bits_per_dim"] == pytest.approx(bits)


def test_options_that_cannot_be_leave_no_folder(tmp_path):
    with pytest.raises(ValueError, match="crop"):
        start(tmp_path / "run", "--crop", "10")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def scored():
    """A model, its guide, and pieces to score."""
    torch.manual_seed(0)
    recipe = PianoRollRecipe(hidden=4, code_channels=2, code_hidden=4, window=1)
    model, guide = recipe.build()
    return model.eval(), guide.eval(), read_scales(None).test


def test_scoring_goes_on_at_the_piece_where_it_was_interrupted(scored, tmp_path, monkeypatch):
    index, file = torch.tensor([2, 0, 1]), tmp_path / "scores.partial.npz"
    whole = score_pieces(*scored, index, 3)
    with monkeypatch.context() as patch:
        add = PartialScores.add

        def interrupted(self, *block):
            add(self, *block)
            if self.count == 2:
                raise KeyboardInterrupt

        patch.setattr(PartialScores, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score_pieces(*scored, index, 3, resume_file=file)
    sampled = []
    batch = type(scored[2]).batch
    monkeypatch.setattr(
        type(scored[2]), "batch", lambda self, n: (sampled.append(n.tolist()), batch(self, n))[1]
    )
    resumed = score_pieces(*scored, index, 3, resume_file=file)
    assert sampled == [[1]]
    for name in PER_IMAGE:
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))


def test_ranks_share_the_pieces(scored, monkeypatch):
    index = torch.tensor([2, 0, 1])
    whole = score_pieces(*scored, index, 3)
    parts = []
    monkeypatch.setattr(importance, "sum_over_ranks", lambda tensors: parts.append(tensors[0]))
    for number in (0, 1):
        for module in (importance, piano_roll):
            monkeypatch.setattr(module, "rank", lambda n=number: n)
            monkeypatch.setattr(module, "world_size", lambda: 2)
        score_pieces(*scored, index, 3)
    assert (parts[0][:, 1] == 0).all() and (parts[1][:, ::2] == 0).all()
    for row, name in zip(sum(parts), PER_IMAGE, strict=True):
        torch.testing.assert_close(row, getattr(whole, name), equal_nan=True)
