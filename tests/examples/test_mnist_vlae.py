"""The main job as a user runs it, on the data set that needs no download."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vlae.data import DatasetError, DatasetNotFoundError, load_dataset
from pyro_vlae.experiments import BinaryRecipe, ConfigError, command_line, recipes, train_command
from pyro_vlae.nn import TwoStackNet
from pyro_vlae.training import CheckpointError

SCRIPT = Path(__file__).parents[2] / "examples" / "mnist_vlae.py"
TINY = ["--num-samples", "4", "--eval-images", "8", "--device", "cpu"]
DIGITS = ["--dataset", "digits", *TINY]
RESULT_KEYS = {
    "dataset", "seed", "preset", "prior", "guide", "likelihood", "nll_nats", "nll_standard_error",
    "elbo_nats", "kl_nats", "kl_bits", "bits_per_dim", "num_samples", "num_images",
    "train_images_seen", "train_seconds", "device", "versions", "precision", "family",
}  # fmt: skip
FILES = {
    "config.json", "metrics.jsonl", "checkpoint", "results.json", "samples.png",
    "reconstructions.png", "training.png", "scores.npz",
}  # fmt: skip


@pytest.fixture
def example(load_example):
    return load_example("mnist_vlae")


def run_script(*options, cwd, **kwargs):
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **kwargs)


def test_a_run_writes_everything_and_a_finished_run_resumes_at_once(example, tmp_path, capsys):
    out = tmp_path / "run"
    assert example.main([*DIGITS, "--epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "preset quick" in printed and "digits" in printed and "test NLL" in printed
    assert {path.name for path in out.iterdir()} == FILES
    results = json.loads((out / "results.json").read_text())
    assert set(results) >= RESULT_KEYS
    assert results["train_images_seen"] == 18 * 64
    assert results["num_images"] == 8 and results["num_samples"] == 4
    assert results["nll_nats"] > 0 > results["elbo_nats"]
    assert results["nll_nats"] <= -results["elbo_nats"]
    assert results["kl_bits"] == pytest.approx(results["kl_nats"] / 0.6931471805599453)
    for name in FILES:
        if name.endswith(".png"):
            assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    before = (out / "metrics.jsonl").read_bytes()
    assert example.main(["--resume", "--out", str(out), "--num-samples", "8"]) == 0
    again = json.loads((out / "results.json").read_text())
    assert again["num_samples"] == 8 and again["train_images_seen"] == 18 * 64
    assert (out / "metrics.jsonl").read_bytes() == before
    capsys.readouterr()
    assert example.main(["--resume", "--out", str(out), "--epochs", "2"]) == 0
    assert "resuming at step 18, 1,152 images seen" in capsys.readouterr().out
    longer = json.loads((out / "results.json").read_text())
    assert longer["train_images_seen"] == 2 * 18 * 64

    # A copy without the log of training can be scored anew.
    copied = tmp_path / "copy"
    shutil.copytree(out, copied, ignore=shutil.ignore_patterns("*.jsonl", "*.png", "*.npz"))
    assert example.main(["--resume", "--out", str(copied), "--num-samples", "2"]) == 0
    assert json.loads((copied / "results.json").read_text())["num_samples"] == 2
    assert {path.name for path in copied.iterdir()} == FILES - {"training.png"}


@pytest.mark.parametrize(
    "choice", [["--prior", "normal"], ["--guide", "iaf"], ["--likelihood", "bernoulli"]]
)
def test_each_choice_trains_and_is_recorded(example, tmp_path, choice):
    out = tmp_path / "run"
    options = [*DIGITS, *choice, "--max-minutes", "0.01", "--batch-size", "16"]
    assert example.main([*options, "--seed", "3", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results[choice[0][2:]] == choice[1]
    assert results["seed"] == 3


def test_without_data_it_says_so_and_continues_with_digits(example, tmp_path, monkeypatch, capsys):
    def missing(name, *args, **kwargs):
        if name == "static-mnist":
            raise DatasetNotFoundError("static-mnist was not found.\nmore lines")
        return load_dataset(name, *args, **kwargs)

    monkeypatch.setattr(recipes, "load_dataset", missing)
    monkeypatch.chdir(tmp_path)
    assert example.main([*TINY, "--max-minutes", "0.01", "--batch-size", "16"]) == 0
    printed = capsys.readouterr().out
    assert "static-mnist was not found. Continuing with the data set digits." in printed
    results = json.loads((tmp_path / "runs" / "digits-quick" / "results.json").read_text())
    assert results["dataset"] == "digits"
    with pytest.raises(DatasetNotFoundError):
        example.main([*TINY, "--dataset", "static-mnist", "--max-minutes", "0.01"])


def test_runs_without_a_folder_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = BinaryRecipe.from_options(dataset="digits")
    assert train_command.new_folder(recipe) == Path("runs/digits-quick")
    Path("runs/digits-quick").mkdir(parents=True)
    assert train_command.new_folder(recipe) == Path("runs/digits-quick-2")


def test_sigterm_saves_and_the_run_goes_on(tmp_path):
    out = tmp_path / "run"
    options = [*DIGITS, "--epochs", "200", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *options], stderr=subprocess.PIPE, cwd=tmp_path, text=True
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoint" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "--resume" in message and "Traceback" not in message
    result = run_script("--resume", "--out", str(out), "--epochs", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((out / "results.json").read_text())["train_images_seen"] == 18 * 64


def test_sigterm_during_scoring_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    options = [*DIGITS, "--epochs", "1", "--num-samples", "100000", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *options], stderr=subprocess.PIPE, cwd=tmp_path, text=True
    )
    deadline = time.monotonic() + 120
    while not (out / "training.png").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    try:
        _, message = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert f"interrupted; to continue, use --resume --out {out}" in message
    assert "Traceback" not in message and not (out / "results.json").exists()
    result = run_script("--resume", "--out", str(out), "--num-samples", "4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((out / "results.json").read_text())["num_samples"] == 4


def folder_with_a_run(example, tmp_path):
    out = tmp_path / "run"
    options = [*DIGITS, "--max-minutes", "0.01", "--batch-size", "16", "--out", str(out)]
    assert example.main(options) == 0
    return out


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_smaller_budget_trains_nothing_and_leaves_the_record(example, tmp_path, capsys):
    out = tmp_path / "run"
    assert example.main([*DIGITS, "--epochs", "1", "--out", str(out)]) == 0
    before = json.loads((out / "results.json").read_text())
    assert example.main(["--resume", "--out", str(out), "--max-minutes", "0.0001"]) == 0
    assert "already trained for 18 steps" in capsys.readouterr().out
    after = json.loads((out / "results.json").read_text())
    assert (after["epochs"], after["max_minutes"]) == (before["epochs"], before["max_minutes"])


def test_runs_of_another_family_or_an_older_version_are_refused(example, tmp_path):
    config = {"dataset": "cifar10", "encoder": "resnet"}
    for family, message in (
        ({}, "has no family: another version of pyro_vlae wrote it; use that version"),
        ({"family": "color"}, "is of the family 'color', not 'binary': resume it with pyro"),
        ({"family": "sounds"}, "is of the family 'sounds', but only these are registered: binary"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**family, **config}))
        with pytest.raises(ConfigError, match=message):
            example.main(["--resume", "--out", str(tmp_path)])


def test_results_without_a_checkpoint_are_not_overwritten(example, tmp_path):
    out = folder_with_a_run(example, tmp_path)
    shutil.rmtree(out / "checkpoint")
    before = contents(out)
    for resume in ([], ["--resume"]):
        with pytest.raises(ConfigError, match="no checkpoint to resume"):
            example.main([*([] if resume else DIGITS), *resume, "--out", str(out)])
    assert contents(out) == before


def test_wrong_uses_of_a_folder_are_refused_and_lose_nothing(example, tmp_path):
    out = folder_with_a_run(example, tmp_path)
    before = contents(out)
    with pytest.raises(ConfigError, match="already holds a run: continue it"):
        example.main([*DIGITS, "--epochs", "1", "--out", str(out)])
    with pytest.raises(ConfigError, match="--prior flow, got normal"):
        example.main(["--resume", "--out", str(out), "--prior", "normal"])
    with pytest.raises(ConfigError, match="--seed 0, got 7"):
        example.main(["--resume", "--out", str(out), "--seed", "7"])
    with pytest.raises(ConfigError, match="--preset quick, got paper"):
        example.main(["--resume", "--out", str(out), "--preset", "paper"])
    with pytest.raises(ConfigError, match="--resume needs --out"):
        example.main(["--resume"])
    assert contents(out) == before


def test_a_checkpoint_of_another_architecture_is_refused_and_kept(example, tmp_path, monkeypatch):
    out = folder_with_a_run(example, tmp_path)
    before = contents(out)
    run = train_command.run
    monkeypatch.setattr(
        train_command, "run", lambda recipe, *rest: run(replace(recipe, filters=10), *rest)
    )
    with pytest.raises(CheckpointError, match=r"likelihood.*\(12,.*\(10,|\(10,.*\(12,"):
        example.main(["--resume", "--out", str(out), "--epochs", "1"])
    assert contents(out) == before


def test_unwritable_folders_are_refused_before_training(example, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    for out in (blocker, blocker / "below"):
        with pytest.raises(CheckpointError, match="cannot write to"):
            example.main([*DIGITS, "--epochs", "1", "--out", str(out)])
    assert blocker.read_text() == "not a folder"


def test_a_run_that_died_before_its_first_checkpoint_can_start_again(
    example, tmp_path, monkeypatch
):
    options = [*DIGITS, "--max-minutes", "0.01", "--batch-size", "16", "--out"]

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    for name, again in (("resumed", ["--resume"]), ("anew", options[:-1])):
        out = str(tmp_path / name)
        with monkeypatch.context() as broken:
            broken.setattr(sys.modules["pyro_vlae.experiments.run"], "fit", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                example.main([*options, out])
        assert example.main([*again, "--out", out]) == 0


def test_models_of_two_seeds_are_scored_on_the_same_images(example, tmp_path):
    indices = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        options = ["--max-minutes", "0.01", "--batch-size", "16", "--seed", seed]
        assert example.main([*DIGITS, *options, "--out", str(out)]) == 0
        with np.load(out / "scores.npz") as scores:
            indices.append(scores["test_index"])
            assert scores["log_prob"].shape == (8,)
            nll = json.loads((out / "results.json").read_text())["nll_nats"]
            assert -scores["log_prob"].mean() == pytest.approx(nll)
    assert (indices[0] == indices[1]).all()


def test_a_damaged_checkpoint_is_refused(example, tmp_path):
    out = folder_with_a_run(example, tmp_path)
    weights = out / "checkpoint" / "checkpoint.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    before = contents(out)
    with pytest.raises(CheckpointError, match=weights.name):
        example.main(["--resume", "--out", str(out), "--epochs", "1"])
    assert contents(out) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [("--epochs", "0"), ("--num-samples", "-1"), ("--seed", "-1"), ("--max-minutes", "x")],
)
def test_senseless_values_are_refused(example, tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        example.main([*DIGITS, option, value, "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert option in message and value in message
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        example.main([*DIGITS, "--out", ""])


def test_a_misspelt_data_folder_is_an_error_not_another_data_set(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"the data folder given, .*typo, is not a folder"):
        example.main([*TINY, "--data-dir", str(tmp_path / "typo")])


def test_a_device_needs_no_index(device):
    assert command_line.pick_device(device.type) == torch.zeros(1, device=device).device


def test_an_unavailable_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command_line.pick_device(None).type == "cpu"
    for name in ("cuda:99", "toaster"):
        with pytest.raises(ConfigError, match=f"--device {name} cannot be used"):
            command_line.pick_device(name)


def test_the_window_is_an_option(example, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_command, "carry_out", lambda recipe, *_: seen.append(recipe))
    given = ["--dataset", "digits", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert example.main([*given, "--window", "4x2"]) == 0
    model, _ = seen[0].build()
    assert isinstance(model.likelihood.network, TwoStackNet)
    assert "window 4x2" in seen[0].describe_parts()
    with pytest.raises(ValueError, match="got 'wide'"):
        example.main([*given, "--window", "wide"])
    with pytest.raises(ConfigError, match="bernoulli has no window"):
        example.main([*given, "--window", "4x2", "--likelihood", "bernoulli"])
    assert not (tmp_path / "run").exists()
