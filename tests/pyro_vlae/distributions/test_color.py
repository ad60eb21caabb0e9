"""PixelCNN over a color network: channel by channel, exact, and equally by either way."""

import itertools

import pyro
import pytest
import torch
from torch import nn

from pyro_vlae.distributions import DiscretizedLogisticEmission, PixelCNN
from pyro_vlae.nn import CausalConv2d, PixelCNNPlusPlusNet
from pyro_vlae.nn.weight_norm import WeightNormLayer

WINDOWS = ["4x2", "5x3", "7x4", "7x4-gray"]
GRID = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def levels(*shape):
    return GRID[torch.randint(256, shape)]


def network(window="4x2", context=4, filters=6, mixtures=3, seed=0):
    torch.manual_seed(seed)
    net = PixelCNNPlusPlusNet(context, filters, window, mixtures).double()
    net(levels(4, 3, 9, 9), torch.randn(4, context, 9, 9).double() if context else None)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("pixel", [(0, 0), (2, 1)])
def test_each_channel_sums_to_one_given_all_before_it(window, pixel):
    """Over its 256 values, through the network, which is told the values of earlier channels."""
    context = torch.randn(4, 3, 2, dtype=torch.float64)
    likelihood = PixelCNN(network(window), context)
    x = levels(3, 3, 2)
    for channel in range(3):
        images = x.repeat(256, 1, 1, 1)
        images[:, channel, pixel[0], pixel[1]] = GRID
        emission = likelihood.emission(likelihood.parameters(images))
        log_prob = emission.channel_log_prob(images.movedim(1, -1))[:, pixel[0], pixel[1]]
        total = log_prob[:, channel].exp().sum()
        torch.testing.assert_close(total, torch.ones_like(total))
        # Channels before do not know of this one: their conditionals stay what they are.
        assert (log_prob[:, :channel] == log_prob[:1, :channel]).all()


def test_pixel_log_prob_is_the_sum_over_channels():
    net, context = network(), torch.randn(5, 1, 4, 3, 4, dtype=torch.float64)
    likelihood, x = PixelCNN(net, context), levels(2, 3, 3, 4)
    assert likelihood.batch_shape == (5, 1) and likelihood.event_shape == (3, 3, 4)
    pixels = likelihood.pixel_log_prob(x)
    assert pixels.shape == (5, 2, 3, 4)
    torch.testing.assert_close(pixels.sum((-2, -1)), likelihood.log_prob(x))
    for s, b in itertools.product(range(5), range(2)):
        parameters = net(x[b : b + 1], context[s])
        expected = (
            DiscretizedLogisticEmission()(parameters)
            .channel_log_prob(x[b : b + 1].movedim(1, -1))
            .sum(-1)
        )
        torch.testing.assert_close(pixels[s, b], expected[0])


class Opaque(nn.Module):
    """A color network whose layers are hidden; only its window may be known."""

    image_channels = 3
    channel_autoregressive = True

    def __init__(self, network, with_window=True):
        super().__init__()
        self.network, self.passes = network, 0
        self.emission = DiscretizedLogisticEmission()
        if with_window:
            self.window = network.window

    def forward(self, x, context):
        assert x.isfinite().all()  # a decision on values: this cannot be traced
        self.passes += 1
        return self.network(x, context)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("height, width", [(7, 9), (9, 4), (1, 1)])
def test_incremental_sampling_equals_full_passes_channel_by_channel(window, height, width, device):
    net = network(window).to(device)
    context = torch.randn(5, 4, height, width, dtype=torch.float64, device=device)
    torch.manual_seed(1)
    fast = PixelCNN(net, context).sample()
    opaque = Opaque(net)
    torch.manual_seed(1)
    slow = PixelCNN(opaque, context).sample()
    assert torch.equal(fast, slow)
    assert PixelCNN(net, context).support.check(fast).all()
    slope = {"4x2": 2, "5x3": 3}.get(window, 4)
    assert opaque.passes <= 3 * (slope * (height - 1) + width)


def test_without_a_window_pixels_are_drawn_one_by_one():
    """In raster order, three passes a pixel: the same draws, were noise given in that order."""
    net, context = network(), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    opaque = Opaque(net, with_window=False)
    torch.manual_seed(2)
    draw = PixelCNN(opaque, context).sample()
    assert opaque.passes == 3 * 9
    torch.manual_seed(2)
    image = torch.zeros_like(draw)
    for i, j, channel in itertools.product(range(3), range(3), range(3)):
        # A full pass over the image so far, and one channel of one pixel from it.
        emission = DiscretizedLogisticEmission()(net(image, context)[:, :, i : i + 1, j : j + 1])
        pixel = image[:, :, i : i + 1, j : j + 1].movedim(1, -1)
        image[:, channel, i, j] = emission.sample_channel(channel, pixel)[:, 0, 0]
    assert torch.equal(draw, image)


def test_samples_follow_the_conditionals():
    """Beside a known pixel: red by its frequencies, green and blue given what was drawn."""
    net = network(context=0)
    with torch.no_grad():
        for last in net.last:  # narrow components, so that levels have a frequency
            last.bias[6:9] -= 3.0
    likelihood = PixelCNN(net, None, (3, 1, 2))
    value = levels(3, 1, 2).repeat(10_000, 1, 1, 1)
    known = torch.tensor([[True, False]])
    draws = likelihood.complete(value, known)
    assert torch.equal(draws[..., 0], value[..., 0])
    level = ((draws[:, :, 0, 1] + 1) * 127.5).round().long()
    probability = likelihood.emission(likelihood.parameters(draws))
    log_prob = probability.channel_log_prob(draws.movedim(1, -1))[:, 0, 1]
    # Red: frequencies against probabilities, all images having the same conditional.
    images = value[:256].clone()
    images[:, 0, 0, 1] = GRID
    red = likelihood.emission(likelihood.parameters(images)).channel_log_prob(
        images.movedim(1, -1)
    )[:, 0, 1, 0]
    frequency = torch.bincount(level[:, 0], minlength=256) / len(draws)
    sigma = (red.exp() * (1 - red.exp()) / len(draws)).sqrt()
    assert ((frequency - red.exp()).abs() < 5 * sigma + 1e-4).all()
    # Green and blue have another conditional in each draw: their mean log-probability must be minus
    # the entropy, up to chance.
    for channel in (1, 2):
        images = draws[:60].repeat_interleave(256, 0)
        images[:, channel, 0, 1] = GRID.repeat(60)
        table = likelihood.emission(likelihood.parameters(images)).channel_log_prob(
            images.movedim(1, -1)
        )[:, 0, 1, channel]
        table = table.view(60, 256)
        entropy = -(table.exp() * table).sum(1)
        variance = (table.exp() * table.square()).sum(1) - entropy.square()
        error = (log_prob[:60, channel] + entropy).sum() / variance.sum().sqrt()
        assert error.abs() < 4.5


def test_completion_by_full_passes_equals_the_incremental_one():
    net = network("5x3")
    context = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    value = levels(3, 3, 6, 6)
    known = torch.zeros(6, 6, dtype=torch.bool)
    known[:2], known[2, :3] = True, True
    torch.manual_seed(1)
    fast = PixelCNN(net, context).complete(value, known)
    torch.manual_seed(1)
    slow = PixelCNN(Opaque(net), context).complete(value, known)
    assert torch.equal(fast, slow)
    assert torch.equal(fast[..., known], value[..., known])
    assert not torch.equal(fast, value)
    scribble = torch.zeros(6, 6, dtype=torch.bool)
    scribble[4, 4] = True
    with pytest.raises(ValueError, match=r"pixel \(4, 4\) is known but depends on unknown"):
        PixelCNN(net, context).complete(value, scribble)


def test_sampling_initialises_nothing_and_uses_the_plain_weights(feed_by_wavefronts):
    torch.manual_seed(0)
    net, context = PixelCNNPlusPlusNet(4, 8).double(), torch.randn(2, 4, 5, 6).double()
    draw = PixelCNN(net, context).sample()
    assert not any(m.initialized for m in net.modules() if isinstance(m, WeightNormLayer))
    with torch.no_grad():
        torch.testing.assert_close(feed_by_wavefronts(net, draw, context), net(draw, context))


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_images_are_drawn_in_chunks(monkeypatch, chunk):
    monkeypatch.setattr("pyro_vlae.distributions.pixelcnn.SAMPLE_CHUNK", chunk)
    likelihood = PixelCNN(network(), torch.randn(3, 1, 4, 2, 3).double())
    draw = likelihood.sample((2,))
    assert draw.shape == (2, 3, 1, 3, 2, 3)
    assert likelihood.support.check(draw).all()


def test_float32_images_and_every_precision_of_the_network():
    for dtype in (torch.float32, torch.float64):
        net = network().to(dtype)
        likelihood = PixelCNN(net, torch.randn(4, 4, 6, 6, dtype=dtype))
        draw = likelihood.sample()
        assert draw.dtype == dtype
        assert torch.isin(draw, torch.arange(256).to(dtype) / 127.5 - 1).all()
        assert likelihood.log_prob(draw).dtype == dtype
        assert likelihood.log_prob(draw).isfinite().all()


def test_works_as_a_pyro_sample_site():
    net, context = network(), torch.randn(3, 4, 4, 4, dtype=torch.float64)
    x = levels(3, 3, 4, 4)

    def model():
        with pyro.plate("images", 3):
            return pyro.sample("x", PixelCNN(net, context), obs=x)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], PixelCNN(net, context).log_prob(x))
    assert pyro.poutine.uncondition(model)().shape == x.shape


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(2, 3, 5, 5), r"outside the support PixelLevels\(\).*k / 127.5 - 1.*batch does"),
        (
            torch.full((2, 3, 5, 5), 255.0),
            "the first one 255: level k of 0..255 must have the value k / 127.5 - 1",
        ),
        (torch.full((2, 3, 5, 5), torch.nan), "images hold NaN"),
        (torch.zeros(2, 1, 5, 5), r"expected images of shape .*3, 5, 5.*got \(2, 1, 5, 5\)"),
    ],
)
def test_wrong_values_are_refused_readably(x, message):
    likelihood = PixelCNN(PixelCNNPlusPlusNet(4, 4), torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match=message):
        likelihood.log_prob(x)


def test_an_emission_over_whole_pixels_needs_no_channels_in_turn():
    """Any distribution with the channels as its event, as in a plain PixelCNN++."""

    class Whole(nn.Module):
        image_channels = 3
        outputs = "discretized_logistic_mixture"

        def __init__(self):
            super().__init__()
            self.layer = CausalConv2d(3, 24, image_channels=3)

        def forward(self, x, context):
            return self.layer(x)

    likelihood = PixelCNN(Whole(), None, (3, 4, 5)).expand((2,))
    draw = likelihood.sample()
    assert draw.shape == (2, 3, 4, 5) and likelihood.support.check(draw).all()
    assert likelihood.pixel_log_prob(draw).shape == (2, 4, 5)
