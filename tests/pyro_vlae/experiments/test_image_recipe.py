"""Recipes for images of any size and origin, and runs that are loaded again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch

from pyro_vlae.data import (
    BINARY,
    DatasetNotFoundError,
    ImageDataset,
    datasets,
    load_dataset,
    load_images,
)
from pyro_vlae.experiments import (
    BinaryRecipe,
    ColorRecipe,
    ConfigError,
    GrayRecipe,
    load_run,
    recipe_for,
    run,
)
from pyro_vlae.experiments.recipes import read_recipe, recipe_from_config
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim, marginal_log_likelihood
from pyro_vlae.models import gray_vlae
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.training import TrainingSettings, fit

LEVELS = np.random.default_rng(0).integers(0, 256, (40, 9, 11), dtype=np.uint8)
BITS = LEVELS > 100
COLOR = np.random.default_rng(1).integers(0, 256, (40, 3, 8, 12), dtype=np.uint8)
TINY = {"max_steps": 2, "batch_size": 8, "num_samples": 2, "eval_images": 3}


@pytest.mark.parametrize(
    ("images", "kind"), [(BITS, BinaryRecipe), (LEVELS, GrayRecipe), (COLOR, ColorRecipe)]
)
def test_the_family_is_that_of_the_values(images, kind):
    data = ImageDataset.from_arrays(images, name="mine")
    recipe = recipe_for(data, max_minutes=2)
    assert type(recipe) is kind and recipe.dataset == "mine" and recipe.max_minutes == 2
    assert recipe.image_shape == data.image_shape
    config = json.loads(json.dumps(recipe.to_config()))
    assert recipe_from_config(config, "here") == recipe
    model, _ = recipe.build()
    assert model.likelihood(model.decoder(torch.zeros(1, model.prior.code_dim))).event_shape == (
        data.image_shape
    )
    with pytest.raises(ConfigError, match=f"for models of the family {kind.family}, not of"):
        recipe_for(data, {BinaryRecipe, GrayRecipe, ColorRecipe} - {kind})
    with pytest.raises(ConfigError, match=f"pyro-vlae train {kind.family} --dataset"):
        recipe_for(data, {BinaryRecipe, GrayRecipe, ColorRecipe} - {kind})


def test_older_configurations_without_sizes_are_of_the_paper_s():
    config = BinaryRecipe().to_config()
    del config["image_shape"], config["code_dim"]
    assert recipe_from_config(config, "here") == BinaryRecipe()


def test_images_of_another_size_than_the_recipe_s_are_refused(tmp_path):
    data = ImageDataset.from_arrays(LEVELS)
    with pytest.raises(ConfigError, match=r"\(1, 9, 11\), the recipe is for \(1, 28, 28\)"):
        run(GrayRecipe.from_options(**TINY), data, tmp_path / "run")
    with pytest.raises(ConfigError, match="has gray values"):
        run(BinaryRecipe.from_options(**TINY), data, tmp_path / "run")
    odd = ImageDataset.from_arrays(COLOR[..., :7])
    with pytest.raises(ConfigError, match=r"divisible by 4, got images of shape \(3, 8, 7\)"):
        recipe_for(odd)


def test_a_run_on_images_from_memory_is_loaded_like_any_other(tmp_path):
    data = ImageDataset.from_arrays(LEVELS, name="mine")
    recipe = recipe_for(data, code_dim=5, **TINY)
    results = run(recipe, data, tmp_path / "run")
    assert (results["dataset"], results["image_shape"], results["code_dim"]) == (
        *("mine", (1, 9, 11), 5),
    )
    assert results["dataset_description"] == data.description
    model, guide = load_run(tmp_path / "run")
    assert model.card["results"]["nll_nats"] == results["nll_nats"]
    assert model(batch_size=2).shape == (2, 1, 9, 11)
    assert (
        marginal_log_likelihood(model, guide, data.test.batch(slice(None)), 2)
        .log_prob.isfinite()
        .all()
    )
    with pytest.raises(DatasetNotFoundError, match="no file or folder mine"):
        read_recipe(tmp_path / "run").load_data(None, torch.device("cpu"))


def test_own_images_named_like_another_data_set_are_refused(tmp_path, monkeypatch):
    own = ImageDataset.from_arrays(BITS, name="digits")
    with pytest.raises(ConfigError, match=r"digits is the name of another .* name='my-digits'"):
        recipe_for(own)
    with pytest.raises(ConfigError, match=r"mnist is the name of another data set"):
        recipe_for(ImageDataset.from_arrays(BITS), dataset="mnist")
    with pytest.raises(ConfigError, match=r"digits is the name of another data set"):
        recipe_for(own, dataset="digits")
    mine = ImageDataset.from_arrays(BITS, name="mine")
    with pytest.raises(ConfigError, match=r"digits is the name of another data set"):
        run(replace(recipe_for(mine, **TINY), dataset="digits"), mine, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    np.savez(tmp_path / "digits.npz", images=BITS)
    path = str(tmp_path / "digits.npz")
    assert recipe_for(load_images(path), dataset=path).dataset == path
    assert recipe_for(load_dataset("digits")).dataset == "digits"
    monkeypatch.setitem(datasets._READERS, "mine", (lambda store: registered, BINARY))
    registered = ImageDataset.from_arrays(BITS, name="mine")
    recipe = recipe_for(registered)
    assert recipe.dataset == "mine"
    # Nor is a registered one whose files are found only with --data-dir.
    monkeypatch.setitem(datasets._READERS, "mine", (lambda store: store.path("none"), BINARY))
    recipe.check(registered)


@pytest.mark.real_data
def test_gray_mnist_is_mnist(real_data_root):
    gray = load_dataset("gray-mnist", real_data_root)
    assert gray.values == GrayRecipe.values and len(gray.train) == 50_000
    assert torch.equal(gray.train.images, load_dataset("mnist", real_data_root).train.images)
    assert type(recipe_for(gray)) is GrayRecipe


def fitted(folder, config=None, recipe=None):
    """Train for two steps and write to a folder; returns the averaged model and its guide."""
    data = ImageDataset.from_arrays(LEVELS)
    sizes = ResNetArchitecture((1, 9, 11), 4, (3,), 8)
    model = gray_vlae(architecture=sizes, prior="normal", mixtures=2, masked_layers=2)
    guide = GaussianGuide(architecture=sizes)
    if recipe:
        model, guide = recipe.build()
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.5)
    fit(
        model,
        guide,
        data.train,
        elbo=FreeBitsELBO(1.0),
        optimizer=optimizer,
        settings=TrainingSettings(max_steps=2, batch_size=8),
        out=folder,
        config=config,
        progress=False,
    )
    with optimizer.averaged():
        averaged = {n: p.detach().clone() for n, p in model.named_parameters()}
    return averaged, lambda: (
        gray_vlae(architecture=sizes, prior="normal", mixtures=2, masked_layers=2),
        GaussianGuide(architecture=sizes),
    )


def test_a_model_of_one_s_own_is_loaded_from_the_folder_that_fit_wrote(tmp_path):
    averaged, build = fitted(tmp_path, {"note": "mine"})
    with pytest.raises(ConfigError, match=r"without a recipe: pass .* load_run\(folder, model, g"):
        load_run(tmp_path)
    pyro.clear_param_store()
    model, guide = build()
    loaded, its_guide = load_run(tmp_path, model, guide)
    assert loaded is model and its_guide is guide and not model.training
    assert all(torch.equal(p, averaged[n]) for n, p in model.named_parameters())
    assert model.card == {"config": {"note": "mine"}, "results": None}
    with pytest.raises(ValueError, match="both the model and the guide"):
        load_run(tmp_path, model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no checkpoint"):
        load_run(tmp_path / "empty", model, guide)


def test_a_recipe_that_only_the_checkpoint_holds_is_enough(tmp_path):
    recipe = recipe_for(ImageDataset.from_arrays(LEVELS), code_dim=4, prior="normal")
    averaged, _ = fitted(tmp_path, recipe.to_config(), recipe)
    assert not (tmp_path / "config.json").exists()
    model, guide = load_run(tmp_path)
    assert all(torch.equal(p, averaged[n]) for n, p in model.named_parameters())
    assert guide.code_dim == 4 and model.card["config"]["family"] == "gray"


@pytest.fixture
def example(load_example):
    return load_example("mnist_vlae")


def save(folder, **arrays):
    folder.mkdir(exist_ok=True)
    np.savez(folder / "cells.npz", **arrays)
    return str(folder / "cells.npz")


OPTIONS = ["--batch-size", "8", "--num-samples", "2", "--eval-images", "3", "--device", "cpu"]


def test_an_npz_file_of_gray_images_from_the_command_line(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "data", images=LEVELS)
    assert example.main(["--dataset", "data/cells.npz", "--epochs", "1", *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert "cells: 40 gray images 9x11" in printed
    assert "modeling 256 gray levels; --family binary would binarize" in printed
    out = tmp_path / "runs" / "cells-quick"
    config = json.loads((out / "config.json").read_text())
    assert config["family"] == "gray" and config["dataset"] == str(tmp_path / "data" / "cells.npz")
    assert (config["image_shape"], config["code_dim"]) == ([1, 9, 11], 64)
    monkeypatch.chdir("/")  # continued from anywhere
    assert example.main(["--resume", "--out", str(out), "--epochs", "2"]) == 0
    assert "resuming at step 4" in capsys.readouterr().out
    assert load_run(out)[0](batch_size=1).shape == (1, 1, 9, 11)
    with pytest.raises(ConfigError, match="'gray', not 'binary'"):
        example.main(["--resume", "--out", str(out), "--family", "binary"])
    shutil.rmtree(tmp_path / "data")
    assert load_run(out)[1].code_dim == 64
    with pytest.raises(DatasetNotFoundError, match=r"no file or folder .*cells\.npz"):
        example.main(["--resume", "--out", str(out)])


def test_the_family_can_be_chosen(example, tmp_path, capsys):
    path = save(tmp_path, images=LEVELS)
    for images, family, values in ((LEVELS, "binary", "binarized"), (BITS, "gray", "40 binary")):
        save(tmp_path, images=images)
        out = tmp_path / family
        chosen = ["--dataset", path, "--family", family, "--out", str(out), "--epochs", "1"]
        assert example.main([*chosen, *OPTIONS]) == 0
        printed = capsys.readouterr().out
        assert values in printed and "modeling 256" not in printed
        assert read_recipe(out).family == family
        assert read_recipe(out).load_data(None, torch.device("cpu")).values.name == family


def test_images_that_the_script_cannot_model_are_refused(example, tmp_path, load_example):
    out = ["--out", str(tmp_path / "run")]
    path = save(tmp_path, images=COLOR)
    message = "bytes values, for models of the family color, not of binary or gray"
    with pytest.raises(ConfigError, match=message):
        example.main(["--dataset", path, *out])
    path = save(tmp_path, images=LEVELS)
    with pytest.raises(
        RuntimeError, match=r"cells\.npz: images with 1 channel can have .* got values=bytes"
    ):
        load_example("cifar10_vlae").main(["--dataset", path, *out])
    with pytest.raises(ConfigError, match=r"one of static-mnist.*, the path .* got 'cels\.npz'"):
        example.main(["--dataset", "cels.npz", *out])
    with pytest.raises(ConfigError, match=r"family color, not of binary: use .* train color"):
        example.main(["--dataset", "cifar10", *out])
    with pytest.raises(ConfigError, match="likelihood must be one of pixelcnn, got 'bernoulli'"):
        example.main(["--dataset", path, "--likelihood", "bernoulli", *out])
    assert not (tmp_path / "run").exists()


def test_color_images_from_the_command_line(load_example, tmp_path):
    path, out = save(tmp_path, images=COLOR), tmp_path / "run"
    options = ["--width", "4", "--filters", "4", "--flow-maps", "4", "--code-channels", "2"]
    options += ["--epochs", "1", *OPTIONS, "--out", str(out)]
    assert load_example("cifar10_vlae").main(["--dataset", path, *options]) == 0
    model, guide = load_run(out)
    assert model(batch_size=1).shape == (1, 3, 8, 12) and guide.code_dim == 2 * 2 * 3


def test_values_of_a_named_data_set_choose_the_family():
    assert BinaryRecipe.from_options(dataset="digits").values == BINARY
    assert GrayRecipe.from_options().dataset == "gray-mnist"
