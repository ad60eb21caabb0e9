"""A run that is interrupted while scoring goes on scoring, in another process."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pyro_vlae.data import ImageDataset, load_dataset
from pyro_vlae.experiments import BinaryRecipe, ConfigError, load_run, recipe_for, run
from pyro_vlae.experiments.run import RunInterrupted
from pyro_vlae.infer.partial import PartialScores
from pyro_vlae.training import fit, read_checkpoint

RECIPE = {
    **{"dataset": "digits", "max_steps": 2, "batch_size": 8, "eval_images": 20},
    **{"num_samples": 100, "code_dim": 2, "filters": 4, "masked_layers": 1},
}
RESUME = f"""
import sys
from pyro_vlae.data import load_dataset
from pyro_vlae.experiments import BinaryRecipe, run
run(BinaryRecipe(**{RECIPE!r}), load_dataset("digits"), sys.argv[1], resume=True)
"""


def test_scoring_goes_on_in_another_process(tmp_path, monkeypatch):
    recipe, data = BinaryRecipe(**RECIPE), load_dataset("digits")
    run(recipe, data, tmp_path / "whole")
    add = PartialScores.add

    def interrupted(self, *block):
        add(self, *block)
        if self.count >= 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartialScores, "add", interrupted)
    with pytest.raises(RunInterrupted) as caught:
        run(recipe, data, tmp_path / "cut")
    assert caught.value.folder == tmp_path / "cut"
    command = [sys.executable, "-c", RESUME, str(tmp_path / "cut")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    assert "already trained for 2 steps" in process.stdout
    assert "starts again" not in process.stderr
    assert " 8/20 " in process.stderr and " 0/20 " not in process.stderr  # the progress bar
    with (
        np.load(tmp_path / "whole/scores.npz") as whole,
        np.load(tmp_path / "cut/scores.npz") as cut,
    ):
        for name in whole.files:
            np.testing.assert_array_equal(cut[name], whole[name])
    assert not list(tmp_path.glob("*/scores.partial*"))


def test_resuming_says_if_there_is_no_checkpoint_yet(tmp_path, monkeypatch, capsys):
    recipe, data = BinaryRecipe(**RECIPE), load_dataset("digits")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[run.__module__], "fit", interrupted)
        with pytest.raises(RunInterrupted):
            run(recipe, data, tmp_path, resume=True)
    assert "no checkpoint yet" not in capsys.readouterr().out  # the folder was new
    assert run(recipe, data, tmp_path, resume=True)["num_images"] == 20
    assert "has no checkpoint yet: training starts from the beginning" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [{"decay_start": 1.5}, {"ema_decay": 1.5}])
def test_wrong_schedules_and_averages_leave_no_folder(tmp_path, wrong):
    recipe = BinaryRecipe(**RECIPE, **wrong)
    with pytest.raises(ValueError, match=r"decay.* must lie in \[0, 1.*, got 1\.5"):
        run(recipe, load_dataset("digits"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_changed_data_are_noticed_when_a_run_is_resumed(tmp_path):
    images = np.random.default_rng(0).random((40, 8, 8)) < 0.5
    data = ImageDataset.from_arrays(images, name="cells")
    images[3, 2, 1] ^= True
    changed = ImageDataset.from_arrays(images, name="cells")
    options = {"num_samples": 2, "eval_images": 3, "code_dim": 2, "filters": 4, "batch_size": 8}
    short, longer = (recipe_for(data, **options, max_steps=n) for n in (1, 2))
    run(short, data, tmp_path)
    with pytest.raises(ConfigError) as caught:
        run(longer, changed, tmp_path, resume=True)
    assert data.description in str(caught.value) and changed.description in str(caught.value)
    run(longer, data, tmp_path, resume=True)
    (tmp_path / "config.json").unlink()
    assert load_run(tmp_path)[0].card["config"] == longer.to_config()


def test_runs_that_do_not_record_their_data_can_be_resumed(tmp_path, monkeypatch):
    recipe, data = BinaryRecipe(**RECIPE), load_dataset("digits")

    def older(*parts, config, **options):
        return fit(*parts, config=recipe.to_config(), **options)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[run.__module__], "fit", older)
        run(recipe, data, tmp_path)
    assert "dataset_description" not in read_checkpoint(tmp_path / "checkpoint").state["config"]
    results = run(replace(recipe, max_steps=3), data, tmp_path, resume=True)
    assert results["train_images_seen"] == 24


def test_a_finished_run_is_scored_again_only_for_other_scores(tmp_path, monkeypatch, capsys):
    recipe, data = BinaryRecipe(**RECIPE), load_dataset("digits")
    results = run(recipe, data, tmp_path)
    counts = []

    def counted(self, *arguments):
        counts.append(self.num_samples)
        return score(self, *arguments)

    score = BinaryRecipe.score
    monkeypatch.setattr(BinaryRecipe, "score", counted)
    capsys.readouterr()
    assert run(recipe, data, tmp_path, resume=True) == json.loads(json.dumps(results))
    assert not counts and "already scored" in capsys.readouterr().out
    run(replace(recipe, num_samples=50), data, tmp_path, resume=True)  # other scores
    run(replace(recipe, num_samples=50, max_steps=3), data, tmp_path, resume=True)  # other weights
    assert counts == [50, 50]
    path = tmp_path / "results.json"
    path.write_text(path.read_text().replace('"nll_nats": ', '"nll_nats": 1'))  # damaged
    run(recipe, data, tmp_path, resume=True)
    (tmp_path / "scores.npz").unlink()
    run(recipe, data, tmp_path, resume=True)
    assert counts == [50, 50, 100, 100] and (tmp_path / "scores.npz").exists()
