"""The mixture of discretized logistics sums to one, is finite everywhere, samples as it scores."""

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions import Logistic

from pyro_vlae.distributions import DiscretizedLogisticMixture
from pyro_vlae.distributions.discretized_logistic import pixel_levels

GRID = torch.arange(256, dtype=torch.float64) / 127.5 - 1
NAMES = ("logits", "means", "log_scales", "coefficients")


def parameters(batch=(), channels=3, components=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(size, scale, shift=0.0):
        values = torch.randn(*batch, size, components, generator=generator, dtype=torch.float64)
        return (shift + scale * values).to(dtype)

    pairs = channels * (channels - 1) // 2
    return draw(channels, 1), draw(channels, 0.7), draw(channels, 1.5, -2.5), draw(pairs, 0.5)


def each_value_of(channel, before, grid=GRID):
    """All 256 values of one channel, given those before it: ``(256, channel + 1)``."""
    return torch.cat([before[:channel].to(grid).expand(256, channel), grid[:, None]], 1)


def first_channels(arguments, count):
    pairs = count * (count - 1) // 2
    logits, means, log_scales, coefficients = arguments
    return DiscretizedLogisticMixture(
        *(a[..., :count, :] for a in (logits, means, log_scales)), coefficients[..., :pairs, :]
    )


@given(seed=st.integers(0, 1000), channel=st.integers(0, 2), components=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_each_channel_sums_to_one_given_those_before_it(seed, channel, components):
    arguments = parameters(components=components, seed=seed)
    mixture = first_channels(arguments, channel + 1)
    before = GRID[torch.randint(256, (3,))]
    log_prob = mixture.channel_log_prob(each_value_of(channel, before))
    total = log_prob[:, channel].exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-11, rtol=0)


@given(seed=st.integers(0, 1000), channel=st.integers(0, 2), components=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_table_of_levels_is_that_of_the_log_probabilities(seed, channel, components):
    arguments = parameters(components=components, seed=seed)
    mixture = first_channels(arguments, channel + 1)
    before = GRID[torch.randint(256, (3,))]
    expected = mixture.channel_log_prob(each_value_of(channel, before))[:, channel].exp()
    table = mixture.level_probabilities(channel, before[: channel + 1])
    torch.testing.assert_close(table, expected, atol=1e-12, rtol=1e-6)
    single = first_channels([a.float() for a in arguments], channel + 1)
    single = single.level_probabilities(channel, before[: channel + 1].float())
    torch.testing.assert_close(single.double(), expected, atol=1e-5, rtol=0)
    assert (single >= 0).all() and abs(single.sum() - 1) < 1e-5


EXTREMES = st.sampled_from([-1e4, -200.0, -30.0, -7.0, -1.0, 0.0, 1.0, 30.0, 200.0, 1e4])


@given(logit=EXTREMES, mean=EXTREMES, log_scale=EXTREMES, coefficient=EXTREMES)
@settings(max_examples=150, deadline=None)
def test_extreme_parameters_in_float32(logit, mean, log_scale, coefficient):
    arguments = [
        torch.tensor([[value, 0.3]]).repeat(count, 1).requires_grad_()
        for value, count in ((logit, 2), (mean, 2), (log_scale, 2), (coefficient, 1))
    ]
    mixture = DiscretizedLogisticMixture(*arguments)
    value = each_value_of(1, torch.tensor([1.0]), GRID.float())
    log_prob = mixture.channel_log_prob(value)
    assert log_prob.isfinite().all()
    total = log_prob[:, 1].double().exp().sum().item()
    assert total == pytest.approx(1, abs=2e-4)
    for gradient in torch.autograd.grad(log_prob.sum(), arguments):
        assert gradient.isfinite().all()
    assert pixel_levels.check(mixture.sample((20,))).all()


def test_gradients_are_those_of_the_formula():
    arguments = [a.requires_grad_() for a in parameters((2,), seed=3)]
    # Wide and narrow components, so that both branches of log(1 - exp(-x)) are crossed.
    with torch.no_grad():
        arguments[2][..., 0], arguments[2][..., 1] = 6.0, -6.5
    value = GRID[torch.tensor([[0, 255, 17], [128, 0, 255]])]
    assert torch.autograd.gradcheck(
        lambda *a: DiscretizedLogisticMixture(*a, validate_args=False).log_prob(value), arguments
    )


def test_one_component_is_the_logistic_s_mass_on_a_level():
    mean, log_scale = torch.tensor([[0.1]]).double(), torch.tensor([[-2.0]]).double()
    mixture = DiscretizedLogisticMixture(
        torch.zeros_like(mean), mean, log_scale, mean.new_zeros(0, 1)
    )
    logistic = Logistic(mean[0, 0], log_scale[0, 0].exp())
    edges = logistic.cdf((GRID[1:] + GRID[:-1]) / 2)
    mass = torch.diff(edges, prepend=edges.new_zeros(1), append=edges.new_ones(1))
    torch.testing.assert_close(mixture.log_prob(GRID[:, None]).exp(), mass)


def test_means_are_coupled_linearly_to_the_channels_before():
    logits, means, log_scales, coefficients = parameters(components=1)
    mixture = DiscretizedLogisticMixture(logits, means, log_scales, coefficients)
    red, green, blue = GRID[torch.tensor([40, 200, 90])]
    (a,), (b,), (c,) = coefficients
    shifts = [0, a * red, b * red + c * green]
    alone = [
        DiscretizedLogisticMixture(
            logits[k : k + 1], means[k : k + 1] + shift, log_scales[k : k + 1], logits[:0]
        ).log_prob(value.unsqueeze(0))
        for k, (shift, value) in enumerate(zip(shifts, (red, green, blue), strict=True))
    ]
    value = torch.stack([red, green, blue])
    torch.testing.assert_close(mixture.channel_log_prob(value), torch.stack(alone))


@pytest.mark.parametrize("channel", range(3))
def test_samples_follow_the_probabilities(channel):
    arguments = parameters(seed=1)
    arguments[2].fill_(-3.0)  # a dozen of levels, and one component in a tail
    arguments[1][..., 0] = -1.05
    mixture = first_channels(arguments, channel + 1)
    before = GRID[torch.tensor([250, 3, 0])][: channel + 1]
    draws = mixture.sample_channel(channel, before.expand(40_000, channel + 1))
    level = (127.5 * (draws + 1)).round().long()
    assert torch.equal(draws, GRID[level])  # exactly on the grid
    expected = mixture.channel_log_prob(each_value_of(channel, before))[:, channel].exp()
    frequency = torch.bincount(level, minlength=256) / len(draws)
    sigma = (expected * (1 - expected) / len(draws)).sqrt()
    assert ((frequency - expected).abs() < 5 * sigma + 1e-4).all()


def test_whole_pixels_are_drawn_channel_after_channel():
    """With strong coupling green follows red, and blue both, in every draw."""
    logits, means, log_scales = torch.zeros(3, 3, 1).double()
    log_scales = log_scales - 7
    log_scales[0] = 0.0
    mixture = DiscretizedLogisticMixture(
        logits, means, log_scales, torch.tensor([[-1.0], [0.5], [0.5]]).double()
    )
    red, green, blue = mixture.sample((2000,)).unbind(-1)
    assert red.std() > 0.3
    assert (green + red).abs().mean() < 0.01 and blue.abs().mean() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_levels_in_each_precision(dtype):
    mixture = DiscretizedLogisticMixture(*parameters((5,), dtype=dtype))
    draw = mixture.sample((300,))
    assert draw.shape == (300, 5, 3) and draw.dtype == dtype
    assert torch.isin(draw, torch.arange(256).to(dtype) / 127.5 - 1).all()
    assert mixture.log_prob(draw).dtype == dtype


def test_shapes_expand_and_use_at_a_sample_site():
    mixture = DiscretizedLogisticMixture(*parameters((4,)))
    assert mixture.batch_shape == (4,) and mixture.event_shape == (3,)
    value = mixture.sample((2,))
    wide = mixture.expand((2, 4))
    assert wide.batch_shape == (2, 4) and wide.sample().shape == (2, 4, 3)
    torch.testing.assert_close(wide.log_prob(value), mixture.log_prob(value))

    def model():
        with pyro.plate("pixels", 4):
            return pyro.sample("pixel", mixture)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["pixel"]
    torch.testing.assert_close(site["log_prob"], mixture.log_prob(site["value"]))


@pytest.mark.parametrize("wrong", [0.5, 1.01, -1.01, torch.nan])
def test_values_off_the_grid_are_refused(wrong):
    mixture = DiscretizedLogisticMixture(*parameters())
    value = torch.full((3,), wrong, dtype=torch.float64)
    with pytest.raises(ValueError, match="support"):
        mixture.log_prob(value)


def test_the_grid_has_a_tolerance_of_a_thousandth_of_a_level():
    level = torch.tensor([0.0, 254.9991, 254.9989, 255.0009, 255.002, 256.0])
    good = [True, True, False, True, False, False]
    assert pixel_levels.check(level.double() / 127.5 - 1).tolist() == good


@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_do_not_fit_are_refused(name):
    arguments = dict(zip(NAMES, parameters((2,)), strict=True))
    good = arguments[name]
    with pytest.raises(ValueError, match=r"coefficients \(\*batch, C \(C - 1\) / 2, K\); got"):
        DiscretizedLogisticMixture(**(arguments | {name: good[:, :2]}))
    with pytest.raises(ValueError, match=name):
        DiscretizedLogisticMixture(**(arguments | {name: torch.full_like(good, torch.nan)}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_levels_in_half_precision_are_known_again(dtype):
    half = (torch.arange(256) / 127.5 - 1).to(dtype)
    assert pixel_levels.check(half).all()
    assert pixel_levels.check(half.float()).float().mean() < 0.5  # most are off the grid
    between = torch.nextafter(half, half + 1)
    assert pixel_levels.check(between).sum() <= torch.isin(between, half).sum()
    mixture = DiscretizedLogisticMixture(*parameters(channels=1, dtype=torch.float32))
    assert mixture.log_prob(half[:, None]).logsumexp(0).abs() < 1e-5
