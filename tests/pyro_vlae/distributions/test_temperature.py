import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.distributions import DiscretizedLogisticMixture, PixelCNN
from pyro_vlae.distributions.temperature import sample_at, sample_index
from pyro_vlae.models import FlowPrior, StandardNormalPrior
from pyro_vlae.nn import MaskedResNet, PixelCNNPlusPlusNet

GRID = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def perturbed(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.double()


def mixture(batch=(), seed=0):
    torch.manual_seed(seed)
    logits, means, scales = torch.randn(3, *batch, 3, 4, dtype=torch.float64)
    coefficients = 0.5 * torch.randn(*batch, 3, 4, dtype=torch.float64)
    return DiscretizedLogisticMixture(logits, 0.7 * means, scales - 2.5, coefficients)


def pixelcnn(kind):
    if kind == "binary":
        return PixelCNN(perturbed(MaskedResNet(1, 4)), torch.randn(3, 4, 5, 6).double())
    network = perturbed(PixelCNNPlusPlusNet(4, 6, "4x2", 3))
    return PixelCNN(network, torch.randn(3, 4, 5, 6).double())


@pytest.mark.parametrize("kind", ["binary", "color"])
def test_temperature_one_changes_no_bit_and_zero_is_deterministic(kind):
    p = pixelcnn(kind)
    known = torch.zeros(5, 6, dtype=torch.bool)
    known[:2] = True
    x = p.sample()
    for sample in (p.sample, lambda **t: p.complete(x, known, **t)):
        pyro.set_rng_seed(1)
        plain = sample()
        pyro.set_rng_seed(1)
        assert torch.equal(sample(temperature=1), plain)
        assert torch.equal(sample(temperature=0), sample(temperature=0))
        assert not torch.equal(sample(temperature=0.7), plain)
    assert torch.equal(p.complete(x, known, temperature=0)[..., :2, :], x[..., :2, :])
    assert p.sample((2,), temperature=0).shape == (2, 3, *p.event_shape)


def test_temperature_zero_is_the_mode_of_each_binary_pixel_given_the_modes_before_it():
    p = pixelcnn("binary")
    mode = p.sample(temperature=0)
    parameters = p.parameters(mode)
    assert torch.equal(mode, (parameters > 0).double()) and 0 < mode.mean() < 1


def test_temperature_zero_is_the_mode_of_each_channel_given_the_modes_before_it():
    p = pixelcnn("color")
    mode = p.sample(temperature=0)
    for row, column, channel in itertools.product((0, 3), (1, 5), range(3)):
        images = mode[0].repeat(256, 1, 1, 1)
        images[:, channel, row, column] = GRID
        one = PixelCNN(p.network, p.context[0])
        emission = one.emission(one.parameters(images))
        values = emission.channel_log_prob(images.movedim(1, -1))[:, row, column, channel]
        assert mode[0, channel, row, column] == GRID[values.argmax()]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_binary_pixels_have_their_logits_divided(temperature):
    logits = torch.tensor([-2.0, -0.3, 0.0, 1.0])
    samples = sample_at(dist.Bernoulli(logits=logits.expand(40_000, 4)), temperature)
    expected = torch.sigmoid(logits / temperature)
    error = (expected * (1 - expected) / 40_000).sqrt()
    assert ((samples.mean(0) - expected).abs() < 5 * error).all()


@pytest.mark.parametrize("temperature", [0.4, 1.7])
@pytest.mark.parametrize("channel", [0, 2])
def test_levels_have_their_probabilities_raised_to_a_power(temperature, channel):
    p = mixture()
    before = GRID[[140, 76, 0]]
    values = before.expand(256, 3).clone()
    values[:, channel] = GRID
    log_prob = p.channel_log_prob(values)[:, channel]
    expected = (log_prob / temperature).softmax(0)
    count = 20_000
    samples = p.sample_channel(channel, before.expand(count, 3), temperature)
    found = torch.bincount(((samples + 1) * 127.5).round().long(), minlength=256) / count
    # Cumulative probabilities: those of single levels are small.
    assert (found.cumsum(0) - expected.cumsum(0)).abs().max() < 2 / math.sqrt(count)
    assert p.expand((7,)).sample(temperature=temperature).shape == (7, 3)
    assert torch.equal(samples, GRID[((samples + 1) * 127.5).round().long()])


@given(temperature=st.floats(0, 1e300), size=st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_no_temperature_is_too_small_or_too_large(temperature, size):
    logits = torch.tensor([0.0, -1.0, -torch.inf, 30.0, -80.0])[:size]
    index = sample_index(logits.expand(10, size), temperature)
    assert ((index >= 0) & (index < size) & (index != 2)).all()
    if temperature < 1e-3:
        assert (index == logits.argmax()).all()


def test_categorical_pixels_and_normal_ones():
    levels = dist.Categorical(logits=torch.tensor([0.0, 3.0, 1.0]).expand(1000, 3)).to_event(1)
    assert (sample_at(levels, 0) == 1).all() and sample_at(levels, 3.0).unique().numel() == 3
    normal = dist.Normal(torch.ones(10_000), 2.0)
    assert torch.equal(sample_at(normal, 0), torch.ones(10_000))
    assert 0.97 < sample_at(normal, 0.5).std() < 1.03


def test_what_has_no_temperature_is_named():
    with pytest.raises(ValueError, match=r"a Gamma can only be sampled at temperature 1, got 0\.5"):
        sample_at(dist.Gamma(torch.ones(2), 1.0), 0.5)
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"temperature must be a number .* got {wrong}"):
            pixelcnn("binary").sample(temperature=wrong)


@pytest.mark.parametrize("make", [StandardNormalPrior, lambda d: FlowPrior(d, 2, (8,))])
def test_the_temperature_of_a_prior_scales_its_noise(make):
    prior = perturbed(make(4))
    z = torch.randn(5, 4).double()
    assert torch.equal(prior(temperature=1.0).log_prob(z), prior().log_prob(z))
    pyro.set_rng_seed(2)
    plain = prior().sample((6,))
    pyro.set_rng_seed(2)
    assert torch.equal(prior(temperature=1).sample((6,)), plain)

    def noise(codes):
        for transform in getattr(prior, "transforms", []):
            codes = transform(codes)
        return codes

    pyro.set_rng_seed(2)
    torch.testing.assert_close(noise(prior(temperature=0.3).sample((6,))), 0.3 * noise(plain))
    torch.testing.assert_close(noise(prior(temperature=0).sample((6,))), torch.zeros(6, 4).double())
    # A density still: the change of variables at both temperatures differs by the noise alone.
    base = dist.Normal(torch.zeros(4).double(), 1.0).to_event(1)
    narrow = dist.Normal(torch.zeros(4).double(), 0.3).to_event(1)
    torch.testing.assert_close(
        prior(temperature=0.3).log_prob(z) - prior().log_prob(z),
        narrow.log_prob(noise(z)) - base.log_prob(noise(z)),
    )
    with pytest.raises(ValueError, match="temperature must be a number of at least 0, got -1"):
        prior(temperature=-1)
