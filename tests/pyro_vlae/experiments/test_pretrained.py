import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyro_vlae.commands.train import main as command_line
from pyro_vlae.data import load_dataset
from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.pretrained import recipe_of, start_from
from pyro_vlae.experiments.recipes import read_recipe
from pyro_vlae.experiments.run import run_title
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.models import load_pretrained, load_run, pretrained_names
from pyro_vlae.reproducible import read_json, write_json
from pyro_vlae.training import CheckpointError


@pytest.mark.parametrize("name", pretrained_names())
def test_weights_are_small_and_come_with_a_card(name):
    weights = files("pyro_vlae.models") / "weights" / f"{name}.safetensors"
    assert len(weights.read_bytes()) < 6 * 10**6
    assert name in (files("pyro_vlae.models") / "weights" / f"{name}.md").read_text()
    model, guide = load_pretrained(name)
    assert not model.training and not guide.training
    assert model.card["results"]["train_images_seen"] > 0
    family, shape = ("color", (3, 32, 32)) if name == "cifar10" else ("binary", (1, 28, 28))
    assert model.card["config"]["family"] == model.card["results"]["family"] == family
    assert model(batch_size=3).shape == (3, *shape)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "images"), [("static-mnist", 100), ("cifar10", 40)])
def test_weights_score_what_their_card_says(real_data_root, name, images):
    model, guide = load_pretrained(name)
    x = load_dataset(name, real_data_root).test.subset(images, seed=5).batch(slice(None))
    score = marginal_log_likelihood(model, guide, x, 8)
    claimed = model.card["results"]
    sigma = score.elbo.std().item() / len(x) ** 0.5
    assert score.elbo.mean().item() == pytest.approx(claimed["elbo_nats"], abs=4 * sigma)
    assert score.kl.mean().item() == pytest.approx(claimed["kl_nats"], rel=0.1)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"no weights called 'cifar'; weights that .*static-mnist"):
        load_pretrained("cifar")


@pytest.mark.parametrize(("limit", "dtype"), [(0.0, torch.float32), (1e9, torch.float16)])
def test_an_exported_run_holds_the_averages(load_example, tmp_path, monkeypatch, limit, dtype):
    run = tmp_path / "run"
    options = ["--dataset", "digits", "--device", "cpu", "--batch-size", "16"]
    options += ["--max-minutes", "0.02", "--num-samples", "2", "--eval-images", "2"]
    assert load_example("mnist_vlae").main([*options, "--out", str(run)]) == 0
    export = load_example("export_weights")
    monkeypatch.setattr(export, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(export, "LIMIT", limit)
    monkeypatch.setattr("sys.argv", ["export_weights.py", str(run), "mine"])
    assert export.main() == 0
    exported = load_file(tmp_path / "weights" / "mine.safetensors")
    averages = torch.load(run / "checkpoint" / "checkpoint.pt")["optimizer"]["averages"]
    assert averages and all(torch.equal(exported[n], a.to(dtype)) for n, a in averages.items())
    seen = json.loads((run / "results.json").read_text())["train_images_seen"]
    card = (tmp_path / "weights" / "mine.md").read_text()
    assert f"{seen:,} images seen" in card
    assert f"Stored in {str(dtype).removeprefix('torch.')}" in card


def test_results_of_earlier_weights_do_not_count(load_example, tmp_path, monkeypatch):
    run = tmp_path / "run"
    options = ["--dataset", "digits", "--device", "cpu", "--epochs", "1"]
    options += ["--num-samples", "2", "--eval-images", "2"]
    assert load_example("mnist_vlae").main([*options, "--out", str(run)]) == 0
    assert load_run(run)[0].card["results"]["train_images_seen"] == 18 * 64
    state = run / "checkpoint" / "checkpoint.pt"
    results = read_json(run / "results.json")
    write_json(run / "results.json", {**results, "train_images_seen": 64})
    assert load_run(run)[0].card["results"] is None
    export = load_example("export_weights")
    monkeypatch.setattr("sys.argv", ["export_weights.py", str(run), "mine"])
    with pytest.raises(ConfigError, match="no results of its latest weights"):
        export.main()
    state.unlink()
    with pytest.raises(ConfigError, match=r"has no checkpoint.*static-mnist"):
        load_run(run)
    with pytest.raises(ConfigError, match=r"there is no run in .*static-mnist$"):
        load_run(tmp_path / "nowhere")


def test_a_mistyped_name_is_not_taken_for_a_folder():
    for load in (load_pretrained, load_run):
        with pytest.raises(ValueError, match=r"static-mnist \(did you mean 'static-mnist'\?\)"):
            load("static-mnits")


def train(folder, *options):
    few = ["--num-samples", "2", "--eval-images", "2", "--batch-size", "500", "--epochs", "1"]
    return command_line([*few, "--dataset", "digits", "--out", str(folder), *options])


def test_fine_tuning_starts_from_the_averaged_weights(tmp_path):
    source, tuned = tmp_path / "source", tmp_path / "tuned"
    assert train(source, "--code-dim", "3", "--learning-rate", "0.1") == 0
    start = ["--start-from", str(source), "--learning-rate", "1e-12"]
    assert train(tuned, *start, "--train-on", "train+validation") == 0
    for before, after in zip(load_run(source), load_run(tuned), strict=True):
        torch.testing.assert_close(before.state_dict(), after.state_dict(), rtol=0, atol=1e-6)
    config = read_json(tuned / "config.json")
    assert config["code_dim"] == 3  # an option of the model that was not given
    assert config["learning_rate"] == 1e-12 and config["train_on"] == "train+validation"
    title = run_title(replace(read_recipe(tuned), train_samples=5), 64)
    bound = "importance-weighted bound of 5 codes per image"
    assert f"seen, {bound}, starting from source, seed 0" in title

    # Once it has a checkpoint, a run no longer needs the weights that it started from.
    source.rename(tmp_path / "moved")
    assert train(tuned, *start, "--resume", "--epochs", "2") == 0
    assert read_json(tuned / "results.json")["start_from"] == str(source)
    with pytest.raises(ConfigError, match=r"made with --start-from .*source, got static-mnist"):
        train(tuned, "--start-from", "static-mnist", "--resume")


def test_fine_tuning_is_on_the_data_of_the_weights_unless_others_are_given(
    tmp_path, monkeypatch, capsys
):
    np.savez(tmp_path / "mine.npz", images=np.random.default_rng(0).integers(0, 2, (20, 12, 12)))
    few = ["--num-samples", "2", "--eval-images", "2", "--batch-size", "9", "--epochs", "1"]
    start = [*few, "--start-from", "source"]
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "mine.npz", "--likelihood-learning-rate-factor", "2"]
    options += ["--train-samples", "2"]
    assert command_line([*few, *options, "--out", "source"]) == 0
    assert command_line([*start, "--out", "tuned"]) == 0
    assert "the PixelCNN at 2 times the learning rate" in capsys.readouterr().out
    config = read_json(tmp_path / "tuned" / "config.json")
    assert config["dataset"] == str(tmp_path / "mine.npz")
    assert config["start_from"] == str(tmp_path / "source")  # also valid from another folder
    assert config["train_samples"] == 1  # of the objective, not of the model
    with pytest.raises(ConfigError, match=r"of shape \(1, 12, 12\), those of digits .*28, 28\)"):
        command_line([*start, "--dataset", "digits", "--out", "larger"])
    with pytest.raises(ConfigError, match="--start-from is empty"):
        command_line([*few, "--start-from", "", "--out", "larger"])


def test_fine_tuning_may_untie_the_weights(tmp_path):
    assert train(tmp_path / "source", "--code-dim", "3") == 0
    recipe = replace(
        recipe_of(str(tmp_path / "source")), start_from=str(tmp_path / "source"), tied=False
    )
    model, guide = recipe.build()
    start_from(recipe, model, guide)
    source, _ = load_run(tmp_path / "source")
    assert source.likelihood.network.tied and not model.likelihood.network.tied
    z, x = torch.randn(4, 3), torch.rand(4, 1, 28, 28).round()
    with torch.no_grad():
        expected, found = (
            m.likelihood(m.decoder(z)).log_prob(x) for m in (source.eval(), model.eval())
        )
    assert torch.equal(found, expected)
    start = ["--start-from", str(tmp_path / "source")]
    assert train(tmp_path / "untied", *start, "--no-tied") == 0
    first, second, *_ = load_run(tmp_path / "untied")[0].likelihood.network.layers
    assert not torch.equal(first.direction, second.direction)  # trained apart
    with pytest.raises(CheckpointError, match=r"made with tied False, now True: .*architecture"):
        train(tmp_path / "tied", "--start-from", str(tmp_path / "untied"), "--tied")


def test_weights_of_another_architecture_are_refused(tmp_path):
    assert train(tmp_path / "source", "--code-dim", "3") == 0
    start = ["--start-from", str(tmp_path / "source")]
    with pytest.raises(CheckpointError, match=r"made with code_dim 3, now 4: .*architecture"):
        train(tmp_path / "wider", *start, "--code-dim", "4")
    # Nothing of the failed start is left to contradict the next one.
    assert train(tmp_path / "wider", *start, "--resume") == 0
    with pytest.raises(ConfigError, match=r"below 1, got 1\.5"):
        train(tmp_path / "source", "--dropout", "1.5")
    with pytest.raises(ConfigError, match=r"cifar10 is a model of the family 'color'.*train color"):
        train(tmp_path / "color", "--start-from", "cifar10")
    with pytest.raises(ConfigError, match=r"no run in .*runs/none, which does not exist"):
        train(tmp_path / "none", "--start-from", "runs/none")
