"""FreeBitsELBO against Trace_ELBO and against the objective written out by hand."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.optim import Adam
from torch import nn

from pyro_vlae.infer import FreeBitsELBO, SoftFreeBitsELBO

CODE, PIXELS = 2, 4


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.3, -0.2]).double())
        self.decode = nn.Linear(CODE, PIXELS).double()

    def forward(self, x, size=None, scale=1.0):
        pyro.module(f"model{id(self)}", self)
        with pyro.plate("images", size or len(x), dim=-1, subsample=x), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 0.5).to_event(1), obs=x)


class Guide(nn.Module):
    family = dist.Normal

    def __init__(self, width=1.0):
        super().__init__()
        self.encode = nn.Linear(PIXELS, CODE).double()
        self.log_width = nn.Parameter(torch.full((CODE,), width).double().log())

    def forward(self, x, size=None, scale=1.0):
        pyro.module(f"guide{id(self)}", self)
        with pyro.plate("images", size or len(x), dim=-1, subsample=x), poutine.scale(scale=scale):
            pyro.sample("z", self.family(self.encode(x), self.log_width.exp()).to_event(1))


class UnpathedNormal(dist.Normal):
    """A Normal without reparameterized samples: its gradient is a score-function estimate."""

    has_rsample = False


class ScoreGuide(Guide):
    family = UnpathedNormal


@pytest.fixture
def pair():
    torch.manual_seed(3)
    return Model(), Guide()


def evaluate(elbo, pair, x, seed=0, **kwargs):
    """Return loss and gradients of one loss_and_grads with its own random numbers."""
    modules = nn.ModuleList(pair)
    modules.zero_grad(set_to_none=False)
    for p in modules.parameters():
        p.grad = torch.zeros_like(p)
    torch.manual_seed(seed)
    loss = elbo.loss_and_grads(*pair, x, **kwargs)
    return loss, [p.grad.clone() for p in modules.parameters()]


def by_hand(pair, x, free_nats, particles, scale=1.0, seed=0):
    """The objective of vectorized particles in plain torch."""
    model, guide = copy.deepcopy(pair)
    torch.manual_seed(seed)
    mean, width = guide.encode(x), guide.log_width.exp()
    noise = torch.randn(particles, len(x), CODE, dtype=x.dtype)
    z = mean + width * noise
    log_q = torch.distributions.Normal(mean, width).log_prob(z).sum(-1)
    log_p = torch.distributions.Normal(model.loc, 1.0).log_prob(z).sum(-1)
    log_x = torch.distributions.Normal(model.decode(z), 0.5).log_prob(x).sum(-1)
    rate, distortion = (log_q - log_p).mean(), -log_x.mean()
    loss = len(x) * scale * (distortion + torch.clamp(rate, min=free_nats))
    loss.backward()
    parameters = nn.ModuleList([model, guide]).parameters()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return loss.item(), grads, rate.detach(), distortion.detach()


X = torch.linspace(-1, 1.5, 5 * PIXELS).double().reshape(5, PIXELS)


def same(a, b):
    return a[0] == b[0] and all(torch.equal(g, h) for g, h in zip(a[1], b[1], strict=True))


@pytest.mark.parametrize("guide", [Guide, ScoreGuide])
@pytest.mark.parametrize(("particles", "vectorized"), [(1, False), (3, False), (3, True)])
def test_off_is_exactly_trace_elbo(guide, particles, vectorized):
    torch.manual_seed(0)
    pair = Model(), guide()
    arguments = {"num_particles": particles, "vectorize_particles": vectorized}
    ours, stock = FreeBitsELBO(**arguments), Trace_ELBO(**arguments)
    assert same(evaluate(ours, pair, X), evaluate(stock, pair, X))
    torch.manual_seed(0)
    value = ours.loss(*pair, X)
    torch.manual_seed(0)
    assert value == stock.loss(*pair, X)


def test_off_stays_exact_where_the_estimate_of_the_kl_is_negative():
    model = Model()
    guide = Guide()
    with torch.no_grad():  # the guide equals the prior but for its width
        guide.encode.weight.zero_()
        guide.encode.bias.copy_(model.loc)
        guide.log_width.fill_(0.1)
    elbo = FreeBitsELBO()
    for seed in range(20):
        ours = evaluate(elbo, (model, guide), X, seed)
        if elbo.last_rate < 0:
            assert same(ours, evaluate(Trace_ELBO(), (model, guide), X, seed))
            floored = evaluate(FreeBitsELBO(1e-3), (model, guide), X, seed)
            assert floored[0] > ours[0]
            return
    pytest.fail("no negative estimate in 20 draws")


@settings(deadline=None, max_examples=30)
@given(
    free_nats=st.floats(0.01, 10),
    particles=st.integers(2, 4),
    scale=st.sampled_from([1.0, 0.25]),
    seed=st.integers(0, 1000),
)
def test_objective_and_gradients_are_the_written_out_ones(free_nats, particles, scale, seed):
    torch.manual_seed(seed)
    pair = Model(), Guide()
    elbo = FreeBitsELBO(free_nats, num_particles=particles, vectorize_particles=True)
    elbo.max_plate_nesting = 2  # no guessing run, which would consume random numbers
    loss, grads = evaluate(elbo, pair, X, seed, scale=scale)
    expected, expected_grads, rate, distortion = by_hand(pair, X, free_nats, particles, scale, seed)
    assert loss == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(elbo.last_rate, rate)
    torch.testing.assert_close(elbo.last_distortion, distortion)
    assert not elbo.last_rate.requires_grad and elbo.last_rate.ndim == 0


def test_below_the_floor_only_the_distortion_is_trained(pair):
    loss, grads = evaluate(FreeBitsELBO(1000.0), pair, X)
    assert torch.equal(grads[0], torch.zeros_like(grads[0]))  # the prior's mean
    assert all(g.abs().sum() > 0 for g in grads[1:])
    assert loss > 5 * 1000
    above = evaluate(FreeBitsELBO(1e-6), pair, X)
    assert same(above, evaluate(Trace_ELBO(), pair, X))


@pytest.mark.parametrize("free_nats", [0.0, 1e-3, 50.0])
@pytest.mark.parametrize(("particles", "vectorized"), [(1, False), (3, False), (3, True)])
def test_all_entry_points_agree(pair, free_nats, particles, vectorized):
    elbo = FreeBitsELBO(free_nats, num_particles=particles, vectorize_particles=vectorized)
    elbo.max_plate_nesting = 2 if vectorized else 1
    loss, grads = evaluate(elbo, pair, X)
    rate = elbo.last_rate
    torch.manual_seed(0)
    assert elbo.loss(*pair, X) == pytest.approx(loss, rel=1e-12)
    assert torch.equal(elbo.last_rate, rate)
    modules = nn.ModuleList(pair)
    modules.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    differentiable = elbo.differentiable_loss(*pair, X)
    assert differentiable.item() == pytest.approx(loss, rel=1e-12)
    differentiable.backward()
    for p, g in zip(modules.parameters(), grads, strict=True):
        torch.testing.assert_close(torch.zeros_like(p) if p.grad is None else p.grad, g)


def test_particles_in_turn_average_rate_and_distortion(pair):
    three = FreeBitsELBO(num_particles=3)
    loss, _ = evaluate(three, pair, X)
    assert loss == pytest.approx(5 * (three.last_rate + three.last_distortion).item())
    one = FreeBitsELBO()
    torch.manual_seed(0)
    rates = []
    for _ in range(3):
        one.loss_and_grads(*pair, X)
        rates.append(one.last_rate)
    torch.testing.assert_close(three.last_rate, torch.stack(rates).mean())
    assert not torch.equal(rates[0], rates[1])


def test_subsampling_scales_the_floor_too(pair):
    """A mini-batch of 5 of 20 images: four times the loss of these 5, floor included."""
    for free_nats in (0.0, 1e-3, 30.0):
        elbo = FreeBitsELBO(free_nats)
        part, _ = evaluate(elbo, pair, X)
        rate = elbo.last_rate
        whole, _ = evaluate(elbo, pair, X, size=20)
        assert whole == pytest.approx(4 * part)
        torch.testing.assert_close(elbo.last_rate, rate)


def test_masked_images_do_not_count(pair):
    keep = torch.tensor([True, True, False, True, False])
    spoilt = torch.where(keep[:, None], X, 1e3)
    masked = [poutine.mask(program, mask=keep) for program in pair]
    elbo = FreeBitsELBO(30.0)
    torch.manual_seed(0)
    loss = elbo.loss(*masked, spoilt)
    torch.manual_seed(0)
    noise = torch.randn(5, CODE, dtype=X.dtype)[keep]
    model, guide = pair
    z = guide.encode(X[keep]) + guide.log_width.exp() * noise
    log_x = torch.distributions.Normal(model.decode(z), 0.5).log_prob(X[keep]).sum()
    assert loss == pytest.approx((3 * 30 - log_x).item())
    assert elbo.last_distortion.item() == pytest.approx((-log_x / 3).item())


@pytest.mark.parametrize("free_nats", [0.0, 30.0])
def test_a_batch_of_masked_images_has_no_loss(pair, free_nats):
    masked = [poutine.mask(program, mask=torch.zeros(5).bool()) for program in pair]
    assert FreeBitsELBO(free_nats).loss(*masked, X) == 0


@pytest.mark.parametrize("elbo", [FreeBitsELBO, SoftFreeBitsELBO])
def test_a_code_from_an_auxiliary_site_is_refused(pair, elbo):
    """Its log q is that of the auxiliary site: the rate would be -log p(z)."""
    guide = AutoNormal(pair[0])
    guide(X)
    with pytest.raises(ValueError, match=r"its auxiliary site 'z_unconstrained'.*Trace_ELBO"):
        elbo().loss(pair[0], guide, X)
    elbo().loss(pair[0], AutoDelta(pair[0]), X)


def test_score_function_gradient_is_unbiased_below_the_floor():
    """Without reparameterization, too, the gradient is that of the distortion alone."""
    torch.manual_seed(1)
    model, guide = Model(), ScoreGuide(width=0.3)
    x = X[:1]
    elbo = FreeBitsELBO(100.0, num_particles=40_000, vectorize_particles=True)
    elbo.max_plate_nesting = 2
    _, grads = evaluate(elbo, (model, guide), x)
    _, pathwise, _, _ = by_hand((model, guide), x, 100.0, 40_000)
    torch.testing.assert_close(grads[-1], pathwise[-1], rtol=0.1, atol=0.1)
    _, stock = evaluate(
        Trace_ELBO(num_particles=40_000, vectorize_particles=True, max_plate_nesting=1),
        (model, guide),
        x,
    )
    assert (stock[-1] - pathwise[-1]).abs().max() > 0.5  # the KL would show


def test_training_fills_the_floor(pair):
    """Up to the floor information is free, so the code takes it; the bound alone takes less."""
    x = torch.randn(32, PIXELS).double()
    rates = {}
    for free_nats in (0.0, 6.0):
        pyro.clear_param_store()
        programs = copy.deepcopy(pair)
        elbo = FreeBitsELBO(free_nats, num_particles=4, vectorize_particles=True)
        svi = SVI(*programs, Adam({"lr": 0.05}), loss=elbo)
        for _ in range(150):
            svi.step(x)
        rates[free_nats] = elbo.last_rate.item()
    assert 0.5 < rates[0.0] < 4
    assert 5.4 < rates[6.0] < 6.6


@pytest.mark.parametrize("free_nats", [-1.0, float("nan"), float("inf")])
def test_wrong_floors_are_refused(free_nats):
    with pytest.raises(ValueError, match=r"free_nats is .*expected a finite number"):
        FreeBitsELBO(free_nats)


@pytest.mark.filterwarnings("ignore:Found vars in")
def test_missing_sites_are_named(pair):
    model, guide = pair
    with pytest.raises(ValueError, match=r"latent='code'.*model samples \['z', 'x'\].*latent="):
        FreeBitsELBO(latent="code").loss(*pair, X)
    with pytest.raises(ValueError, match=r"observed='pixels'.*the model has no such"):
        FreeBitsELBO(observed="pixels").loss(*pair, X)
    with pytest.raises(ValueError, match=r"the guide has no such"):
        FreeBitsELBO().loss(model, lambda x: None, X)
    with pytest.raises(ValueError, match=r"samples this site instead of observing"):
        FreeBitsELBO().loss(poutine.uncondition(model), guide, X)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_broken_kl_does_not_hide_below_the_floor(pair):
    pyro.enable_validation(False)
    with torch.no_grad():
        pair[0].loc.fill_(float("nan"))
    assert torch.tensor(FreeBitsELBO(7.84).loss(*pair, X)).isnan()


def test_no_synchronization_beyond_that_of_trace_elbo(pair, monkeypatch):
    """Every ``item()`` waits for the GPU: the floor must add none."""
    calls = []
    for method in ("item", "__bool__", "__float__", "tolist"):
        original = getattr(torch.Tensor, method)
        monkeypatch.setattr(
            torch.Tensor, method, lambda self, call=original: (calls.append(1), call(self))[1]
        )
    Trace_ELBO().loss_and_grads(*pair, X)
    stock = len(calls)
    FreeBitsELBO(7.84).loss_and_grads(*pair, X)
    assert len(calls) - stock == stock > 0
