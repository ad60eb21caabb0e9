"""Windows A x B are exactly that, and the incremental way computes what a full pass does."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.nn import TwoStackNet
from pyro_vlae.nn.two_stack import window_layers

SIZE = 13
WINDOWS = ["3x2", "4x2", "5x3", "6x3", "7x4"]


def network(window, context=0, filters=6, channels=1, seed=0):
    torch.manual_seed(seed)
    net = TwoStackNet(channels, context, filters, window).double()
    x = torch.rand(2, channels, 9, 9, dtype=torch.float64)
    net(x, torch.rand(2, context, 9, 9, dtype=torch.float64) if context else None)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def rectangle(window, row, column):
    """The A wide, B high block above the pixel and ceil((A - 1) / 2) pixels to its left."""
    width, height = map(int, window.split("x"))
    left = width // 2
    block = itertools.product(range(row - height, row), range(column - left, column + width - left))
    pixels = {*block, *((row, column - k) for k in range(1, left + 1))}
    return {(i, j) for i, j in pixels if 0 <= i < SIZE and 0 <= j < SIZE}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("pixel", [(7, 6), (0, 0), (2, 12), (12, 1)])
def test_window_is_exact(window, pixel):
    net = network(window)
    x = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0, 0, pixel[0], pixel[1]], x)
    assert {tuple(p) for p in gradient[0, 0].nonzero().tolist()} == rectangle(window, *pixel)


@pytest.mark.parametrize("window", WINDOWS)
def test_stated_window_is_the_real_one(window):
    stated = {(6 + i, 6 + j) for i, j in network(window).window()}
    assert stated == rectangle(window, 6, 6)


@pytest.mark.parametrize(
    ("window", "layers"), [("4x2", (1, 2)), ("5x3", (2, 2)), ("7x4", (3, 3)), ("3x2", (1, 1))]
)
def test_layers_of_the_paper(window, layers):
    assert window_layers(window) == layers


@pytest.mark.parametrize("window", ["4x3", "1x1", "7", "x", "9x4", "2x1"])
def test_impossible_windows_are_refused(window):
    with pytest.raises(ValueError, match=f"got '{window}'"):
        TwoStackNet(window=window)


def test_context_is_visible():
    net = network("4x2", context=3)
    x = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64)
    maps = torch.rand(1, 3, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x, maps)[0, 0, 5, 5], maps)
    assert (gradient[0, :, 5, 5] != 0).all()


@given(
    window=st.sampled_from([*WINDOWS, "8x4", "9x5"]),
    channels=st.integers(1, 2),
    context=st.integers(0, 3),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_incremental_parameters_equal_the_full_pass(
    feed_by_wavefronts, window, channels, context, height, width, seed
):
    net = network(window, context, 4, channels, seed)
    x = torch.rand(3, channels, height, width, dtype=torch.float64)
    maps = torch.randn(3, context, height, width, dtype=torch.float64) if context else None
    with torch.no_grad():
        expected = net(x, maps)
        got = feed_by_wavefronts(net, x, maps)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)
