"""Initialization is an act: explicit, once, and without side effects."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoIAFNormal, AutoNormal
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from pyro_vlae import data
from pyro_vlae.guides import GaussianGuide, color_guide
from pyro_vlae.infer import JointOptim, initialize
from pyro_vlae.infer.initialize import check_held
from pyro_vlae.models import binary_vlae, resnet_vlae
from pyro_vlae.nn import MapArchitecture, ResNetArchitecture
from pyro_vlae.nn.weight_norm import WeightNormLayer
from pyro_vlae.registration import register_parameters
from pyro_vlae.training import TrainingSettings, fit

COLOR = MapArchitecture((3, 8, 8), 2, (4, 4, 4))
BINARY = ResNetArchitecture((1, 8, 8), 4, channels=(4, 8), features=16)


@pytest.fixture(params=["binary", "color"])
def program(request):
    torch.manual_seed(0)
    if request.param == "binary":
        model = binary_vlae(architecture=BINARY, flow_layers=2, flow_hidden_dims=(8,))
        return model, GaussianGuide(architecture=BINARY), torch.rand(6, 1, 8, 8).round()
    model = resnet_vlae("4x2", COLOR, flow_layers=2, flow_channels=(4, 4), pixelcnn_channels=4)
    return model, color_guide(COLOR), torch.randint(0, 256, (6, 3, 8, 8)) / 127.5 - 1


def layers(*modules):
    return [m for module in modules for m in module.modules() if isinstance(m, WeightNormLayer)]


def state(*modules):
    return [value.clone() for module in modules for value in module.state_dict().values()]


def test_every_layer_is_initialized_in_either_mode(program):
    model, guide, x = program
    twins = copy.deepcopy((model.eval(), guide.eval()))
    initialize(model, guide, x)
    assert all(layer.initialized for layer in layers(model, guide))
    assert not model.training and not guide.training
    assert not any(layer.initialized for layer in layers(*twins))
    initialize(*(twin.train() for twin in twins), x)
    torch.testing.assert_close(state(*twins), state(model, guide), atol=0, rtol=0)


def test_random_state_and_parameter_store_are_left_as_they_were(program):
    model, guide, x = program
    pyro.param("another", torch.ones(2))
    before = torch.get_rng_state()
    initialize(model, guide, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(pyro.get_param_store().keys()) == ["another"]
    assert all(p.grad is None for m in (model, guide) for p in m.parameters())


def test_training_goes_on_as_if_its_first_step_had_initialized(program):
    results = []
    for explicit in (True, False):
        pyro.clear_param_store()
        model, guide, x = copy.deepcopy(program)
        pyro.set_rng_seed(3)
        if explicit:
            initialize(model, guide, x)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        losses = [svi.step(x) for _ in range(3)]
        results.append((losses, state(model, guide)))
    torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)


def test_a_second_call_and_loaded_weights_stay(program):
    model, guide, x = program
    fresh = copy.deepcopy((model, guide))
    initialize(model, guide, x)
    before = state(model, guide)
    initialize(model, guide, x[:3])
    torch.testing.assert_close(state(model, guide), before, atol=0, rtol=0)
    for new, old in zip(fresh, (model, guide), strict=True):
        new.load_state_dict(old.state_dict())
    initialize(*fresh, x[:3])
    SVI(*fresh, pyro.optim.Adam({"lr": 0.0}), Trace_ELBO()).step(x[:3])
    torch.testing.assert_close(state(*fresh), before, atol=0, rtol=0)


class StatisticsGuide(nn.Module):
    """A guide whose layers change buffers in each pass of training mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.linear = spectral_norm(nn.Linear(64, 4))
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        register_parameters(self)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        loc = self.linear(self.norm(x.flatten(1))) - self.mean
        with pyro.plate("images", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def test_running_statistics_do_not_advance():
    guide, x = StatisticsGuide(), torch.rand(6, 1, 8, 8).round()
    before = state(guide)
    initialize(binary_vlae(architecture=BINARY), poutine.scale(guide, scale=0.5), x)
    torch.testing.assert_close(state(guide), before, atol=0, rtol=0)


def test_training_with_running_statistics_resumes_to_the_same_bits(tmp_path):
    pixels = torch.randint(0, 2, (12, 1, 8, 8), dtype=torch.uint8)
    images = data.ImageSplit(pixels, values=data.BINARY)
    settings = TrainingSettings(batch_size=4, max_steps=6, log_every=1)

    def train(folder, resume=False, stop=None):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide = binary_vlae(architecture=BINARY, likelihood="bernoulli"), StatisticsGuide()
        fit(
            model, guide, images, elbo=Trace_ELBO(), settings=settings, out=tmp_path / folder,
            optimizer=JointOptim(torch.optim.Adam, {"lr": 1e-2}), progress=False, resume=resume,
            on_log=lambda line: line["step"] == stop,
        )  # fmt: skip
        return state(model, guide)

    whole = train("whole")
    train("cut", stop=3)
    torch.testing.assert_close(train("cut", resume=True), whole, atol=0, rtol=0)


def test_images_outside_the_support_are_refused(program):
    model, guide, x = program
    with pytest.raises(ValueError, match="support"):
        initialize(model, guide, 0.37 * x + 0.1234)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_training_from_a_degenerate_batch_does_not_explode(count):
    """Two crops of 8x8 pixels once made a scale of 309 and a loss 200 times as large."""
    sizes = ResNetArchitecture((1, 8, 8))
    for seed in range(2):
        pyro.set_rng_seed(seed)
        model, guide = binary_vlae(architecture=sizes), GaussianGuide(architecture=sizes)
        x = torch.rand(count, 1, 8, 8).round()
        initialize(model, guide, x)
        assert max(layer.scale.abs().max() for layer in layers(model, guide)) < 20
        svi = SVI(model, guide, pyro.optim.Adamax({"lr": 0.002}), Trace_ELBO())
        losses = [svi.step(x) for _ in range(10)]
        assert max(losses) < 3 * losses[0]


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal, AutoIAFNormal])
def test_the_store_is_left_alone_by_stock_guides(kind):
    def model(x):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    pyro.clear_param_store()
    guide, x = kind(model), torch.randn(5, 3, requires_grad=True)
    initialize(model, guide, x)
    check_held(model, guide, x)
    assert not list(pyro.get_param_store().keys())
