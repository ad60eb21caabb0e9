import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.nn import (
    CausalConv2d,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    without_initialization,
)

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


def test_first_pass_normalises_each_channel_and_equals_the_second(layer_and_input):
    layer, x = layer_and_input
    out = layer(x)
    dims = [d for d in range(out.dim()) if d != 1]
    torch.testing.assert_close(out.mean(dims), torch.zeros(7).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(out.var(dims, correction=0), torch.ones(7).double())
    assert torch.equal(out, layer(x))


def test_initialisation_happens_once_in_train_and_eval_and_is_saved(layer_and_input):
    layer, x = layer_and_input
    layer.eval()(x)
    assert layer.initialized
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    layer.train()(2 * x)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_fresh_layer_takes_the_saved_initialization():
    for make, shape in LAYERS.values():
        x = torch.randn(shape)
        layer, fresh = make(), make()
        expected = layer(x)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(fresh(5 * x + 1), layer(5 * x + 1))
        assert torch.equal(fresh(x), expected)


def test_plain_weights_without_initialization(layer_and_input):
    layer, x = layer_and_input
    with without_initialization():
        out = layer(x)
    assert not layer.initialized
    plain = layer.apply_weight(x, layer.effective_direction(), None)
    torch.testing.assert_close(out, plain)
    assert not torch.allclose(layer(x), out)


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


def test_weight_has_the_stated_norm(layer_and_input):
    layer, x = layer_and_input
    layer(x)
    torch.testing.assert_close(layer._norm(layer.weight()), layer.scale.abs().detach())
