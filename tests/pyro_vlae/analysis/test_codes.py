"""Information per code dimension against closed forms."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from pyro_vlae.analysis import code_dimension_rates, code_marginals
from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.models import FlowPrior, StandardNormalPrior, binary_vlae


def gaussian(loc, scale):
    """A guide whose posterior of image n is the n-th of these; images are their own numbers."""

    def guide(x):
        at = x.flatten(1)[:, 0].long()
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc[at], scale[at]).to_event(1))

    return guide, torch.arange(len(loc))[:, None, None, None].double()


def random_posteriors(count, dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, count, dims, generator=generator, dtype=torch.float64)
    return 2 * draw(), draw().mul(0.5).exp()


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 600), dims=st.integers(1, 5))
def test_factorized_prior_has_the_kl_of_each_dimension(count, dims):
    loc, scale = random_posteriors(count, dims)
    guide, x = gaussian(loc, scale)
    got = code_dimension_rates(guide, x, StandardNormalPrior(dims).double()())
    expected = (loc**2 + scale**2 - 1) / 2 - scale.log()
    torch.testing.assert_close(got.rates, expected.mean(0))
    assert got.against == "prior" and got.num_images == count


def test_total_against_the_prior_is_the_rate():
    guide, prior = GaussianGuide(code_dim=6).double(), StandardNormalPrior(6).double()()
    x = torch.rand(5, 1, 28, 28).round().double()
    guide.posterior(x)  # initialized by data
    guide.eval()
    got = code_dimension_rates(guide, x, prior)
    rate = kl_divergence(guide.posterior(x), prior.expand([5])).mean()
    torch.testing.assert_close(got.rates.sum(), rate.detach())
    assert got.rates.shape == (6,) and not got.rates.requires_grad


def test_aggregate_posterior_of_equal_and_of_separate_codes():
    """Equal posteriors tell nothing; N far apart tell which image it is: log N nats."""
    loc = torch.tensor([[0.0, 0.0], [0.0, 50.0], [0.0, 100.0]]).double()
    guide, x = gaussian(loc, torch.full_like(loc, 0.3))
    for prior in (None, FlowPrior(2, layers=1, hidden_dims=(4,)).double()()):
        got = code_dimension_rates(guide, x, prior)
        assert got.against == "aggregate posterior"
        expected = torch.tensor([0.0, math.log(3)]).double()
        torch.testing.assert_close(got.rates, expected, atol=1e-6, rtol=0)


def test_aggregate_posterior_by_quadrature():
    """Scales from 0.2 to 5, so that narrow posteriors lie inside wide ones."""
    loc, scale = random_posteriors(40, 3)
    guide, x = gaussian(loc, scale)
    grid = torch.linspace(-60, 60, 40_001).double()[:, None, None]
    mixture = dist.Normal(loc, scale).log_prob(grid).exp().mean(1)
    entropy = -torch.xlogy(mixture, mixture).sum(0) * (grid[1] - grid[0]).item()
    exact = entropy - dist.Normal(loc, scale).entropy().mean(0)
    rates = code_dimension_rates(guide, x).rates
    torch.testing.assert_close(rates, exact, atol=0.08, rtol=0)
    assert torch.equal(rates, code_dimension_rates(guide, x).rates)


def test_aggregate_posterior_of_a_gaussian_channel():
    """Means N(0, 4), scales 1: 0.5 log 5 nats for many images."""
    loc = dist.Normal(0.0, 2.0).icdf((torch.arange(4000).double() + 0.5) / 4000)[:, None]
    guide, x = gaussian(loc, torch.ones_like(loc))
    rates = code_dimension_rates(guide, x).rates
    assert rates.item() == pytest.approx(0.5 * math.log(5), abs=0.05)


def test_narrow_posteriors_are_no_problem():
    guide, x = gaussian(torch.tensor([[0.0], [1.0]]), torch.tensor([[1e-8], [1.0]]))
    # The wide posterior hides nothing: which image it is shows in nearly every sample.
    assert 0.6 < code_dimension_rates(guide, x).rates.item() <= math.log(2) + 1e-9


def test_marginals_are_the_posteriors_and_leave_the_guide_as_it_was():
    guide = GaussianGuide(code_dim=3)
    x = torch.rand(300, 1, 28, 28).round()
    with torch.no_grad():
        guide.posterior(x)
        exact = guide.eval().posterior(x).base_dist
    guide.train()
    got = code_marginals(guide, x)
    torch.testing.assert_close(got.loc, exact.loc, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.scale, exact.scale, atol=1e-5, rtol=1e-5)
    model = binary_vlae(code_dim=3, flow_layers=1, flow_hidden_dims=(4,))
    assert model.decoder(got.mean[:2]).shape[0] == 2  # in the precision that the decoder reads
    assert guide.training and not pyro.get_param_store().keys()


@pytest.mark.parametrize("low_rank", [False, True])
def test_full_and_low_rank_covariances_have_marginals_too(low_rank):
    factor, diagonal = torch.randn(4, 3, 2).double(), torch.rand(4, 3).double() + 0.1
    loc = torch.randn(4, 3).double()
    covariance = factor @ factor.mT + torch.diag_embed(diagonal)
    q = (
        dist.LowRankMultivariateNormal(loc, factor, diagonal)
        if low_rank
        else dist.MultivariateNormal(loc, covariance)
    )

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", q)

    got = code_marginals(guide, torch.zeros(4, 1, 2, 2))
    torch.testing.assert_close(got.loc, loc)
    torch.testing.assert_close(got.scale**2, covariance.diagonal(dim1=-2, dim2=-1))
    rates = code_dimension_rates(guide, torch.zeros(4, 1, 2, 2), StandardNormalPrior(3)())
    expected = (loc**2 + got.scale**2 - 1) / 2 - got.scale.log()
    torch.testing.assert_close(rates.rates, expected.mean(0))


def test_what_has_no_marginals_is_named():
    iaf = IAFGuide(code_dim=4, hidden_dims=(8,), layers=1)
    with pytest.raises(ValueError, match=r"'z' is TransformedDistribution"):
        code_marginals(iaf, torch.rand(2, 1, 28, 28).round())

    def scalar(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))

    with pytest.raises(ValueError, match=r"'z' is Normal.*expected Normal\(loc, scale\)\.to_event"):
        code_marginals(scalar, torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match="'z' is missing"):
        code_marginals(lambda x: None, torch.zeros(1, 1, 2, 2))
    guide, x = gaussian(*random_posteriors(3, 2))
    with pytest.raises(ValueError, match="there are no images"):
        code_marginals(guide, x[:0])
    with pytest.raises(ValueError, match=r"event_shape \(5,\).*2 dimensions"):
        code_dimension_rates(guide, x, StandardNormalPrior(5)())
