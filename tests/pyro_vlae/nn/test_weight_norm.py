import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import AveragedModel

from pyro_vlae.nn import (
    CausalConv2d,
    MaskedResNet,
    ResNetArchitecture,
    ResNetDecoder,
    ResNetEncoder,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
)
from pyro_vlae.nn.weight_norm import initialization

LAYERS = {
    "linear": (lambda: WeightNormLinear(5, 7), (16, 5)),
    "conv": (lambda: WeightNormConv2d(5, 7), (4, 5, 6, 6)),
    "strided": (lambda: WeightNormConv2d(5, 7, stride=2), (4, 5, 7, 7)),
    "transposed": (lambda: WeightNormConvTranspose2d(5, 7, (0, 1)), (4, 5, 4, 4)),
    "masked": (lambda: CausalConv2d(5, 7, image_channels=1), (4, 5, 6, 6)),
}


@pytest.fixture(params=LAYERS)
def layer_and_input(request):
    make, shape = LAYERS[request.param]
    torch.manual_seed(0)
    return make().double(), torch.randn(shape, dtype=torch.float64) * 3 + 1


def test_first_pass_normalizes_each_channel_and_equals_the_second(layer_and_input):
    layer, x = layer_and_input
    out = layer(x)
    dims = [d for d in range(out.dim()) if d != 1]
    torch.testing.assert_close(out.mean(dims), torch.zeros(7).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(out.var(dims, correction=0), torch.ones(7).double())
    assert torch.equal(out, layer(x))


def same_state(layer, state):
    return all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


def copied(layer):
    return {name: value.clone() for name, value in layer.state_dict().items()}


def test_initialization_happens_once(layer_and_input):
    layer, x = layer_and_input
    assert not layer.initialized
    layer(x)
    assert layer.initialized
    state = copied(layer)
    layer.train()(2 * x)
    with initialization(True):
        layer(3 * x)
    assert same_state(layer, state)


def test_only_training_passes_initialize(layer_and_input):
    layer, x = layer_and_input
    state = copied(layer)
    layer.eval()(x)
    layer.train()
    with torch.no_grad():
        layer(x)
    with initialization(False):
        out = layer(x)
    assert same_state(layer, state) and not layer.initialized
    plain = layer.apply_weight(x, layer.effective_direction(), None)
    torch.testing.assert_close(out, plain)
    with torch.no_grad(), initialization(True):
        assert not torch.allclose(layer.eval()(x), out)
    assert layer.initialized


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_change_of_precision_leaves_a_layer_as_constructed(layer_and_input, dtype):
    layer, _ = layer_and_input
    assert not layer.float().to(dtype).initialized
    assert not layer.to(dtype).double().initialized


def other_values(layer):
    """Layers like a fresh one that hold the values of an initialized one, by whatever way."""
    fresh = copy.deepcopy(layer)
    yield "deep copy", lambda used: copy.deepcopy(used)
    yield "load_state_dict", lambda used: loaded(copy.deepcopy(fresh), used)
    yield "pickle", lambda used: pickle.loads(pickle.dumps(used))
    yield "broadcast of parameters", lambda used: broadcast(copy.deepcopy(fresh), used)
    for use_buffers in (True, False):
        average = AveragedModel(fresh, use_buffers=use_buffers)  # before there is training
        yield f"average, {use_buffers=}", lambda used, a=average: averaged(a, used)


def loaded(fresh, used):
    fresh.load_state_dict(used.state_dict())
    return fresh


def broadcast(fresh, used):
    with torch.no_grad():
        for target, source in zip(fresh.parameters(), used.parameters(), strict=True):
            target.copy_(source)
    return fresh


def averaged(average, used):
    average.update_parameters(used)
    average.update_parameters(used)
    return average.module


def test_nothing_that_brings_values_along_sets_it_off_again(layer_and_input):
    layer, x = layer_and_input
    ways = list(other_values(layer))
    layer(x)
    for name, way in ways:
        other = way(layer)
        state = copied(other)
        out = other.train()(5 * x + 1)
        assert same_state(other, state), name
        torch.testing.assert_close(out, layer(5 * x + 1), msg=name)


def test_a_broadcast_of_buffers_alone_changes_nothing(layer_and_input):
    """As distributed training sends them from one process to the others."""
    layer, x = layer_and_input
    fresh = copy.deepcopy(layer)
    layer(x)
    for target, source in zip(fresh.buffers(), layer.buffers(), strict=True):
        target.copy_(source)
    assert not fresh.initialized
    torch.testing.assert_close(fresh(x), layer(x))  # by its own first batch
    used = copy.deepcopy(layer)
    for target, source in zip(used.buffers(), LAYERS["conv"][0]().buffers(), strict=False):
        target.copy_(source)
    state = copied(used)
    used(2 * x)
    assert same_state(used, state)


def test_weights_set_by_hand_are_kept():
    layer = WeightNormLinear(5, 7)
    with torch.no_grad():
        layer.scale.fill_(3.0)
    state = copied(layer)
    layer(torch.randn(16, 5))
    assert same_state(layer, state)


def test_safetensors_round_trip(layer_and_input, tmp_path):
    layer, x = layer_and_input
    fresh = copy.deepcopy(layer)
    layer(x)
    save_model(layer, str(tmp_path / "layer.safetensors"))
    load_model(fresh, str(tmp_path / "layer.safetensors"))
    assert torch.equal(fresh(2 * x), layer(2 * x))


def test_a_tied_layer_takes_its_first_use():
    layer, x = WeightNormLinear(5, 5), torch.randn(64, 5)
    out = layer(x)
    layer(3 * out + 1)
    assert torch.equal(layer(x), out)


def test_a_fresh_layer_takes_the_saved_initialization():
    for make, shape in LAYERS.values():
        x = torch.randn(shape)
        layer, fresh = make(), make()
        expected = layer(x)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(fresh(5 * x + 1), layer(5 * x + 1))
        assert torch.equal(fresh(x), expected)


def test_a_layer_that_is_reset_to_fresh_weights_is_initialized_again(layer_and_input):
    layer, x = layer_and_input
    fresh = copied(layer)
    first, other = layer(x), layer(2 * x)
    layer.load_state_dict(fresh)
    assert not layer.initialized
    torch.testing.assert_close(layer(2 * x), first)
    assert not torch.allclose(other, first)


def test_parameters_keep_their_identity(layer_and_input):
    layer, x = layer_and_input
    before = list(layer.parameters())
    layer(x)
    assert all(a is b for a, b in zip(before, layer.parameters(), strict=True))


@given(size=st.integers(1, 4), constant=st.booleans())
@settings(max_examples=10, deadline=None)
def test_constant_channels_and_single_images_stay_finite(size, constant):
    layer = WeightNormLinear(3, 2)
    x = torch.ones(size, 3) if constant else torch.randn(size, 3)
    out = layer(x)
    assert out.isfinite().all()
    assert all(p.isfinite().all() for p in layer.parameters())
    # nothing is blown up for want of variance
    assert layer.scale.abs().max() < 1e4
    if size == 1 or constant:
        assert layer.weight().abs().max() < 10


@pytest.mark.parametrize("count", [2, 3, 16])
def test_channels_that_vary_little_by_chance_are_not_blown_up(count):
    """Of 500 channels, some have two outputs that nearly coincide."""
    torch.manual_seed(0)
    layer = WeightNormLinear(20, 500)
    layer(torch.randn(count, 20))
    scale = layer.scale.detach()
    assert scale.max() <= scale.median() * count**0.5 * 1.5
    torch.manual_seed(0)
    by_many = WeightNormLinear(20, 500)
    out = by_many(torch.randn(400, 20))
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(500))  # no bound in the way


def test_weight_has_the_stated_norm(layer_and_input):
    layer, x = layer_and_input
    layer(x)
    torch.testing.assert_close(layer._norm(layer.weight()), layer.scale.abs().detach())


def test_training_and_evaluation_have_the_same_weights(layer_and_input):
    """Training uses a kernel of PyTorch's, whose gradients are those of the formula."""
    layer, x = layer_and_input
    layer(x)
    weight = layer.weight()
    direction = layer.effective_direction()
    formula = direction * layer._per_channel(layer.scale / layer._norm(direction))
    with torch.no_grad():
        assert torch.equal(layer.weight(), formula)
    torch.testing.assert_close(weight, formula)
    noise, parameters = torch.randn_like(weight), (layer.direction, layer.scale)
    torch.testing.assert_close(
        torch.autograd.grad((weight * noise).sum(), parameters),
        torch.autograd.grad((formula * noise).sum(), parameters),
    )


def test_derivatives_with_respect_to_the_scale_alone(layer_and_input):
    layer, x = layer_and_input
    layer(x)
    scale = layer.scale.detach()

    def output(scale):
        return torch.func.functional_call(layer, {"scale": scale}, (x,))

    # The output is linear in the scale, apart from the bias.
    _, tangent = torch.func.jvp(output, (scale,), (scale,))
    torch.testing.assert_close(tangent, output(scale) - output(torch.zeros_like(scale)))


def test_the_fused_kernel_computes_the_same_weight_and_gradients(layer_and_input, monkeypatch):
    layer, x = layer_and_input
    layer(x)
    factors = torch.randn(layer.direction.shape, dtype=torch.float64)
    results = []
    for fused in (True, False):
        monkeypatch.setattr(type(layer), "_fused_kernel_pays", lambda *_, fused=fused: fused)
        weight = layer.weight()
        parameters = layer.direction, layer.scale
        gradients = torch.autograd.grad((factors * weight.square()).sum(), parameters)
        results.append((weight, *gradients))
    torch.testing.assert_close(*results)


def test_networks_are_compiled_in_one_piece():
    sizes = ResNetArchitecture(image_shape=(1, 8, 8), code_dim=4, channels=(4, 8), features=16)
    for network, values in (
        (ResNetEncoder(sizes), (torch.rand(8, 1, 8, 8),)),
        (ResNetDecoder(sizes), (torch.randn(8, 4),)),
        (MaskedResNet(), (torch.rand(8, 1, 8, 8), torch.randn(8, 4, 8, 8))),
    ):
        network(*values)  # initializes
        assert torch._dynamo.explain(network)(*values).graph_break_count == 0
