"""SoftFreeBitsELBO against Trace_ELBO and against the objective written out by hand."""

import copy
import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_vlae.infer import SoftFreeBitsELBO
from pyro_vlae.infer.soft_free_bits import MIN_GAMMA

CODE, PIXELS = 2, 4
X = torch.linspace(-1, 1.5, 5 * PIXELS).double().reshape(5, PIXELS)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.3, -0.2]).double())
        self.decode = nn.Linear(CODE, PIXELS).double()

    def forward(self, x, scale=1.0):
        pyro.module(f"model{id(self)}", self)
        with pyro.plate("images", len(x), dim=-1), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 0.5).to_event(1), obs=x)


class UnpathedNormal(dist.Normal):
    """A Normal without reparameterized samples: its gradient is a score-function estimate."""

    has_rsample = False


class Guide(nn.Module):
    def __init__(self, width=0.5, family=dist.Normal):
        super().__init__()
        self.encode = nn.Linear(PIXELS, CODE).double()
        self.log_width = nn.Parameter(torch.full((CODE,), width).double().log())
        self.family = family

    def forward(self, x, scale=1.0):
        pyro.module(f"guide{id(self)}", self)
        with pyro.plate("images", len(x), dim=-1), poutine.scale(scale=scale):
            pyro.sample("z", self.family(self.encode(x), self.log_width.exp()).to_event(1))


@pytest.fixture
def pair():
    torch.manual_seed(3)
    return Model(), Guide()


def evaluate(elbo, pair, x, seed=0, **kwargs):
    modules = nn.ModuleList(pair)
    for p in modules.parameters():
        p.grad = torch.zeros_like(p)
    torch.manual_seed(seed)
    loss = elbo.loss_and_grads(*pair, x, **kwargs)
    return loss, [p.grad.clone() for p in modules.parameters()]


def by_hand(pair, x, gamma, particles, scale):
    """The objective of vectorized particles in plain torch."""
    model, guide = copy.deepcopy(pair)
    torch.manual_seed(0)
    mean, width = guide.encode(x), guide.log_width.exp()
    z = mean + width * torch.randn(particles, len(x), CODE, dtype=x.dtype)
    log_q = torch.distributions.Normal(mean, width).log_prob(z).sum(-1)
    log_p = torch.distributions.Normal(model.loc, 1.0).log_prob(z).sum(-1)
    log_x = torch.distributions.Normal(model.decode(z), 0.5).log_prob(x).sum(-1)
    loss = scale * (gamma * (log_q - log_p) - log_x).mean(0).sum()
    loss.backward()
    return loss.item(), [p.grad for p in nn.ModuleList([model, guide]).parameters()]


def same(a, b):
    return a[0] == b[0] and all(torch.equal(g, h) for g, h in zip(a[1], b[1], strict=True))


@pytest.mark.parametrize("family", [dist.Normal, UnpathedNormal])
@pytest.mark.parametrize(("particles", "vectorized"), [(1, False), (3, False), (3, True)])
def test_the_first_step_is_exactly_trace_elbo(family, particles, vectorized):
    torch.manual_seed(0)
    pair = Model(), Guide(family=family)
    arguments = {"num_particles": particles, "vectorize_particles": vectorized}
    ours, stock = SoftFreeBitsELBO(1e3, **arguments), Trace_ELBO(**arguments)
    assert same(evaluate(ours, pair, X), evaluate(stock, pair, X))


@settings(deadline=None, max_examples=30)
@given(
    gamma=st.floats(MIN_GAMMA, 1),
    particles=st.integers(2, 4),
    scale=st.sampled_from([1.0, 0.25]),
    seed=st.integers(0, 1000),
)
def test_objective_and_gradients_are_the_written_out_ones(gamma, particles, scale, seed):
    torch.manual_seed(seed)
    pair = Model(), Guide()
    elbo = SoftFreeBitsELBO(1.0, num_particles=particles, vectorize_particles=True)
    elbo.max_plate_nesting = 2  # no guessing run, which would consume random numbers
    elbo.set_state({"gamma": gamma})
    weight = elbo.gamma.item()  # gamma in float32
    loss, grads = evaluate(elbo, pair, X, scale=scale)
    expected, expected_grads = by_hand(pair, X, weight, particles, scale)
    assert loss == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-12)
    assert elbo.last_gamma.item() == weight


@pytest.mark.parametrize(
    ("ratio", "factor"), [(0.5, 0.9), (0.999, 0.9), (1.001, 1), (1.049, 1), (1.051, 1.1), (9, 1.1)]
)
@pytest.mark.parametrize("entry", ["loss_and_grads", "differentiable_loss"])
def test_gamma_follows_the_rate_after_training_steps(pair, ratio, factor, entry):
    """ratio is KL / target; the KL is that of the whole batch, over all particles."""
    elbo = SoftFreeBitsELBO(num_particles=2)
    torch.manual_seed(0)
    elbo.loss(*pair, X)
    assert elbo.gamma == 1 and elbo.last_rate > 0
    elbo = SoftFreeBitsELBO(elbo.last_rate.item() / ratio, num_particles=2)
    elbo.max_plate_nesting = 1
    elbo.set_state({"gamma": 0.5})
    torch.manual_seed(0)
    elbo.loss(*pair, X)
    assert elbo.gamma == 0.5  # an evaluation changes nothing
    torch.manual_seed(0)
    getattr(elbo, entry)(*pair, X)
    assert elbo.gamma.item() == pytest.approx(0.5 * factor, rel=1e-6)
    assert elbo.last_gamma == 0.5 and not elbo.gamma.requires_grad


def test_gamma_stays_between_its_bounds(pair):
    low, high = SoftFreeBitsELBO(1e6), SoftFreeBitsELBO(1e-6)
    for _ in range(60):
        low.loss_and_grads(*pair, X)
        high.loss_and_grads(*pair, X)
    assert low.gamma.item() == pytest.approx(MIN_GAMMA) and high.gamma == 1


def test_training_holds_the_rate_at_the_target(pair):
    """The bound alone settles below; soft free bits settle near the target."""
    x = torch.randn(32, PIXELS).double()
    rates = {}
    for target in (0.0, 6.0):
        pyro.clear_param_store()
        programs = copy.deepcopy(pair)
        elbo = SoftFreeBitsELBO(target, num_particles=4, vectorize_particles=True)
        svi = SVI(*programs, Adam({"lr": 0.02}), loss=elbo)
        late = []
        for step in range(400):
            svi.step(x)
            if step >= 200:
                late.append(elbo.last_rate)
        rates[target] = torch.stack(late).mean().item()
    assert rates[0.0] < 4
    assert 5.4 < rates[6.0] < 7
    assert elbo.last_gamma < 1


def test_the_state_goes_through_json_to_the_last_bit(pair):
    elbo = SoftFreeBitsELBO(1e6)
    for _ in range(7):
        elbo.loss_and_grads(*pair, X)
    other = SoftFreeBitsELBO(1e6)
    other.set_state(json.loads(json.dumps(elbo.get_state())))
    assert torch.equal(other.gamma, elbo.gamma) and elbo.gamma < 0.5
    assert same(evaluate(other, pair, X), evaluate(elbo, pair, X))
    assert torch.equal(other.gamma, elbo.gamma)


@pytest.mark.parametrize("target", [-1.0, float("nan"), float("inf")])
def test_wrong_targets_are_refused(target):
    with pytest.raises(ValueError, match=r"target_nats is .*expected a finite number"):
        SoftFreeBitsELBO(target)


@pytest.mark.filterwarnings("ignore:Found vars in")
def test_missing_sites_are_named(pair):
    with pytest.raises(ValueError, match=r"SoftFreeBitsELBO\(latent='code'\).*\['z', 'x'\]"):
        SoftFreeBitsELBO(latent="code").loss(*pair, X)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_broken_kl_shows_in_the_loss_and_leaves_gamma(pair):
    pyro.enable_validation(False)
    with torch.no_grad():
        pair[0].loc.fill_(float("nan"))
    elbo = SoftFreeBitsELBO()
    assert torch.tensor(elbo.loss_and_grads(*pair, X)).isnan()
    assert elbo.gamma == 1


def test_no_synchronization_beyond_that_of_trace_elbo(pair, monkeypatch):
    """Every ``item()`` waits for the GPU: weight and adaptation must add none."""
    calls = []
    for method in ("item", "__bool__", "__float__", "tolist"):
        original = getattr(torch.Tensor, method)
        monkeypatch.setattr(
            torch.Tensor, method, lambda self, call=original: (calls.append(1), call(self))[1]
        )
    Trace_ELBO().loss_and_grads(*pair, X)
    stock = len(calls)
    SoftFreeBitsELBO().loss_and_grads(*pair, X)
    assert len(calls) - stock == stock > 0


def test_a_target_of_zero_leaves_gamma_alone():
    torch.manual_seed(0)
    model, guide = Model(), Guide(width=0.999)
    elbo = SoftFreeBitsELBO(0.0)
    rates = []
    for _ in range(20):
        elbo.loss_and_grads(model, guide, X)
        rates.append(elbo.last_rate.item())
    # Estimates of a small KL are negative now and then.
    with torch.no_grad():
        model.loc.copy_(torch.zeros(2))
        guide.encode.weight.zero_(), guide.encode.bias.zero_()
    for _ in range(20):
        elbo.loss_and_grads(model, guide, X)
        rates.append(elbo.last_rate.item())
    assert min(rates) < 0
    assert elbo.gamma == 1
