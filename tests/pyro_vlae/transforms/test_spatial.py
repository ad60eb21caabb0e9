import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.models import spatial_flow_prior
from pyro_vlae.nn.masked_convnet import MaskedConvNet
from pyro_vlae.transforms import SpatialMeanOnlyAutoregressive, spatial


def made(shape, hidden=(9, 7), reverse=False):
    """A step whose every weight matters: random scales, no data-dependent initialization."""
    step = SpatialMeanOnlyAutoregressive(shape, hidden, reverse).double()
    with torch.no_grad():
        for layer in step.network.layers:
            layer.scale.copy_(torch.rand_like(layer.scale) + 0.5)
            layer.bias.normal_()
    return step


def order(shape, reverse):
    """Flat indices of the values in the stated order: row, column, map."""
    maps, height, width = shape
    index = torch.arange(maps * height * width).view(shape).permute(1, 2, 0).flatten().tolist()
    return index[::-1] if reverse else index


def slow_inverse(step, y):
    x = torch.zeros_like(y)
    for k in order(step.code_shape, step.reverse):
        x[..., k] = y[..., k] - (step._call(x) - x)[..., k]
    return x


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", [(9, 7), (2,), ()])
def test_jacobian_is_triangular_with_unit_diagonal_in_the_stated_order(reverse, hidden):
    torch.manual_seed(0)
    shape = (3, 3, 4)
    step = made(shape, hidden, reverse)
    x = torch.randn(36, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(step._call, x)
    index = order(shape, reverse)
    sorted_ = jacobian[index][:, index]
    torch.testing.assert_close(sorted_.diagonal(), torch.ones(36).double())
    assert not sorted_.triu(1).any()
    expected = jacobian.slogdet().logabsdet
    torch.testing.assert_close(step.log_abs_det_jacobian(x, step(x)), expected, atol=1e-10, rtol=0)


def test_a_value_sees_the_earlier_channels_of_its_position_and_the_positions_around():
    torch.manual_seed(0)
    step = made((4, 5, 5), (32, 32))
    x = torch.randn(100, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(step._call, x).view(4, 5, 5, 4, 5, 5)
    seen = (jacobian[2, 2, 2] != 0).int()
    assert seen[:, 2, 2].tolist() == [1, 1, 1, 0]  # its own derivative is 1
    # Three 3x3 layers see all that is earlier here, but for the blind spot of stacked masks.
    assert seen[:, 0].all() and seen[:, 1, :4].all() and seen[:, 2, :2].all()
    assert not seen[:, 1, 4].any()
    assert not seen[:, 3:].any() and not seen[:, 2, 3:].any()


@settings(deadline=None, max_examples=25)
@given(
    channels=st.integers(1, 4),
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    reverse=st.booleans(),
)
def test_the_inverse_is_that_of_a_pass_per_dimension(channels, height, width, hidden, reverse):
    torch.manual_seed(channels * height + width)
    step = made((channels, height, width), hidden, reverse)
    y = torch.randn(2, 3, channels * height * width, dtype=torch.float64)
    with torch.no_grad():
        x = step.inv(y)
        torch.testing.assert_close(x, slow_inverse(step, y), atol=1e-10, rtol=0)
        torch.testing.assert_close(step._call(x), y, atol=1e-10, rtol=0)


def test_the_inverse_computes_every_feature_once_and_makes_no_pass(monkeypatch):
    step = made((4, 5, 6), (9, 7))
    features, passes = [], []
    elu = spatial.F.elu
    monkeypatch.setattr(spatial.F, "elu", lambda h: (features.append(h.numel()), elu(h))[1])
    step.network.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        step.inv(torch.randn(2, 120, dtype=torch.float64))
    assert sum(features) == 2 * 5 * 6 * (9 + 7) and not passes


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_the_inverse_are_those_of_the_slow_one(reverse):
    torch.manual_seed(1)
    step = made((2, 2, 3), reverse=reverse)
    y = torch.randn(12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, dtype=torch.float64)

    def slow(value):
        x = torch.zeros(12, dtype=torch.float64)
        for k in order(step.code_shape, reverse):
            mean = (step._call(x) - x)[k]
            x = torch.where(torch.arange(12) == k, value[k] - mean, x)
        return x

    parameters = [y, *step.parameters()]
    ours = torch.autograd.grad((weight * step.inv(y)).sum(), parameters)
    stepwise = torch.autograd.grad((weight * slow(y)).sum(), parameters)
    torch.testing.assert_close(ours, stepwise, atol=1e-10, rtol=1e-8)


def test_inverting_a_new_step_uses_plain_weights_and_initialises_nothing():
    step = SpatialMeanOnlyAutoregressive((2, 3, 3), (4, 4)).double()
    step.inv(torch.randn(4, 18, dtype=torch.float64))
    assert not any(layer.initialized for layer in step.network.layers)
    step(torch.randn(4, 18, dtype=torch.float64))
    assert all(layer.initialized for layer in step.network.layers)


def test_a_new_step_starts_near_the_identity():
    torch.manual_seed(0)
    step = SpatialMeanOnlyAutoregressive((4, 8, 8), (16, 16))
    x = torch.randn(32, 256)
    step(x.clone())  # initializes
    shift = step._call(x) - x
    assert 0.02 < shift.std() < 0.3


def test_degrees_are_shared_out_evenly_and_the_masks_are_not_saved():
    network = MaskedConvNet(16, (128, 128))
    assert network.units == [[8] * 16, [8] * 16, [1] * 16]
    assert not [name for name in network.state_dict() if "mask" in name]


def test_codes_of_another_size_are_refused():
    with pytest.raises(
        ValueError, match=r"expected codes of 18 dimensions.*\(2, 3, 3\).*\(5, 17\)"
    ):
        SpatialMeanOnlyAutoregressive((2, 3, 3))(torch.zeros(5, 17))


def test_the_prior_is_a_density_over_flat_codes_in_alternating_order(device):
    torch.manual_seed(0)
    prior = spatial_flow_prior((2, 3, 2), 3, (6, 6)).to(device, torch.float64)
    assert [step.reverse for step in prior.transforms] == [False, True, False]
    z = torch.randn(5, 12, dtype=torch.float64, device=device)
    prior().log_prob(z)  # initializes
    assert prior().event_shape == (12,) and prior().log_prob(z.clone()).shape == (5,)
    drawn = prior().sample((4,))
    eps = drawn
    for step in prior.transforms:
        eps = step._call(eps)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum(-1)
    torch.testing.assert_close(prior().log_prob(drawn.clone()), expected)


@pytest.mark.parametrize("grad", [False, True])
def test_the_inverse_is_as_exact_under_autocast(grad):
    torch.manual_seed(0)
    step = made((4, 3, 5)).float()
    y = torch.randn(2, 60)
    with torch.set_grad_enabled(grad):
        expected = step.inv(y)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(step.inv(y.clone()), expected)


def test_the_inverse_in_vmap():
    step = made((2, 3, 2)).float()
    y = torch.randn(3, 2, 12)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.vmap(step._inverse)(y), step._inverse(y.view(6, 12)).view(3, 2, 12)
        )
