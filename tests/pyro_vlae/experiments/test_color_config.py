import json
from dataclasses import asdict

import pytest
import torch

from pyro_vlae.experiments.color_config import COLOR_PRESETS, ColorConfig
from pyro_vlae.experiments.config import (
    ConfigError,
    RunConfig,
    TrainingConfig,
    make_config,
    read_config,
)
from pyro_vlae.experiments.paper_tables import COLOR_ROWS
from pyro_vlae.experiments.run import color_error
from pyro_vlae.infer import SoftFreeBitsELBO
from pyro_vlae.models import build_from_config
from pyro_vlae.plots.pictures import to_unit_range


def test_paper_preset_is_the_recipe_of_the_paper():
    config = make_config({"preset": "paper"}, COLOR_PRESETS)
    assert (config.window, config.encoder, config.prior) == ("7x4", "resnet", "flow")
    assert (config.learning_rate, config.ema_decay, config.num_samples) == (0.002, 0.998, 512)
    assert config.eval_images is None
    a = config.architecture()
    assert (a.channels, a.blocks, a.code_shape) == ((48, 96, 96), (2, 2, 3), (16, 8, 8))
    assert (config.filters, config.flow_maps) == (64, 128)
    assert isinstance(config.elbo(3072), SoftFreeBitsELBO) and config.elbo(3072).target_nats == 100
    assert "reduced" not in config.describe()


def test_a_reduced_model_says_so():
    text = make_config({"preset": "quick", "filters": 8}, COLOR_PRESETS).describe()
    for part in ("resnet VLAE", "window 7x4", "width 16 (paper: 48)", "filters 8 (paper: 64)"):
        assert part in text


def test_a_run_is_resumed_as_what_it_was(tmp_path):
    config = make_config({"preset": "quick", "window": "5x3", "epochs": 2}, COLOR_PRESETS)
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    again = read_config(tmp_path, {"epochs": 9, "window": "5x3"}, ColorConfig)
    assert isinstance(again, ColorConfig) and again.epochs == 9 and again.window == "5x3"
    with pytest.raises(ValueError, match="--window 5x3, got 4x2"):
        read_config(tmp_path, {"window": "4x2"}, ColorConfig)
    with pytest.raises(ValueError, match="made by another script"):
        read_config(tmp_path, {}, RunConfig)


@pytest.mark.parametrize("row", COLOR_ROWS, ids=[row.name for row in COLOR_ROWS])
def test_rows_build_what_their_options_name(row):
    config = make_config({"preset": "quick", "filters": 4, **row.options}, COLOR_PRESETS)
    model, guide = build_from_config(config)
    network = model.likelihood.network
    vertical, horizontal = (3, 3) if config.window == "7x4" else (1, 2)
    assert (len(network.vertical) + 1, network.horizontal_layers) == (vertical, horizontal)
    dense = any(type(m).__name__ == "DenseBlock" for m in guide.modules())
    assert dense == (config.encoder == "densenet")


def test_a_configuration_without_a_model_is_refused():
    with pytest.raises(ValueError, match="no model for a TrainingConfig"):
        build_from_config(TrainingConfig())


def test_color_error_is_in_levels_and_blind_to_place():
    x = torch.rand(4, 3, 6, 6) * 2 - 1
    assert color_error(x, x.flip(-1)).abs().max() < 1e-4
    shifted = x + torch.tensor([3.0, -6.0, 0.0]).view(3, 1, 1) / 127.5
    torch.testing.assert_close(color_error(x, shifted), torch.full((4,), 3.0))


def test_pictures_are_in_the_unit_interval():
    color = to_unit_range(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1))
    assert color.flatten().tolist() == [0, 0.5, 1]
    assert to_unit_range(torch.ones(2, 1, 3, 3)).equal(torch.ones(2, 1, 3, 3))


@pytest.mark.parametrize(
    ("name", "value"), [("encoder", "dense-net"), ("guide", "iaf"), ("likelihood", "bernoulli")]
)
def test_parts_that_color_models_do_not_have_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be one of .*, got '{value}'"):
        ColorConfig(**{name: value})
