import copy
from functools import partial

import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch

from pyro_vlae.models import FlowPrior, StandardNormalPrior
from pyro_vlae.transforms import IncrementalAffineAutoregressive

DIM = 5


def stock(factory, **options):
    return lambda: FlowPrior(DIM, transforms=[factory(DIM, **options) for _ in range(2)])


PRIORS = {
    "normal": partial(StandardNormalPrior, DIM),
    "flow": partial(FlowPrior, DIM, steps=3, hidden_dims=(16, 16)),
    "affine": stock(T.affine_autoregressive),
    "spline": stock(T.spline_autoregressive),
    "neural": stock(T.neural_autoregressive),
    "iterated": lambda: FlowPrior(
        DIM,
        transforms=[
            T.iterated(2, T.affine_autoregressive, DIM),
            T.Permute(torch.tensor([4, 2, 0, 1, 3])),
        ],
    ),
}
INVERTIBLE = ["normal", "flow", "affine", "spline", "iterated"]


@pytest.fixture(params=PRIORS)
def prior(request):
    torch.manual_seed(1)
    return PRIORS[request.param]()


def test_is_a_distribution_over_codes(prior):
    p = prior()
    assert p.event_shape == (DIM,) and p.batch_shape == ()
    assert p.log_prob(torch.randn(4, 3, DIM)).shape == (4, 3)
    assert p.expand((6,)).batch_shape == (6,)


@pytest.mark.parametrize("name", [name for name in PRIORS if name != "normal"])
def test_log_density_agrees_with_the_jacobian_of_autograd(name):
    torch.manual_seed(1)
    prior = PRIORS[name]()
    z = torch.randn(DIM)

    def noise(value):
        for step in prior.transforms:
            value = step(value)
        return value

    jacobian = torch.autograd.functional.jacobian(noise, z)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(noise(z)).sum()
    expected = base + jacobian.slogdet().logabsdet
    torch.testing.assert_close(prior().log_prob(z), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_samples_invert_to_the_noise(name):
    prior = PRIORS[name]()
    torch.manual_seed(3)
    z = prior().sample((4,))
    torch.manual_seed(3)
    noise = torch.distributions.Normal(torch.zeros(DIM), 1.0).sample((4,))
    for step in getattr(prior, "transforms", []):
        z = step(z)
    torch.testing.assert_close(z, noise, atol=1e-4, rtol=1e-4)


def test_density_integrates_to_one():
    torch.manual_seed(0)
    prior = FlowPrior(2, steps=4, hidden_dims=(32, 32)).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(1.5)
    axis = torch.linspace(-9, 9, 301, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    total = prior().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(total, torch.tensor(1.0).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", [name for name in PRIORS if name != "normal"])
def test_scoring_the_same_tensor_after_an_update_gives_the_new_value(name):
    prior = PRIORS[name]()
    z = torch.randn(4, DIM)
    before = prior().log_prob(z)
    before.sum().backward()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    after = prior().log_prob(z)
    assert not torch.allclose(before, after)
    after.sum().backward()


def test_a_used_prior_can_be_copied_and_the_copy_is_independent(prior):
    z = torch.randn(4, DIM)
    value = prior().log_prob(z)
    value.sum().requires_grad_()
    twin = copy.deepcopy(prior)
    torch.testing.assert_close(twin().log_prob(z), value)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(prior().log_prob(z), value)


@pytest.mark.parametrize("name", [name for name in PRIORS if name != "normal"])
def test_round_trip_through_a_state_dict(name):
    """Orders and masks, drawn at random by stock transforms, are part of the state."""
    torch.manual_seed(7)
    prior, fresh = PRIORS[name](), PRIORS[name]()
    z = torch.randn(4, DIM)
    assert not torch.allclose(fresh().log_prob(z), prior().log_prob(z.clone()))
    fresh.load_state_dict(prior.state_dict())
    torch.testing.assert_close(fresh().log_prob(z), prior().log_prob(z))


def test_default_steps_alternate_their_order():
    orders = [step.arn.permutation.tolist() for step in FlowPrior(4, 4, (8,)).transforms]
    assert orders == [[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3], [3, 2, 1, 0]]


def test_flow_scores_in_one_pass_per_step():
    """The direction of the flow: getting it backwards costs a pass per dimension."""
    prior = FlowPrior(DIM, 3, (16,))
    calls = []
    for step in prior.transforms:
        step.arn.register_forward_hook(lambda *_: calls.append(1))
    prior().log_prob(torch.randn(4, DIM))
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["normal", "flow", "affine", "spline"])
def test_float64_parameters(name, device):
    prior = PRIORS[name]().to(device, torch.float64)
    z = prior().sample((3,))
    assert z.dtype == torch.float64 and z.device.type == device.type
    assert prior().log_prob(z).dtype == torch.float64


def test_a_stock_affine_step_gets_the_fast_inverse_and_keeps_its_weights():
    step = T.affine_autoregressive(DIM, stable=True, sigmoid_bias=1.5)
    prior = FlowPrior(DIM, transforms=[step])
    (ours,) = prior.transforms
    assert type(ours) is IncrementalAffineAutoregressive
    assert ours.arn is step.arn and ours.stable and ours.sigmoid_bias == 1.5
    z = torch.randn(4, DIM)
    torch.testing.assert_close(ours(z), step(z))
    calls = []
    step.arn.register_forward_hook(lambda *_: calls.append(1))
    prior().sample((4,))
    assert not calls


def test_a_flow_prior_is_dual_to_an_inverse_flow_posterior():
    """Paper, eq. 12-14: along the encoder path the two give the same ELBO, term by term.

    A Gaussian guide under the flow prior equals the same Gaussian pushed through the very same
    steps under a standard normal prior, with a decoder that undoes them.
    """
    torch.manual_seed(0)
    flow = FlowPrior(DIM, steps=3, hidden_dims=(16, 16)).double()
    guide = dist.Normal(torch.randn(8, DIM).double(), torch.rand(8, DIM).double() + 0.1).to_event(1)
    z = guide.rsample()
    rate_of_prior = guide.log_prob(z) - flow().log_prob(z)

    pushed = dist.TransformedDistribution(guide, list(flow.transforms))
    eps = z
    for step in flow.transforms:
        eps = step(eps)
    normal = dist.Normal(torch.zeros(DIM).double(), 1.0).to_event(1)
    rate_of_posterior = pushed.log_prob(eps) - normal.log_prob(eps)
    torch.testing.assert_close(rate_of_posterior, rate_of_prior)
    undone = eps
    for step in reversed(flow.transforms):
        undone = step.inv(undone)
    torch.testing.assert_close(undone, z)
