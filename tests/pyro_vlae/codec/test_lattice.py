import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import affine_autoregressive, spline_autoregressive

from pyro_vlae.codec import CodecError
from pyro_vlae.codec.lattice import LatticePrior
from pyro_vlae.models import (
    FlowPrior,
    StandardNormalPrior,
    load_pretrained,
    spatial_flow_prior,
)


def flow():
    prior = FlowPrior(16, layers=4, hidden_dims=(32, 32))
    with torch.no_grad():
        for p in prior.parameters():
            p.mul_(3)  # untrained means are nearly zero
    return prior


def spatial_flow():
    prior = spatial_flow_prior((4, 2, 2), layers=4, hidden_channels=(8,))
    with torch.no_grad():
        for p in prior.parameters():
            p.copy_(0.3 * torch.randn_like(p))
    return prior


def codes(count, code_dim=16, delta=2**-5):
    return (torch.randn(count, code_dim) / delta).round() * delta


@pytest.mark.parametrize("make", [flow, spatial_flow])
@torch.no_grad()
def test_the_flow_is_a_bijection_of_grid_points_that_follows_the_density(make):
    torch.manual_seed(0)
    prior, z = make(), codes(500)
    lattice = LatticePrior(prior(), 2**-5)
    noise = lattice.to_noise(z)
    assert torch.equal(noise / 2**-5, (noise / 2**-5).round())
    assert torch.equal(lattice.to_codes(noise), z)
    parallel = z
    for transform in prior.transforms:
        parallel = transform(parallel)
    assert (parallel - z).abs().max() > 0.5  # the flow does something
    assert (noise - parallel).abs().max() < 0.2


@torch.no_grad()
def test_rounding_costs_what_theory_says():
    # A trained flow: the rounding errors of a nearly constant mean would not be uniform.
    delta, layers, dims = 2**-3, 4, 64
    prior = load_pretrained("static-mnist")[0].prior
    z = (prior().sample((4000,)) / delta).round() * delta
    exact = z
    for transform in prior.transforms:
        exact = transform(exact)
    noise = LatticePrior(prior(), delta).to_noise(z)
    cost = 0.5 * (noise.square() - exact.square()).sum(-1)
    error = (cost.std() / len(cost) ** 0.5).item()
    expected = layers * dims * delta**2 / 24
    assert error < 0.1 * expected
    assert cost.mean().item() == pytest.approx(expected, abs=4 * error)


@torch.no_grad()
def test_a_standard_normal_prior_needs_no_flow():
    lattice = LatticePrior(StandardNormalPrior(16)(), 2**-5)
    z = codes(3)
    assert lattice.to_noise(z) is z and lattice.to_codes(z) is z


@pytest.mark.parametrize("make", [affine_autoregressive, spline_autoregressive])
def test_flows_that_scale_are_refused_with_the_reason(make):
    prior = FlowPrior(4, transforms=[make(4)])
    with pytest.raises(CodecError, match="whose flow layers only shift"):
        LatticePrior(prior(), 2**-5)


def test_other_priors_are_refused():
    wide = dist.Normal(torch.zeros(4), 2.0).to_event(1)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(3)), dist.Normal(torch.randn(3, 4), 1.0).to_event(1)
    )
    for prior in (wide, mixture):
        with pytest.raises(CodecError, match="standard normal prior or a flow"):
            LatticePrior(prior, 2**-5)
