"""Which pixels a PixelCNN uses: a network with known weights, and windows that hold."""

import pytest
import torch
from torch import nn

from pyro_vlae.analysis import pixel_influence
from pyro_vlae.distributions import PixelCNN
from pyro_vlae.nn import MaskedResNet, PixelCNNPlusPlusNet, PixelNetwork, TwoStackNet

WEIGHTS = {(0, -1): 2.0, (-1, 1): -0.5, (-2, 0): 0.25}


class Known(PixelNetwork):
    """Logits: a weighted sum of three earlier pixels, so that flips change them by a weight."""

    image_channels, outputs = 1, "bernoulli_logits"

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def window(self):
        return set(WEIGHTS)

    def forward(self, x, context=None):
        padded = nn.functional.pad(x, (2, 2, 2, 0))
        height, width = x.shape[-2:]
        return self.bias + sum(
            weight * padded[..., 2 + i : 2 + i + height, 2 + j : 2 + j + width]
            for (i, j), weight in WEIGHTS.items()
        )


def bits(*shape):
    return torch.rand(*shape).round()


def test_known_weights_are_found_at_their_offsets():
    images = bits(6, 1, 7, 8)
    result = pixel_influence(PixelCNN(Known(), None, (1, 7, 8)), images, flips=20)
    assert result.reach == (3, 2) and result.window == set(WEIGHTS)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for (row, column), weight in WEIGHTS.items():
        expected[3 + row, 2 + column] = abs(weight)
    torch.testing.assert_close(result.change, expected, atol=1e-6, rtol=0)


def test_without_a_window_the_whole_image_is_looked_at():
    class Untold(Known):
        def window(self):
            return None

    result = pixel_influence(PixelCNN(Untold(), None, (1, 4, 5)), bits(2, 1, 4, 5), flips=20)
    assert result.window is None and result.reach == (3, 4)
    assert result.change[3, 3] == pytest.approx(2.0)
    assert (result.change > 1e-6).sum() == 3


@pytest.mark.parametrize(
    "network",
    [
        MaskedResNet(context_channels=2, hidden_channels=4, masked_layers=3, pointwise_blocks=1),
        TwoStackNet(context_channels=2, hidden_channels=4, window="5x3"),
    ],
)
def test_only_the_window_counts_and_all_of_it_is_seen(network):
    network = network.double()
    images, context = bits(3, 1, 12, 12).double(), torch.randn(3, 2, 12, 12).double()
    likelihood = PixelCNN(network, context)
    likelihood.log_prob(images)  # initialized by data
    state = {name: value.clone() for name, value in network.state_dict().items()}
    result = pixel_influence(likelihood, images, flips=100)
    rows, columns = result.reach
    seen = {
        (row - rows, column - columns) for row, column in (result.change > 1e-9).nonzero().tolist()
    }
    assert seen == network.window()
    assert torch.equal(result.change, pixel_influence(likelihood, images, flips=100).change)
    assert not torch.equal(result.change, pixel_influence(likelihood, images, 100, seed=1).change)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_uncertain_pixels_are_flipped():
    """Only the left half is in doubt: a flip of the right half's pixels is never tried."""

    class Half(Known):
        def forward(self, x, context=None):
            logits = super().forward(x)
            sure = torch.full_like(logits[..., 4:], 2000.0)
            return torch.cat([logits[..., :4], sure], -1)

    result = pixel_influence(PixelCNN(Half(), None, (1, 4, 8)), bits(3, 1, 4, 8), flips=16)
    # All of columns 0 to 3, seen from columns 1 to 4, of which the last is sure whatever flips.
    assert result.change[3, 1] == pytest.approx(2.0 * 3 / 4)
    with pytest.raises(ValueError, match="flips is 33, expected 1 to 32"):
        pixel_influence(PixelCNN(Half(), None, (1, 4, 8)), bits(3, 1, 4, 8), flips=33)


def test_what_it_is_not_for_is_named():
    likelihood = PixelCNN(Known(), None, (1, 4, 5))
    with pytest.raises(ValueError, match="likelihood is a Bernoulli, expected a PixelCNN"):
        pixel_influence(torch.distributions.Bernoulli(0.5), bits(2, 1, 4, 5))
    with pytest.raises(ValueError, match=r"shape \(2, 1, 4, 4\), expected \(N, 1, H, W\)"):
        pixel_influence(likelihood, bits(2, 1, 4, 4))
    color = PixelCNN(PixelCNNPlusPlusNet(0, 4), None, (3, 4, 5))
    with pytest.raises(ValueError, match="one channel, got one with 3"):
        pixel_influence(color, bits(2, 3, 4, 5))
    with pytest.raises(ValueError, match="zeros and ones"):
        pixel_influence(likelihood, bits(2, 1, 4, 5) / 2)
    context = PixelCNN(MaskedResNet(context_channels=2), torch.zeros(3, 2, 4, 5))
    with pytest.raises(ValueError, match=r"batch_shape \(3,\)"):
        pixel_influence(context, bits(2, 1, 4, 5))


def test_a_network_that_sees_no_other_pixel_is_not_influenced():
    class Alone(PixelNetwork):
        image_channels, outputs = 1, "bernoulli_logits"

        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1, 1, 1))

        def forward(self, x, context=None):
            return torch.zeros_like(x) + self.bias

    likelihood = PixelCNN(Alone(), None, (1, 5, 6))
    assert likelihood.window == frozenset()
    influence = pixel_influence(likelihood, bits(2, 1, 5, 6), flips=4)
    assert influence.window == frozenset() and not influence.change.nan_to_num().any()
