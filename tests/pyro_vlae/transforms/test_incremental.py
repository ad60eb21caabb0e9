"""The fast inverse equals Pyro's own, with the very same weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN

from pyro_vlae.transforms import IncrementalAffineAutoregressive, MeanOnlyAutoregressive


def scaled(network):
    """Weights large enough that every dimension matters."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network.double()


@given(
    dims=st.integers(2, 9),
    hidden=st.lists(st.integers(9, 20), min_size=1, max_size=3),
    batch=st.sampled_from([(), (3,), (2, 4)]),
    skip=st.booleans(),
    stable=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_inverse_and_log_det_equal_stock(dims, hidden, batch, skip, stable, seed):
    torch.manual_seed(seed)
    network = scaled(AutoRegressiveNN(dims, hidden, skip_connections=skip))
    ours = IncrementalAffineAutoregressive(network, stable=stable)
    stock = AffineAutoregressive(network, stable=stable)
    x = torch.randn(*batch, dims, dtype=torch.float64)
    y = stock(x).detach().clone()
    got = ours.inv(y)
    torch.testing.assert_close(got, x, atol=1e-8, rtol=1e-8)
    expected = stock.log_abs_det_jacobian(x, stock(x))
    torch.testing.assert_close(ours.log_abs_det_jacobian(got, y), expected, atol=1e-8, rtol=1e-8)


def test_another_order_that_is_loaded_is_noticed():
    """What follows from the masks is kept from call to call."""
    torch.manual_seed(0)
    network, other = (
        scaled(AutoRegressiveNN(6, [12, 14], permutation=torch.randperm(6))) for _ in range(2)
    )
    step, x = IncrementalAffineAutoregressive(network), torch.randn(3, 6, dtype=torch.float64)
    for _ in range(2):
        y = AffineAutoregressive(network)(x).detach().clone()
        torch.testing.assert_close(step.inv(y), x, atol=1e-8, rtol=1e-8)
        network.load_state_dict(other.state_dict())


@given(dims=st.integers(2, 9), seed=st.integers(0, 1000), skip=st.booleans())
@settings(max_examples=20, deadline=None)
def test_mean_only_inverse(dims, seed, skip):
    torch.manual_seed(seed)
    step = MeanOnlyAutoregressive(
        scaled(AutoRegressiveNN(dims, [16, 12], param_dims=[1], skip_connections=skip))
    )
    x = torch.randn(3, dims, dtype=torch.float64)
    torch.testing.assert_close(step.inv(step._call(x)), x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("stable", [False, True])
def test_gradients_through_the_inverse_equal_stock(stable):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        network = scaled(AutoRegressiveNN(6, [12, 12]))
        y = torch.randn(3, 6, requires_grad=True)
        gradients = []
        for kind in (IncrementalAffineAutoregressive, AffineAutoregressive):
            step = kind(network, stable=stable)
            x = step.inv(y)
            loss = x.square().sum() + step.log_abs_det_jacobian(x, y).sum()
            parameters = list(network.parameters())
            gradients.append(torch.autograd.grad(loss, [y, *parameters]))
        for ours, stock in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, stock)
    finally:
        torch.set_default_dtype(torch.float32)


def test_without_gradients_nothing_is_recorded():
    step = IncrementalAffineAutoregressive(AutoRegressiveNN(6, [12]))
    with torch.no_grad():
        assert not step.inv(torch.randn(3, 6)).requires_grad
    assert step.inv(torch.randn(3, 6)).requires_grad


def test_float32_agrees_with_stock_to_1e_5():
    torch.manual_seed(0)
    network = AutoRegressiveNN(64, [640, 640])
    y = torch.randn(16, 64)
    with torch.no_grad():
        ours = IncrementalAffineAutoregressive(network).inv(y)
        stock = AffineAutoregressive(network).inv(y)
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
def test_the_inverse_is_as_exact_under_autocast(grad):
    torch.manual_seed(0)
    step = MeanOnlyAutoregressive(AutoRegressiveNN(20, [30], param_dims=[1]))
    y = torch.randn(3, 20)
    with torch.set_grad_enabled(grad):
        expected = step.inv(y)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(step.inv(y.clone()), expected)


def test_the_inverse_in_vmap():
    torch.manual_seed(0)
    step = IncrementalAffineAutoregressive(AutoRegressiveNN(6, [8]))
    y = torch.randn(3, 2, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(step._inverse)(y), step._inverse(y))
