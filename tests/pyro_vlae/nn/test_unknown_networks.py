"""Networks that the package does not know are sampled as by full passes, from forward alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pyro_vlae.distributions import BernoulliEmission
from pyro_vlae.distributions.sampling import go_through
from pyro_vlae.nn import CausalConv2d, PixelNetwork, WeightNormConv2d
from pyro_vlae.nn.wavefront import WavefrontEvaluator, make_evaluator


class Masked(PixelNetwork):
    """5x5 kernels, skip connections from every layer, plain torch in between."""

    image_channels, context_channels, outputs = 2, 3, "bernoulli_logits"

    def __init__(self):
        super().__init__()
        self.first = CausalConv2d(5, 6, 5, image_channels=2)
        self.layers = nn.ModuleList(CausalConv2d(6, 6, 5) for _ in range(3))
        self.pointwise = nn.Conv2d(6, 6, 1)
        self.last = nn.Sequential(nn.ELU(), nn.Conv2d(18, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
        self.gain = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x, context):
        h = self.first(torch.cat((2 * x - 1, context), dim=1))
        skips = []
        for layer in self.layers:
            h = h + torch.tanh(self.pointwise(layer(F.relu(h)))) * self.gain
            skips.append(h)
        return self.last(torch.cat(skips, 1))


class GatedStacks(PixelNetwork):
    """A vertical stack that runs ahead, a horizontal one beside it, both gated."""

    image_channels, context_channels, outputs = 1, 2, "bernoulli_logits"

    def __init__(self):
        super().__init__()
        self.v_in = CausalConv2d(2, 8, (2, 3), first_offset=(-2, -1))
        self.h_in = CausalConv2d(2, 8, 1, first_offset=(0, -1))
        self.v_layers = nn.ModuleList(
            CausalConv2d(4, 8, (2, 3), first_offset=(-1, -1)) for _ in range(3)
        )
        self.h_layers = nn.ModuleList(
            CausalConv2d(4, 8, (1, 2), first_offset=(0, -1)) for _ in range(3)
        )
        self.links = nn.ModuleList(WeightNormConv2d(8, 8, 1) for _ in range(3))
        self.context = nn.Conv2d(2, 8, 3, padding=1)
        self.last = WeightNormConv2d(4, 1, 1)

    def gate(self, h):
        value, gate = h.chunk(2, dim=1)
        return value.tanh() * torch.sigmoid(gate)

    def forward(self, x, context):
        seen = torch.cat([x, torch.ones_like(x)], 1)
        maps = F.avg_pool2d(self.context(context), 3, 1, 1)  # whatever the context goes through
        v, h = self.gate(self.v_in(seen) + maps), self.gate(self.h_in(seen) + maps)
        for v_layer, h_layer, link in zip(self.v_layers, self.h_layers, self.links, strict=True):
            vertical = v_layer(v)
            v = self.gate(vertical)
            h = h + self.gate(h_layer(h) + link(vertical))
        return self.last(h)


class Dilated(PixelNetwork):
    """A kernel dilated by two above a plain one, without a context."""

    image_channels, outputs = 1, "bernoulli_logits"

    def __init__(self):
        super().__init__()
        self.first = CausalConv2d(1, 6, 3, image_channels=1)
        self.second = CausalConv2d(6, 6, 3, dilation=2)
        self.slope = 1.0
        self.last = nn.Conv2d(6, 1, 1, bias=False)

    def forward(self, image, features=None):
        h = self.first(image)
        return self.last(F.elu(h[:, :6] - self.slope * self.second(F.elu(h))))


class ChannelMasked(PixelNetwork):
    """Channel by channel at each pixel, by masks alone."""

    image_channels, outputs, channel_autoregressive = 3, "bernoulli_logits", True

    def __init__(self):
        super().__init__()
        hidden, image = torch.arange(6) // 2, torch.arange(3)
        self.first = CausalConv2d(3, 6, own_pixel=image + 1 <= hidden[:, None])
        self.second = CausalConv2d(6, 6, own_pixel=hidden <= hidden[:, None])
        self.last = CausalConv2d(6, 3, own_pixel=hidden <= image[:, None])

    def forward(self, x, context):
        h = self.first(x)
        return self.last(F.elu(h + self.second(F.elu(h))))


class Halves(PixelNetwork):
    """The halves of one convolution's output, one needed earlier than the other."""

    image_channels, outputs = 1, "bernoulli_logits"

    def __init__(self):
        super().__init__()
        self.first = CausalConv2d(1, 8, (2, 3), first_offset=(-2, -1))
        self.second = CausalConv2d(4, 4, (2, 3), first_offset=(-1, -1))
        self.last = WeightNormConv2d(4, 1, 1)

    def forward(self, x, context=None, temperature=2.0, *, shift=0.1):
        a, b = self.first(x).chunk(2, 1)
        c, _ = b.split([3, 1], dim=1)
        return self.last(F.elu(self.second(a) + b + c[:, :1] + shift)) / temperature


class Knights(CausalConv2d):
    """Sees the left neighbor and those a knight's move away, so its mask has holes."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, kernel_size=5, **options)
        earlier = [(0, 1), (0, 3), (1, 0), (1, 4), (2, 1)]
        hole = torch.ones(5, 5, dtype=torch.bool)
        hole[tuple(zip(*earlier, strict=True))] = False
        hole[2, 2] = False
        self.mask.masked_fill_(hole, 0)


class Holes(PixelNetwork):
    image_channels, context_channels, outputs = 1, 1, "bernoulli_logits"

    def __init__(self):
        super().__init__()
        self.first = Knights(2, 6, image_channels=1)
        self.second = Knights(6, 6)
        self.last = WeightNormConv2d(6, 1, 1)

    def forward(self, x, context):
        h = self.first(torch.cat([x, context], 1))
        return self.last(F.elu(self.second(F.elu(h))))


class RedSeesNothing(PixelNetwork):
    """Two channels in turn; the first one's parameters only know that there is a pixel."""

    image_channels, outputs, channel_autoregressive = 2, "bernoulli_logits", True

    def __init__(self):
        super().__init__()
        self.first = CausalConv2d(2, 4, 3, image_channels=2)
        self.red, self.green = WeightNormConv2d(1, 1, 1), WeightNormConv2d(5, 1, 1)
        self.dropout = nn.Dropout2d()

    def forward(self, x, context):
        red = self.red(torch.ones_like(x[:, :1]))
        h = self.dropout(self.first(x))
        return torch.cat([red, self.green(torch.cat([h, x[:, :1]], 1))], 1)


NETWORKS = [Masked, GatedStacks, Dilated, ChannelMasked, Halves, Holes, RedSeesNothing]


def made(kind):
    torch.manual_seed(0)
    network = kind().double().eval()
    x = torch.rand(4, network.image_channels, 9, 9).round().double()
    with torch.no_grad():
        network(x, context_for(network, 4, 9, 9))
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def context_for(network, size, height, width):
    shape = (size, network.context_channels, height, width)
    return torch.randn(shape, dtype=torch.float64) if network.context_channels else None


def from_uniforms(network, context, uniform):
    """Sample a channel or a pixel wherever its uniform noise is below its probability."""

    def choose(distribution, pixels, front):
        return (front.of(uniform) < distribution.probs[:, front.channels]).double()

    image = torch.zeros_like(uniform)
    return go_through(network, BernoulliEmission(), context, image, choose)


def by_full_passes(network, context, uniform):
    """The slow oracle: pixel by pixel, channel by channel, each from a pass over all so far."""
    image = torch.zeros_like(uniform)
    channels, height, width = uniform.shape[1:]
    with torch.no_grad():
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    probability = network(image, context)[:, c, i, j].sigmoid()
                    value = (uniform[:, c, i, j] < probability).double()
                    if network.channel_autoregressive:
                        image[:, c, i, j] = value
                    elif c == 0:
                        values = uniform[:, :, i, j] < network(image, context)[:, :, i, j].sigmoid()
                if not network.channel_autoregressive:
                    image[:, :, i, j] = values.double()
    return image


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_default_device_does_not_matter(kind):
    network = made(kind)
    context, uniform = context_for(network, 2, 4, 5), torch.rand(2, network.image_channels, 4, 5)
    expected = from_uniforms(network, context, uniform.double())
    network = made(kind)  # without the plan that was just made
    with torch.device("meta"):
        assert isinstance(make_evaluator(network, context, 2, 4, 5), WavefrontEvaluator)
        assert torch.equal(from_uniforms(network, context, uniform.double()), expected)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("shape", [(7, 8), (8, 3), (1, 1), (1, 6), (6, 1)])
def test_samples_are_those_of_full_passes(kind, shape):
    network = made(kind)
    context = context_for(network, 5, *shape)
    assert isinstance(make_evaluator(network, context, 5, *shape), WavefrontEvaluator)
    uniform = torch.rand(5, network.image_channels, *shape, dtype=torch.float64)
    expected = by_full_passes(network, context, uniform)
    assert torch.equal(from_uniforms(network, context, uniform), expected)
    assert expected.numel() < 50 or 0.1 < expected.mean() < 0.9


@given(
    kind=st.sampled_from(NETWORKS),
    size=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
@settings(max_examples=30, deadline=None)
def test_parameters_equal_a_full_pass(feed_by_wavefronts, kind, size, height, width):
    network = made(kind)
    context = context_for(network, size, height, width)
    x = torch.rand(size, network.image_channels, height, width, dtype=torch.float64)
    got = feed_by_wavefronts(network, x, context)
    if network.channel_autoregressive:  # the last channel's parameters are asked for last
        got, expected = got[:, -1], network(x, context)[:, -1]
    else:
        expected = network(x, context)
    torch.testing.assert_close(got, expected.detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", NETWORKS)
def test_windows_are_what_a_pixel_depends_on(kind):
    network = made(kind)
    context, at = context_for(network, 1, 31, 31), (20, 15)
    x = torch.rand(1, network.image_channels, 31, 31, dtype=torch.float64, requires_grad=True)
    out = network(x, context)[0, :, at[0], at[1]].sum()
    (gradient,) = torch.autograd.grad(out, x)
    moved = gradient[0].abs().sum(0).nonzero().tolist()
    seen = {(i - at[0], j - at[1]) for i, j in moved} - {(0, 0)}
    if kind is not Masked:  # its ReLUs hide some
        assert network.window() == seen
    assert network.window() >= seen


def test_weights_are_read_anew_and_changed_modules_are_noticed(feed_by_wavefronts):
    network = made(Dilated)
    x = torch.rand(2, 1, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        for change in (
            lambda: network.second.bias.add_(1.0),
            lambda: setattr(network, "second", CausalConv2d(6, 6, 5).double()),
            lambda: setattr(network, "second", CausalConv2d(6, 6, dilation=2).double()),
            lambda: vars(network.second).update(dilation=1, first_offset=(-1, -1)),
            lambda: setattr(network, "slope", 3.0),
            lambda: network.second.mask[:, :, 0, :2].zero_(),
            lambda: network.second.mask[:, :, 0, 0].fill_(1),
        ):
            feed_by_wavefronts(network, x, None)
            change()
            network(x)
            torch.testing.assert_close(feed_by_wavefronts(network, x, None), network(x))
