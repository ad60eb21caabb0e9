"""Lossless coding of gray levels and colors, and of any emission with levels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, constraints

from pyro_vlae.codec import CodecError, LosslessCodec, LossyCodec
from pyro_vlae.codec.container import Container
from pyro_vlae.codec.pixels import _in_digits, pop_pixels, push_pixels
from pyro_vlae.codec.stack import BitStack, initial_words
from pyro_vlae.distributions import PixelCNN
from pyro_vlae.guides import GaussianGuide, color_guide
from pyro_vlae.infer import initialize, marginal_log_likelihood
from pyro_vlae.models import VLAE, color_vlae, gray_vlae
from pyro_vlae.nn import MapArchitecture, MaskedResNet, ResNetArchitecture


def gray(height=3, width=5, channels=1, **options):
    sizes = ResNetArchitecture(image_shape=(channels, height, width), code_dim=4, channels=(4,))
    options = {"flow_layers": 2, "flow_hidden_dims": (8,), "pixelcnn_channels": 6, **options}
    model = gray_vlae(architecture=sizes, mixtures=2, **options)
    return model, GaussianGuide(architecture=sizes)


def color(height=4, width=8, window="4x2", **options):
    sizes = MapArchitecture((3, height, width), 2, channels=(4, 4, 4))
    options = {"flow_layers": 2, "flow_channels": (4,), "pixelcnn_channels": 4, **options}
    return color_vlae(sizes, window, **options), color_guide(sizes)


def images(count, channels, height, width, seed=0):
    """Smooth images, with some pixels of any level."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    noise = torch.randn(shape, generator=generator)
    level = torch.randint(60, 200, (count, channels, 1, 1), generator=generator) + 8 * noise
    anything = torch.randint(256, shape, generator=generator)
    level = torch.where(torch.rand(shape, generator=generator) < 0.02, anything, level)
    return level.round().clamp(0, 255) / 127.5 - 1


@settings(max_examples=10, deadline=None)
@given(
    count=st.integers(1, 20),
    height=st.integers(2, 6),
    width=st.integers(2, 6),
    channels=st.integers(1, 3),
    options=st.sampled_from([{}, {"window": "4x2"}, {"prior": "normal"}]),
)
def test_gray_levels_of_any_size_survive(count, height, width, channels, options):
    # With several channels, these networks see all at once, but the emission couples them.
    torch.manual_seed(0)
    codec = LosslessCodec(*gray(height, width, channels, **options))
    x = torch.randint(256, (count, channels, height, width)) / 127.5 - 1
    assert torch.equal(codec.decompress(codec.compress(x, verify=False)), x)


@pytest.mark.parametrize("options", [{}, {"window": "7x4-gray", "prior": "normal"}])
@pytest.mark.parametrize("count", [1, 20])
def test_colors_survive(count, options):
    torch.manual_seed(0)
    codec = LosslessCodec(*color(**options))
    x = torch.randint(256, (count, 3, 4, 8)) / 127.5 - 1
    data = codec.compress(x, verify=False)
    assert torch.equal(codec.decompress(data), x)
    assert codec.compress(x, verify=False) == data


def test_codes_of_one_channel_survive():
    # The inverse of the flow then returns codes with the strides of columns.
    torch.manual_seed(0)
    sizes = MapArchitecture((3, 16, 16), 1, channels=(8, 16, 16))
    options = {"flow_layers": 2, "flow_channels": (8,), "pixelcnn_channels": 4}
    programs = color_vlae(sizes, "4x2", **options), color_guide(sizes)
    x = torch.randint(256, (4, 3, 16, 16)) / 127.5 - 1
    initialize(*programs, x)
    with torch.no_grad():
        for parameter in programs[0].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    codec = LosslessCodec(*programs)
    assert torch.equal(codec.decompress(codec.compress(x, verify=False)), x)


@pytest.mark.parametrize("make, shape", [(gray, (1, 3, 5)), (color, (3, 4, 8))])
def test_the_file_is_as_long_as_the_bound(make, shape):
    torch.manual_seed(0)
    programs = make()
    initialize(*programs, images(64, *shape))
    x = images(400, *shape, seed=1)
    codec = LosslessCodec(*programs)
    data = codec.compress(x)
    assert codec.compress(x, verify=False) == data
    scored = marginal_log_likelihood(*programs, x, num_samples=8)
    bound = -scored.elbo.sum().item() / np.log(2)
    header = len(data) - Container.unpack(data).words.nbytes
    assert header < 120
    # The first image's initial bits come on top; the codes are a single sample.
    assert abs(8 * (len(data) - header) - bound) < 150 + 0.003 * bound


@torch.no_grad()
def test_pushing_pixels_costs_their_negative_log_probability():
    torch.manual_seed(0)
    model, guide = gray(4, 6)
    initialize(model, guide, images(64, 1, 4, 6))
    likelihood = model.likelihood(model.decoder(torch.randn(100, 4)))
    x = likelihood.sample()
    stack = BitStack(initial_words(4))
    before = len(stack)
    push_pixels(stack, likelihood, x, 100)
    cost = -likelihood.log_prob(x).sum().item() / np.log(2)
    assert len(stack) - before == pytest.approx(cost, rel=5e-4)
    assert torch.equal(pop_pixels(stack, likelihood, x, 100), x)
    assert np.array_equal(stack.words(), initial_words(4))


class LevelEmission:
    """Pixels of 20 levels: more than one digit, and not a multiple of it."""

    support = constraints.real
    levels = torch.linspace(0, 1, 20)

    def __call__(self, parameters):
        return Categorical(logits=10 * parameters.unsqueeze(-1) * self.levels)

    def level_probabilities(self, distribution, pixels, channels):
        return distribution.probs[:, channels]


def test_an_emission_of_your_own_says_how_it_is_coded():
    torch.manual_seed(0)
    model, guide = gray()
    network, emission = MaskedResNet(1, 4, 6, 2, 2), LevelEmission()
    own = VLAE(model.prior, model.decoder, lambda maps: PixelCNN(network, maps, emission=emission))
    codec = LosslessCodec(own, guide)
    x = emission.levels[torch.randint(20, (9, 1, 3, 5))]
    assert torch.equal(codec.decompress(codec.compress(x, verify=False)), x)


class OwnBits(MaskedResNet):
    support = constraints.boolean

    def emission(self, parameters):
        return Bernoulli(logits=parameters)


class OwnLevels(LevelEmission, MaskedResNet):
    def emission(self, parameters):
        return LevelEmission()(parameters)

    __call__ = MaskedResNet.__call__


@pytest.mark.parametrize("kind", [OwnBits, OwnLevels])
def test_a_network_may_define_how_its_pixels_are_coded(kind):
    torch.manual_seed(0)
    model, guide = gray()
    network = kind(1, 4, 6, 2, 1 if kind is OwnBits else 2)
    own = VLAE(model.prior, model.decoder, lambda maps: PixelCNN(network, maps))
    codec = LosslessCodec(own, guide)
    levels = torch.tensor([0.0, 1.0]) if kind is OwnBits else LevelEmission.levels
    x = levels[torch.randint(len(levels), (9, 1, 3, 5))]
    assert torch.equal(codec.decompress(codec.compress(x, verify=False)), x)


def test_levels_of_probability_zero_can_be_coded():
    class Sharp(LevelEmission):
        def __call__(self, parameters):
            return Categorical(logits=0 * parameters.unsqueeze(-1) + 1e4 * self.levels)

    torch.manual_seed(0)
    likelihood = PixelCNN(MaskedResNet(1, 0, 6, 2, 2), None, (1, 3, 5), Sharp()).expand((2,))
    x = Sharp.levels[torch.randint(19, (2, 1, 3, 5))]
    stack = BitStack(initial_words(4))
    before = len(stack)
    push_pixels(stack, likelihood, x, 2)
    assert 20 < (len(stack) - before) / x.numel() < 32  # bits of a pixel; -log p is infinite
    assert torch.equal(pop_pixels(stack, likelihood, x, 2), x)


def test_values_beside_the_levels_are_refused():
    codec = LosslessCodec(*gray())
    x = images(2, 1, 3, 5)
    for wrong in (x + 1e-5, x * 0, x.clamp(min=-1) * 3, x * torch.nan):
        with pytest.raises(CodecError, match=r"have 256 values, -1 to 1, .*k / 127\.5 - 1"):
            codec.compress(wrong)


@pytest.mark.parametrize("make, shape", [(gray, (1, 3, 5)), (color, (3, 4, 8))])
def test_the_code_alone_is_compressed_too(make, shape):
    torch.manual_seed(0)
    model, guide = make()
    x = images(5, *shape)
    initialize(model, guide, x)
    codec = LossyCodec(model, guide, log2_candidates=14)
    with pytest.raises(CodecError, match="have 256 values, -1 to 1"):
        codec.compress(127.5 * (x + 1))
    data = codec.compress(x + 1e-7)  # rounded in another way
    codes = codec.codes(data)
    assert codes.shape == guide.posterior(x).mean.shape
    likelihood = model.likelihood(model.decoder(codes))
    assert likelihood.support.check(codec.decompress(data)).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 255))
@settings(max_examples=30, deadline=None)
def test_tables_that_end_in_impossible_levels_can_be_coded(seed, possible):
    chance = np.random.default_rng(seed)
    table = chance.random((200, 256), np.float32)
    table[:, possible:] = 0
    table /= table.sum(1, keepdims=True)
    symbols = chance.integers(0, 256, 200)
    pushed = []

    def record(probabilities, place):
        pushed.append((symbols // place % probabilities.shape[1], probabilities))
        return pushed[-1][0]

    stack = BitStack(initial_words(4))
    assert (_in_digits(table, record) == symbols).all()
    for digits, probabilities in reversed(pushed):
        stack.push_levels(digits, probabilities)
    popped = _in_digits(table, lambda probabilities, place: stack.pop_levels(probabilities))
    assert (popped == symbols).all()
