"""Initialization is an act: explicit, once, and without side effects."""

import copy

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_vlae.guides import GaussianGuide, color_guide
from pyro_vlae.infer import initialize
from pyro_vlae.models import binary_vlae, resnet_vlae
from pyro_vlae.nn import MapArchitecture, ResNetArchitecture
from pyro_vlae.nn.weight_norm import WeightNormLayer

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
