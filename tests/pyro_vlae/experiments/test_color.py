import json

import numpy as np
import pytest
import torch

from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments import BinaryRecipe, ColorRecipe, ConfigError, recipe_for, run
from pyro_vlae.experiments.color import color_error
from pyro_vlae.experiments.paper_tables import COLOR_ROWS
from pyro_vlae.infer import SoftFreeBitsELBO
from pyro_vlae.nn.wavefront import window_of


def test_paper_preset_is_the_recipe_of_the_paper():
    recipe = ColorRecipe.from_options(preset="paper")
    assert (recipe.window, recipe.encoder, recipe.prior) == ("7x4", "resnet", "flow")
    assert (recipe.learning_rate, recipe.ema_decay, recipe.num_samples) == (0.002, 0.998, 512)
    assert recipe.eval_images is None
    a = recipe.architecture
    assert (a.channels, a.blocks, a.code_shape) == ((48, 96, 96), (2, 2, 3), (16, 8, 8))
    assert (recipe.filters, recipe.flow_maps) == (64, 128)
    elbo = recipe.objective(3072)
    assert isinstance(elbo, SoftFreeBitsELBO) and elbo.target_nats == 100
    assert "reduced" not in recipe.describe()


def test_a_reduced_model_says_so():
    text = ColorRecipe.from_options(filters=8).describe()
    for part in ("resnet VLAE", "window 7x4", "width 16 (paper: 48)", "filters 8 (paper: 64)"):
        assert part in text


def test_a_run_is_resumed_as_what_it_was(tmp_path):
    recipe = ColorRecipe.from_options(window="5x3", epochs=2)
    (tmp_path / "config.json").write_text(json.dumps(recipe.to_config()))
    again = ColorRecipe.resume(tmp_path, epochs=9, window="5x3")
    assert isinstance(again, ColorRecipe) and again.epochs == 9 and again.window == "5x3"
    with pytest.raises(ValueError, match="--window 5x3, got 4x2"):
        ColorRecipe.resume(tmp_path, window="4x2")
    with pytest.raises(ValueError, match="of the family 'color', not 'binary'"):
        BinaryRecipe.resume(tmp_path)


@pytest.mark.parametrize("row", COLOR_ROWS, ids=[row.name for row in COLOR_ROWS])
def test_rows_build_what_their_options_name(row):
    recipe = ColorRecipe.from_options(filters=4, **row.options)
    model, guide = recipe.build()
    network = model.likelihood.network
    vertical, horizontal = (3, 3) if recipe.window == "7x4" else (1, 2)
    seen = {
        j for i, j in window_of(network, torch.zeros(1, network.context_channels, 1, 1)) if i == 0
    }
    assert (len(network.vertical) + 1, -min(seen)) == (vertical, horizontal)
    dense = any(type(m).__name__ == "DenseBlock" for m in guide.modules())
    assert dense == (recipe.encoder == "densenet")


def test_color_error_is_in_levels_and_blind_to_place():
    x = torch.rand(4, 3, 6, 6) * 2 - 1
    assert color_error(x, x.flip(-1)).abs().max() < 1e-4
    shifted = x + torch.tensor([3.0, -6.0, 0.0]).view(3, 1, 1) / 127.5
    torch.testing.assert_close(color_error(x, shifted), torch.full((4,), 3.0))


def test_pictures_are_in_the_unit_interval():
    color = ColorRecipe.values.to_unit_range(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1))
    assert color.flatten().tolist() == [0, 0.5, 1]
    ones = torch.ones(2, 1, 3, 3)
    assert BinaryRecipe.values.to_unit_range(ones).equal(ones)


@pytest.mark.parametrize(
    ("name", "value"), [("encoder", "dense-net"), ("guide", "iaf"), ("likelihood", "bernoulli")]
)
def test_parts_that_color_models_do_not_have_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be one of .*, got '{value}'"):
        ColorRecipe(**{name: value})


@pytest.mark.parametrize("train_on", ["train", "train+validation"])
def test_a_run_mirrors_training_images_wherever_they_come_from(tmp_path, monkeypatch, train_on):
    class Stop(Exception):
        pass

    given = []

    def fit(model, guide, split, **options):
        given.append(split)
        raise Stop

    monkeypatch.setitem(run.__globals__, "fit", fit)
    levels = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    data = ImageDataset.from_arrays(levels)
    sizes = {"width": 4, "filters": 4, "flow_maps": 4, "code_channels": 2, "train_on": train_on}
    for flips in (True, False):
        with pytest.raises(Stop):
            run(recipe_for(data, flips=flips, **sizes), data, tmp_path / str(flips))
    assert [split.flip for split in given] == [True, False]
