import copy

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.nn import ResNetEncoder

SHAPE = (1, 8, 8)
DIM = 4


@pytest.fixture(params=["gaussian", "iaf"])
def guide(request):
    torch.manual_seed(0)
    encoder = ResNetEncoder(SHAPE, (4, 8), 16)
    if request.param == "gaussian":
        guide = GaussianGuide(DIM, SHAPE, encoder).double()
    else:
        guide = IAFGuide(DIM, SHAPE, encoder, steps=2, hidden_dims=(16,), context_dim=4).double()
    guide(torch.rand(8, *SHAPE).round().double())
    with torch.no_grad():  # away from the near-standard start
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return guide


def images(batch=3):
    return torch.rand(batch, *SHAPE).round().double()


def test_draws_codes_in_an_image_plate(guide):
    trace = poutine.trace(guide).get_trace(images())
    site = trace.nodes["z"]
    assert site["value"].shape == (3, DIM)
    assert [frame.name for frame in site["cond_indep_stack"]] == ["images"]
    trace.compute_log_prob()
    assert site["log_prob"].shape == (3,)


def test_log_prob_of_drawn_codes_is_that_of_a_fresh_posterior(guide):
    """The cache that makes a flow cheap to score gives the density that inversion gives."""
    x = images()
    with pyro.plate("particles", 2, dim=-2):
        trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    fresh = guide.posterior(x).log_prob(z.clone())
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], fresh, atol=1e-8, rtol=1e-8)


def test_density_agrees_with_the_jacobian_of_the_draw(guide):
    x = images(1)
    posterior = guide.posterior(x)
    flow = isinstance(guide, IAFGuide)
    base, transforms = (posterior.base_dist, posterior.transforms) if flow else (posterior, [])
    noise = base.rsample().detach()[0]

    def code(value):
        for transform in transforms:
            value = transform._call(value[None])[0]
        return value

    jacobian = torch.autograd.functional.jacobian(code, noise)
    expected = base.log_prob(noise[None])[0] - jacobian.slogdet().logabsdet
    torch.testing.assert_close(
        posterior.log_prob(code(noise)[None])[0], expected, atol=1e-8, rtol=1e-8
    )


def test_codes_are_reparameterized(guide):
    z = guide(images())
    for gradient in torch.autograd.grad(z.sum(), list(guide.parameters())):
        assert gradient.isfinite().all()


def test_a_used_guide_can_be_copied(guide):
    x = images()
    poutine.trace(guide).get_trace(x).compute_log_prob()
    twin = copy.deepcopy(guide)
    z = torch.randn(3, DIM).double()
    torch.testing.assert_close(twin.posterior(x).log_prob(z), guide.posterior(x).log_prob(z))


def test_starts_near_the_standard_normal():
    torch.manual_seed(0)
    guide = GaussianGuide(DIM, SHAPE)
    posterior = guide.posterior(torch.rand(64, *SHAPE).round()).base_dist
    assert posterior.loc.std().item() == pytest.approx(0.1, rel=0.3)
    assert posterior.scale.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", [GaussianGuide, IAFGuide])
def test_own_encoder_and_wrong_image_size(kind):
    class Pooled(nn.Module):
        out_features = 1

        def forward(self, x):
            return x.mean((-3, -2, -1)).unsqueeze(-1)

    guide = kind(64, encoder=Pooled())
    assert guide(torch.rand(5, 3, 6, 6)).shape == (5, 64)
    with pytest.raises(ValueError, match=r"1, 28, 28.*got \(2, 1, 8, 8\)"):
        kind(64)(torch.rand(2, 1, 8, 8))


def test_iaf_steps_read_the_image(guide):
    if not isinstance(guide, IAFGuide):
        return
    x = images(2)
    torch.manual_seed(5)
    z = guide.posterior(x).base_dist.sample()
    for k, step in enumerate(guide.transforms):
        first, second = torch.zeros(2, 4).double(), torch.ones(2, 4).double()
        moved = step.condition(second)(z) - step.condition(first)(z)
        assert moved.abs().min() > 0, k
