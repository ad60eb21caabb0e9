import json
from dataclasses import asdict

import pytest

from pyro_vlae.experiments.config import PRESETS, ConfigError, make_config, read_config


def test_paper_preset_is_the_recipe_of_the_paper():
    config = make_config({"preset": "paper"})
    assert (config.prior, config.guide, config.likelihood) == ("flow", "gaussian", "pixelcnn")
    assert (config.learning_rate, config.ema_decay) == (0.002, 0.998)
    assert (config.num_samples, config.eval_images) == (4096, None)
    assert config.train_on == "train+validation"


def test_a_given_budget_replaces_the_presets():
    assert make_config({"preset": "paper", "max_minutes": 3.0}).epochs is None
    assert make_config({"preset": "quick", "epochs": 2}).max_minutes is None
    both = make_config({"preset": "quick", "epochs": 2, "max_minutes": 1.0})
    assert (both.epochs, both.max_minutes) == (2, 1.0)
    assert make_config({"preset": "quick", "epochs": None}) == PRESETS["quick"]


def test_masked_convolutions_are_tied_where_data_is_scarce():
    assert make_config({"preset": "quick"}).tied
    for dataset in ("mnist", "omniglot", "caltech101"):
        assert not make_config({"preset": "quick", "dataset": dataset}).tied


def test_description_names_what_was_chosen():
    text = make_config(
        {"preset": "quick", "prior": "normal", "epochs": 3, "eval_images": 7}
    ).describe()
    for part in ("preset quick", "normal prior", "3 epochs", "batches of 64", "7 test images"):
        assert part in text


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"data": "mnist"}'])
def test_an_unreadable_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"no run to resume.*missing or unreadable"):
        read_config(tmp_path, {})


def test_a_resumed_run_may_get_a_new_budget_and_evaluation(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(asdict(make_config({"preset": "quick"}))))
    config = read_config(tmp_path, {"epochs": 9, "num_samples": 5, "seed": 0})
    assert (config.epochs, config.max_minutes, config.num_samples) == (9, None, 5)
