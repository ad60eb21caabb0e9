"""A run that is interrupted while scoring goes on scoring, in another process."""

import subprocess
import sys

import numpy as np
import pytest

from pyro_vlae.data import load_dataset
from pyro_vlae.experiments import BinaryRecipe, run
from pyro_vlae.experiments.run import RunInterrupted
from pyro_vlae.infer.partial import PartialScores

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
