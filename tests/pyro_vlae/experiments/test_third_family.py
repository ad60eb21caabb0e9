"""A family of one-dimensional signals, from a recipe, data and a likelihood defined here alone."""

import json
from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vlae.data import Values, datasets, register_dataset
from pyro_vlae.experiments import RECIPES, ConfigError, Recipe, load_run, option, register
from pyro_vlae.experiments.train_command import train
from pyro_vlae.models import VLAE, StandardNormalPrior
from pyro_vlae.registration import register_parameters

LENGTH = 12


class SignalValues(Values):
    def to_unit_range(self, x):
        return (x.cpu() / 6 + 0.5).clamp(0, 1).reshape(len(x), 1, 1, LENGTH)


SIGNALS = SignalValues("signals", "bits/dim", largest=255, scale=1)


@dataclass(frozen=True)
class Signals:
    images: torch.Tensor  # one-dimensional, whatever the loop calls them

    def __len__(self):
        return len(self.images)

    def batch(self, index, generator=None):
        return self.images[index]


@dataclass(frozen=True)
class SignalData:
    name: str
    train: Signals
    validation: Signals
    test: Signals
    description: str = "random slopes"
    values: Values = field(default=SIGNALS)

    def to(self, device):
        return self


def read_signals(store):
    generator = torch.Generator().manual_seed(0)

    def split(count):
        slopes = torch.randn(count, 1, generator=generator)
        return Signals(slopes * torch.linspace(-1, 1, LENGTH))

    return SignalData("slopes", split(32), split(8), split(8))


class SignalLikelihood(nn.Module):
    def forward(self, features):
        return dist.Normal(features, 0.5).to_event(1)


class SignalGuide(nn.Module):
    def __init__(self, code_dim):
        super().__init__()
        self.net = nn.Linear(LENGTH, 2 * code_dim)

    def forward(self, x):
        register_parameters(self)
        loc, scale = self.net(x).chunk(2, -1)
        with pyro.plate("images", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


@dataclass(frozen=True)
class SignalRecipe(Recipe):
    family = "signals"
    values = SIGNALS

    dataset: str = "slopes"
    batch_size: int = 16
    eval_images: int | None = None
    code_dim: int = option(2, "dimensions of the code", metavar="D")

    def build(self):
        prior = StandardNormalPrior(self.code_dim)
        model = VLAE(prior, nn.Linear(self.code_dim, LENGTH), SignalLikelihood())
        return model, SignalGuide(self.code_dim)

    def objective(self, dimensions):
        assert dimensions == LENGTH
        return Trace_ELBO()

    def describe_parts(self):
        return f"a linear model with {self.code_dim} code dimensions"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(datasets, "_READERS", dict(datasets._READERS))
    monkeypatch.setitem(RECIPES, "signals", SignalRecipe)  # removed after the test
    register_dataset("slopes", read_signals, SIGNALS)
    assert register(SignalRecipe) is SignalRecipe


def start(*options):
    return train(SignalRecipe, "Signals.", [*options, "--device", "cpu", "--num-samples", "3"])


def test_a_family_trains_scores_and_resumes_without_touching_the_package(tmp_path, capsys):
    out = tmp_path / "run"
    assert start("--epochs", "1", "--code-dim", "3", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "random slopes" in printed and "3 code dimensions" in printed and "bits/dim" in printed
    results = json.loads((out / "results.json").read_text())
    assert (results["family"], results["code_dim"], results["num_images"]) == ("signals", 3, 8)
    assert results["train_images_seen"] == 32 and results["precision"]
    assert {"samples.png", "reconstructions.png"} < {path.name for path in out.iterdir()}
    assert start("--resume", "--out", str(out), "--epochs", "2") == 0
    assert "resuming at step 2, 32 images seen" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["train_images_seen"] == 64
    model, guide = load_run(out)
    assert model(batch_size=5).shape == (5, LENGTH) and guide.net.out_features == 6
    with pytest.raises(ConfigError, match="--code-dim 3, got 4"):
        start("--resume", "--out", str(out), "--code-dim", "4")


def test_the_seed_decides_a_run(tmp_path):
    scores = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert start("--epochs", "1", "--seed", seed, "--out", str(tmp_path / name)) == 0
        scores.append(json.loads((tmp_path / name / "results.json").read_text())["nll_nats"])
    assert scores[0] == scores[1] != scores[2]


def test_a_run_of_a_family_that_is_not_registered_is_refused(tmp_path, monkeypatch):
    assert start("--epochs", "1", "--out", str(tmp_path)) == 0
    monkeypatch.delitem(RECIPES, "signals")
    with pytest.raises(
        ConfigError, match=r"family 'signals', .*are registered: .*import the module"
    ):
        load_run(tmp_path)
