"""Priors keep their contract; what is special about flows."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from torch import distributions as td

from pyro_vlae.models import FlowPrior, StandardNormalPrior, binary_vlae, spatial_flow_prior
from pyro_vlae.testing import PriorContract
from pyro_vlae.transforms import IncrementalAffineAutoregressive

DIM = 5


class TestNormal(PriorContract):
    def make(self):
        return StandardNormalPrior(DIM)


class FlowContract(PriorContract):
    """What every flow prior must do beyond the contract of priors."""

    tolerance = 1e-7

    def test_log_density_agrees_with_the_jacobian_of_autograd(self):
        prior = self.made()
        z = self.codes(prior, 1)[0]

        def noise(value):
            for transform in prior.transforms:
                value = transform(value)
            return value

        jacobian = torch.autograd.functional.jacobian(noise, z)
        base = torch.distributions.Normal(0.0, 1.0).log_prob(noise(z)).sum()
        self.close(prior().log_prob(z.clone()), base + jacobian.slogdet().logabsdet)

    def test_samples_invert_to_the_noise(self):
        if not self.can_sample:
            return
        prior = self.made()
        torch.manual_seed(3)
        z = prior().sample((4,))
        torch.manual_seed(3)
        noise = dist.Normal(torch.zeros_like(z[0]), 1.0).sample((4,))
        for transform in prior.transforms:
            z = transform(z)
        self.close(z, noise)


class TestFlow(FlowContract):
    def make(self):
        return FlowPrior(DIM, layers=3, hidden_dims=(16, 16))


class TestSpatialFlow(FlowContract):
    def make(self):
        return spatial_flow_prior((2, 2, 2), layers=2, hidden_channels=(4, 4))


class TestAffine(FlowContract):
    def make(self):
        return FlowPrior(DIM, transforms=[T.affine_autoregressive(DIM) for _ in range(2)])


class TestSpline(FlowContract):
    tolerance = 1e-6

    def make(self):
        return FlowPrior(DIM, transforms=[T.spline_autoregressive(DIM) for _ in range(2)])


class TestIterated(FlowContract):
    def make(self):
        affine = T.iterated(2, T.affine_autoregressive, DIM)
        return FlowPrior(DIM, transforms=[affine, T.Permute(torch.tensor([4, 2, 0, 1, 3]))])


class TestNeural(FlowContract):
    can_sample = False

    def make(self):
        with pytest.warns(UserWarning, match="NeuralAutoregressive has no inverse.*not sampled"):
            return FlowPrior(DIM, transforms=[T.neural_autoregressive(DIM) for _ in range(2)])


def gated(dim):
    return T.block_autoregressive(dim, residual="gated")


@pytest.mark.parametrize("factory", [T.planar, T.radial, T.sylvester, T.polynomial, gated])
def test_transforms_that_cannot_be_sampled_are_named_at_construction(factory):
    with pytest.warns(UserWarning, match="has no inverse: a prior with it can be trained and sc"):
        FlowPrior(DIM, transforms=[factory(DIM)])


@pytest.mark.parametrize(
    "factory", [T.affine_autoregressive, T.spline_autoregressive, T.permute, T.batchnorm]
)
@pytest.mark.parametrize("size", [DIM - 1, DIM + 1])
def test_transforms_of_another_size_are_named_at_construction(factory, size):
    with pytest.raises(ValueError, match=f"does not take codes of {DIM} dimensions"):
        FlowPrior(DIM, transforms=[factory(size)])


@pytest.mark.filterwarnings("ignore:BlockAutoregressive has no inverse")
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "ELU", "LeakyReLU"])
@pytest.mark.parametrize("residual", [None, "normal", "gated"])
def test_a_transform_with_a_bounded_range_is_named_at_construction(activation, residual):
    """Exactly those block autoregressive transforms whose density does not integrate to one."""
    torch.manual_seed(0)
    transform = T.block_autoregressive(1, activation=activation, residual=residual)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prior = FlowPrior(1, transforms=[transform]).double()
    bounded = any("BlockAutoregressive without a residual" in str(w.message) for w in caught)
    u = torch.linspace(-22, 22, 400_001).double()  # LeakyReLU needs a wide range: z = sinh(u)
    with torch.no_grad():
        density = prior().log_prob(u.sinh()[:, None]).exp() * u.cosh()
    total = density.sum().item() * 44 / 400_000
    assert (abs(total - 1) > 1e-3) == bounded, total


@pytest.mark.parametrize("factory", [T.planar, T.sylvester])
def test_transforms_that_map_only_their_own_samples_are_refused(factory):
    with pytest.raises(ValueError, match=r"maps no codes to noise.*pass the transform itself"):
        FlowPrior(DIM, transforms=[factory(DIM).inv])


@pytest.mark.parametrize(
    ("chain", "bounded"),
    [
        ([td.TanhTransform()], "TanhTransform"),
        ([td.SigmoidTransform(), td.AffineTransform(0.0, 9.0)], "SigmoidTransform"),
        ([T.elu()], "ELUTransform"),
        ([td.ComposeTransform([td.ExpTransform(), td.AffineTransform(1.0, 2.0)])], "ExpTransform"),
        ([td.AffineTransform(0.0, 9.0), td.TanhTransform(), td.TanhTransform().inv], None),
        ([td.SigmoidTransform(), T.permute(1), td.SigmoidTransform().inv], None),
        ([td.CatTransform([td.AffineTransform(0.0, 2.0)], -1)], None),
        ([T.leaky_relu(), td.AffineTransform(0.0, 2.0)], None),
    ],
)
def test_a_chain_with_a_bounded_range_is_named_at_construction(chain, bounded):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prior = FlowPrior(1, transforms=chain).double()
    named = [str(w.message).split()[0] for w in caught if "bounded range" in str(w.message)]
    assert named == ([bounded] if bounded else [])
    u = torch.linspace(-600, 600, 400_001).double()
    with torch.no_grad(), pyro.validation_enabled(False):
        density = prior().log_prob(u[:, None]).exp()
    total = density.nan_to_num().sum().item() * 1200 / 400_000
    assert (total < 0.99) == bool(bounded), total


def test_transforms_may_reshape_codes_in_between():
    matrix = td.ReshapeTransform((16,), (4, 4))
    prior = FlowPrior(16, transforms=[matrix, T.HaarTransform(dim=-2), matrix.inv])
    assert prior().log_prob(prior().sample((3,)).clone()).shape == (3,)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_used_prior_with_a_composed_transform_can_be_copied(inverse):
    composed = td.ComposeTransform([T.affine_autoregressive(DIM, [8]), T.permute(DIM)])
    prior = FlowPrior(DIM, transforms=[composed.inv.inv if inverse else composed])
    z = torch.randn(3, DIM)
    expected = prior().log_prob(z)
    expected.sum().backward()
    torch.testing.assert_close(copy.deepcopy(prior)().log_prob(z), expected)


def test_looking_for_an_inverse_leaves_transforms_and_random_state_alone():
    transform = T.affine_autoregressive(DIM)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FlowPrior(DIM, transforms=[transform])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "build",
    [
        lambda: FlowPrior(DIM, layers=-1),
        lambda: spatial_flow_prior((1, 2, 2), layers=0),
        lambda: binary_vlae(flow_layers=0),
    ],
)
def test_flows_without_layers_are_refused(build):
    with pytest.raises(ValueError, match=r"at least 1 layer, got (-1|0).*StandardNormalPrior"):
        build()


def test_density_integrates_to_one():
    torch.manual_seed(0)
    prior = FlowPrior(2, layers=4, hidden_dims=(32, 32)).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(1.5)
    axis = torch.linspace(-9, 9, 301, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    total = prior().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(total, torch.tensor(1.0).double(), atol=1e-3, rtol=0)


def test_default_layers_alternate_their_order():
    orders = [layer.arn.permutation.tolist() for layer in FlowPrior(4, 4, (8,)).transforms]
    assert orders == [[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3], [3, 2, 1, 0]]


def test_flow_scores_in_one_pass_per_layer():
    """The direction of the flow: getting it backwards costs a pass per dimension."""
    prior = FlowPrior(DIM, 3, (16,))
    calls = []
    for step in prior.transforms:
        step.arn.register_forward_hook(lambda *_: calls.append(1))
    prior().log_prob(torch.randn(4, DIM))
    assert len(calls) == 3


@pytest.mark.parametrize(
    "make", [StandardNormalPrior, lambda dim: FlowPrior(dim, 2, (8,)), TestSpline.make]
)
def test_device_of_samples_and_scores(make, device):
    prior = make(DIM).to(device)
    z = prior().sample((3,))
    assert z.device.type == prior().log_prob(z).device.type == device.type


def test_a_stock_affine_transform_gets_the_fast_inverse_and_keeps_its_weights():
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
    layers under a standard normal prior, with a decoder that undoes them.
    """
    torch.manual_seed(0)
    flow = FlowPrior(DIM, layers=3, hidden_dims=(16, 16)).double()
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


def test_building_a_prior_leaves_batch_normalization_as_it_was():
    transforms = [T.affine_autoregressive(6, [8]), T.BatchNorm(6)]
    prior = FlowPrior(6, transforms=transforms)
    assert torch.isfinite(prior().log_prob(torch.randn(5, 6))).all()


@pytest.mark.parametrize(
    "wrap", [lambda t: t.inv, lambda t: torch.distributions.ComposeTransform([t])]
)
def test_parameters_inside_inverses_and_compositions_are_found(wrap):
    prior = FlowPrior(6, transforms=[wrap(T.affine_autoregressive(6, [8]))])
    assert len(list(prior.parameters())) > 0


def test_tensors_of_transforms_that_are_no_modules_are_saved_and_moved():
    loc = torch.tensor([1.0, -2.0, 0.5])

    def build(seed):
        torch.manual_seed(seed)
        chain = [T.permute(3), dist.transforms.AffineTransform(loc * seed, torch.tensor(2.0))]
        flow = T.affine_autoregressive(3, [8])
        return FlowPrior(3, transforms=[T.ComposeTransform(chain), flow, T.permute(3)])

    first, second = build(1), build(3)
    assert not torch.equal(first.transforms[2].permutation, second.transforms[2].permutation)
    second().sample((2,))  # the inverse permutation is computed once, and would become stale
    second.load_state_dict(first.state_dict())
    z = torch.randn(4, 3)
    assert torch.equal(first().log_prob(z), second().log_prob(z.clone()))
    torch.manual_seed(0)
    x = first().sample((5,))
    torch.manual_seed(0)
    assert torch.equal(second().sample((5,)), x)
    copied = copy.deepcopy(first).double()
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(copied().log_prob(z.double()).float(), first().log_prob(z), **close)
    assert first.to("meta").transforms[2].permutation.device.type == "meta"
    assert copied.transforms[2].permutation.device.type == "cpu"


def test_a_parameter_of_a_transform_that_is_no_module_is_trained():
    scale = torch.nn.Parameter(torch.tensor(2.0))
    prior = FlowPrior(3, transforms=[dist.transforms.AffineTransform(0.0, scale)])
    assert any(parameter is scale for parameter in prior.parameters())
