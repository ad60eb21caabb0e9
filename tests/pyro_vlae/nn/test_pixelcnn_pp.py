"""What a color network's conditionals see, by perturbation; and its evaluation channel by channel.

Images are shifted by real numbers here: a network's window does not end at the grid of levels.
"""

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.distributions import DiscretizedLogisticEmission
from pyro_vlae.nn import PixelCNNPlusPlusNet
from pyro_vlae.nn.pixelcnn_pp import GRAY

SIZE = 10
WINDOWS = ["4x2", "5x3", "7x4", "7x4-gray"]
MIXTURES = 2
# Parameters of red, green and blue: logits, means, log-scales, and coefficients of the coupling.
PARTS = dict(zip("RGB", torch.arange(12 * MIXTURES).split([6, 8, 10]), strict=True))


def network(window, context=0, filters=5, seed=0, mixtures=MIXTURES, blocks=4):
    torch.manual_seed(seed)
    net = PixelCNNPlusPlusNet(context, filters, window, mixtures, blocks).double()
    x = levels(2, 9, 9)
    net(x, torch.randn(2, context, 9, 9, dtype=torch.float64) if context else None)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def levels(size, height, width):
    return torch.randint(256, (size, 3, height, width)).double() / 127.5 - 1


def rectangle(window, row, column):
    """The A wide, B high block above the pixel and ceil((A - 1) / 2) pixels to its left."""
    width, height = map(int, window.removesuffix("-gray").split("x"))
    left = width // 2
    block = itertools.product(range(row - height, row), range(column - left, column + width - left))
    pixels = {*block, *((row, column - k) for k in range(1, left + 1))}
    return {(i, j) for i, j in pixels if 0 <= i < SIZE and 0 <= j < SIZE}


def moved_by(net, x, changes, at):
    """Which of "R", "G", "B" have other parameters at a pixel after each of some changes.

    A change is a pixel and what is added to its three channels.
    """
    images = x.repeat(1 + len(changes), 1, 1, 1)
    for image, ((row, column), change) in zip(images[1:], changes, strict=True):
        image[:, row, column] += change
    with torch.no_grad():
        out = net(images)[:, :, at[0], at[1]]
    differs = (out[1:] - out[0]).abs() > 1e-10
    names = [""] * len(changes)
    for name, part in PARTS.items():
        # All of a channel's parameters move, or none: nothing of it stays behind in a corner.
        assert torch.equal(differs[:, part].all(1), differs[:, part].any(1))
        names = [n + name * bool(d) for n, d in zip(names, differs[:, part[0]], strict=True)]
    return names


@pytest.mark.parametrize("window", WINDOWS)
def test_every_channel_of_the_window_and_nothing_else_is_seen(window):
    at, x = (6, 5), levels(1, SIZE, SIZE)
    pixels = [p for p in itertools.product(range(SIZE), range(SIZE)) if p != at]
    changes = [(p, channel) for channel in torch.eye(3).double() for p in pixels]
    inside = rectangle(window, *at)
    expected = ["RGB" if pixel in inside else "" for pixel, _ in changes]
    assert moved_by(network(window), x, changes, at) == expected


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("at", [(0, 0), (2, 9), (9, 1)])
def test_windows_end_at_the_border(window, at):
    net, x = network(window), levels(1, SIZE, SIZE).requires_grad_()
    out = net(x)[0, :, at[0], at[1]]
    for own, part in enumerate(PARTS.values()):
        (gradient,) = torch.autograd.grad(out[part] @ torch.rand(len(part)).double(), x, None, True)
        seen = gradient[0] != 0
        assert seen[:, at[0], at[1]].tolist() == [channel < own for channel in range(3)]
        seen[:, at[0], at[1]] = False
        for channel in seen:
            assert {tuple(p) for p in channel.nonzero().tolist()} == rectangle(window, *at)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_pixel_s_own_channels_are_seen_by_the_later_ones(window):
    """In the gray variant too, and through the network: the linear coupling comes after it."""
    at = (6, 5)
    changes = [*torch.eye(3).double(), same_gray()]
    moved = moved_by(network(window), levels(1, SIZE, SIZE), [(at, c) for c in changes], at)
    # Colors of the same gray are told apart at the pixel itself.
    assert moved == ["GB", "B", "", "GB"]


def same_gray():
    red, green, _ = GRAY
    return torch.tensor([0.5, -0.5 * red / green, 0.0], dtype=torch.float64)


def test_the_gray_variant_sees_nothing_but_gray_of_other_pixels():
    changes = [(pixel, same_gray()) for pixel in rectangle("7x4", 6, 5)]
    for window, expected in (("7x4-gray", ""), ("7x4", "RGB")):
        moved = moved_by(network(window), levels(1, SIZE, SIZE), changes, (6, 5))
        assert moved == [expected] * len(changes)


@pytest.mark.parametrize("window", ["3x2", *WINDOWS])
def test_stated_window_is_the_real_one(window):
    stated = {(6 + i, 5 + j) for i, j in network(window).window()}
    assert stated == rectangle(window, 6, 5)


@pytest.mark.parametrize(
    ("window", "vertical", "horizontal"),
    [("4x2", 1, 2), ("5x3", 2, 2), ("7x4", 3, 3), ("7x4-gray", 3, 3)],
)
def test_layers_of_the_paper(window, vertical, horizontal):
    net = PixelCNNPlusPlusNet(8, window=window)
    kernels = [tuple(m.direction.shape[2:]) for m in net.modules() if hasattr(m, "direction")]
    assert kernels.count((2, 3)) == vertical
    assert kernels.count((1, 2)) + 1 == horizontal  # the first is the pixel to the left alone
    assert [len(group) for group in net.groups] == [4, 4, 4]
    assert net.groups[0][0].second.direction.shape == (128, 64, 1, 1)


@pytest.mark.parametrize("window", WINDOWS)
def test_the_context_is_visible_to_every_channel(window):
    net = network(window, context=3)
    x = levels(1, SIZE, SIZE)
    maps = torch.rand(1, 3, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    for part in PARTS.values():
        (gradient,) = torch.autograd.grad(net(x, maps)[0, part, 5, 5].sum(), maps)
        assert (gradient[0, :, 5, 5] != 0).all()


def test_the_border_differs_from_mid_gray():
    """The map of ones: what lies outside the image is not a pixel of value zero."""
    net, black = network("4x2"), torch.zeros(1, 3, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        out = net(black)
    assert (out[..., 0, 0] - out[..., 4, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("window", WINDOWS)
def test_every_parameter_gets_a_gradient(window):
    net = network(window, context=2)
    x, maps = levels(2, 7, 7), torch.randn(2, 2, 7, 7, dtype=torch.float64)
    DiscretizedLogisticEmission()(net(x, maps)).log_prob(x.movedim(1, -1)).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name


@given(
    window=st.sampled_from(["3x2", "8x4", *WINDOWS]),
    context=st.integers(0, 3),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    blocks=st.integers(4, 5),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_incremental_parameters_equal_the_full_pass(
    feed_by_wavefronts, window, context, height, width, blocks, seed
):
    net = network(window, context, 4, seed, 1, blocks)
    x = levels(3, height, width)
    maps = torch.randn(3, context, height, width, dtype=torch.float64) if context else None
    with torch.no_grad():
        expected = net(x, maps)
        got = feed_by_wavefronts(net, x, maps)
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("window", ["4x3", "7x4-grey", "gray", "-gray", "7x4-gray-gray"])
def test_impossible_windows_are_refused(window):
    with pytest.raises(ValueError, match=r'got .*"-gray" may follow, as in "7x4-gray"'):
        PixelCNNPlusPlusNet(4, window=window)


def test_too_few_blocks_are_refused():
    with pytest.raises(ValueError, match=r"7x4 needs 3 horizontal layers.*got blocks=2"):
        PixelCNNPlusPlusNet(4, window="7x4", blocks=2)
    assert len(PixelCNNPlusPlusNet(4, window="4x2", blocks=2).groups[0]) == 2


@pytest.mark.parametrize("first", ["nn", "distributions"])
def test_networks_and_distributions_can_be_imported_in_either_order(first):
    """A color network knows its emission, and PixelCNN the networks: no circle may come of it."""
    subprocess.run([sys.executable, "-c", f"import pyro_vlae.{first}"], check=True, timeout=60)


def test_which_parameter_is_which():
    """Per channel: logits, means, log-scales, then a coefficient for each channel before it."""
    emission = DiscretizedLogisticEmission()
    plain = emission(torch.zeros(1, 24, 1, 1))
    assert plain.batch_shape == (1, 1, 1) and plain.event_shape == (3,)
    torch.testing.assert_close(plain.means, torch.tensor([-0.5, 0.5]).expand(1, 1, 1, 3, 2))
    assert (emission(torch.zeros(1, 12, 1, 1)).means == 0).all()
    names = ["logits", "means", "log_scales"]
    rows = [
        (name, channel) for channel in range(3) for name in [*names, *["coefficients"] * channel]
    ]
    pair = 0
    for k, (name, channel) in enumerate(rows):
        parameters = torch.zeros(1, 24, 1, 1)
        parameters[0, 2 * k] = 0.3  # of the first of two components
        moved = getattr(emission(parameters), name) - getattr(plain, name)
        if name == "coefficients":
            place, change, pair = pair, torch.tensor(0.3).tanh(), pair + 1
        else:
            place, change = channel, torch.tensor(0.3)
        expected = torch.zeros_like(moved)
        expected[..., place, 0] = change
        torch.testing.assert_close(moved, expected)
