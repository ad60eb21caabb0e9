"""Windows are exactly what the names say: perturb a pixel and see which outputs move."""

import pytest
import torch

from pyro_vlae.nn import CausalConv2d, MaskedResNet

SIZE = 15


def perturb(module, scale=0.5):
    """Random weights everywhere, so that no path is zero by initialization."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def network(layers, tied=True, context=0, kernel=3, pointwise=None):
    torch.manual_seed(layers)
    net = MaskedResNet(
        1,
        context,
        hidden_channels=8,
        masked_layers=layers,
        pointwise_blocks=min(4, layers) if pointwise is None else pointwise,
        kernel_size=kernel,
        tied=tied,
    ).double()
    x = torch.rand(2, 1, SIZE, SIZE, dtype=torch.float64)
    maps = torch.rand(2, context, SIZE, SIZE, dtype=torch.float64) if context else None
    net(x, maps)
    perturb(net)
    return net


def seen_from(net, row, column, context=0):
    """The set of (row, column) whose change moves the logit at the given pixel."""
    x = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    maps = torch.rand(1, context, SIZE, SIZE, dtype=torch.float64) if context else None
    (gradient,) = torch.autograd.grad(net(x, maps)[0, 0, row, column], x)
    return {tuple(p) for p in gradient[0, 0].nonzero().tolist()}


def closed_form(n, row, column):
    pixels = {(row, column - d) for d in range(1, n + 1)}
    pixels |= {(row - r, c) for r in range(1, n + 1) for c in range(column - n, column + r + 1)}
    return {(i, j) for i, j in pixels if 0 <= i < SIZE and 0 <= j < SIZE}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3, 6])
@pytest.mark.parametrize("pixel", [(7, 7), (0, 0), (3, 13), (14, 2)])
def test_window_is_the_closed_form(layers, tied, pixel):
    assert seen_from(network(layers, tied), *pixel) == closed_form(layers, *pixel)


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_the_window_that_the_network_states_is_the_closed_form(layers):
    net = MaskedResNet(masked_layers=layers, pointwise_blocks=0)
    assert {(7 + i, 7 + j) for i, j in net.window()} == closed_form(layers, 7, 7)


def test_perturbing_a_pixel_moves_exactly_the_pixels_whose_window_holds_it():
    net = network(6, context=4)
    x = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64)
    maps = torch.rand(1, 4, SIZE, SIZE, dtype=torch.float64)
    before = net(x, maps)
    for row, column in [(0, 0), (5, 9), (7, 7), (14, 14)]:
        moved = x.clone()
        moved[0, 0, row, column] += 0.5
        changed = (net(moved, maps) != before)[0, 0]
        expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for i in range(SIZE):
            for j in range(SIZE):
                expected[i, j] = (row, column) in closed_form(6, i, j)
        assert torch.equal(changed, expected)
        assert not changed.flatten()[: row * SIZE + column + 1].any()


def test_larger_kernels_stay_causal():
    net = network(2, kernel=5)
    seen = seen_from(net, 7, 7)
    assert all(i * SIZE + j < 7 * SIZE + 7 for i, j in seen)
    assert min(i for i, _ in seen) == 3


def test_context_is_visible_at_the_current_pixel_and_not_at_later_ones():
    net = network(1, context=4, pointwise=1)
    x = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64)
    maps = torch.rand(1, 4, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x, maps)[0, 0, 7, 7], maps)
    seen = {tuple(p) for p in gradient[0].abs().sum(0).nonzero().tolist()}
    assert seen == {(7, 7), (7, 6), (6, 6), (6, 7), (6, 8)}


def test_tying_shares_one_set_of_weights():
    tied = sum(p.numel() for p in MaskedResNet(tied=True).layers.parameters())
    untied = sum(p.numel() for p in MaskedResNet(tied=False).layers.parameters())
    assert untied == 5 * tied
    assert len(set(MaskedResNet(tied=True).state_dict())) == len(
        {v.data_ptr() for v in MaskedResNet(tied=True).state_dict().values()}
    )


def test_tied_weights_are_initialised_by_their_first_use():
    torch.manual_seed(0)
    net = MaskedResNet(hidden_channels=6, masked_layers=3, pointwise_blocks=2)
    inputs = []
    net.layers[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    net(torch.rand(4, 1, 9, 9), torch.randn(4, 4, 9, 9))
    std = net.layers[0](inputs[0]).std((0, 2, 3), correction=0)
    torch.testing.assert_close(std.detach(), torch.full((6,), net.layers[0].init_scale))


def test_first_full_pass_equals_the_second():
    torch.manual_seed(0)
    net = MaskedResNet()
    x, maps = torch.rand(3, 1, 9, 9), torch.randn(3, 4, 9, 9)
    assert torch.equal(net(x, maps), net(x, maps))


def test_even_kernels_and_too_many_pointwise_blocks_are_refused():
    for size in (4, 1):
        with pytest.raises(ValueError, match="kernel_size must be odd"):
            CausalConv2d(1, 1, size)
    with pytest.raises(ValueError, match="pointwise_blocks must lie between 0 and masked_layers"):
        MaskedResNet(masked_layers=2, pointwise_blocks=3)


@pytest.mark.parametrize("masked_layers", [1, 2, 4])
def test_untying_changes_nothing_until_the_weights_are_trained(masked_layers):
    torch.manual_seed(0)
    network = MaskedResNet(1, 0, masked_layers=masked_layers, pointwise_blocks=1)
    x = torch.rand(4, 1, 5, 6).round()
    network(x)  # initializes
    expected, count = network(x), sum(p.numel() for p in network.parameters())
    for _ in range(2):  # the second time, there is nothing to do
        network.untie()
        assert torch.equal(network(x), expected) and not network.tied
    one = sum(p.numel() for p in network.layers[0].parameters()) if masked_layers > 1 else 0
    copies = max(0, masked_layers - 2)
    assert sum(p.numel() for p in network.parameters()) == count + copies * one
