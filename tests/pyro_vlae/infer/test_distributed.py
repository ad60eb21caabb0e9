"""Two ranks take the steps and give the scores of one process."""

import pytest
import torch

from pyro_vlae.infer import distributed

# A script, because ranks are processes; the tests import it for the results of one process.
SCRIPT = '''
import os
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyro_vlae.infer import FreeBitsELBO, JointOptim, SoftFreeBitsELBO, marginal_log_likelihood
from pyro_vlae.infer.distributed import (
    RankError, check_agreement, from_rank_0, rank, sum_over_ranks, world_size
)

GENERATOR = torch.Generator().manual_seed(1)
# Six pixels and the two noise values of each image. Those of rank 1 (odd) have the higher rates.
X = torch.randn(64, 8, generator=GENERATOR, dtype=torch.float64)
X[1::2, :6] *= 4
FLOOR = 2.0  # between the rates of the two ranks, and below their mean
OBJECTIVES = {
    "plain": Trace_ELBO,
    "floor below the rate": lambda: FreeBitsELBO(FLOOR),
    "floor above the rate": lambda: FreeBitsELBO(50.0),
    "sequential particles": lambda: FreeBitsELBO(FLOOR, num_particles=2),
    "vectorized particles": lambda: FreeBitsELBO(
        FLOOR, num_particles=2, vectorize_particles=True, max_plate_nesting=1
    ),
    "soft, target below the rate": lambda: SoftFreeBitsELBO(1.05 * FLOOR),
    "soft, target above the rate": lambda: SoftFreeBitsELBO(50.0),
}


class FixedNoise(dist.Normal):
    """A normal distribution whose only sample is given by its standardized noise."""

    def expand(self, batch_shape, _instance=None):
        expanded = FixedNoise(self.loc.expand(batch_shape), self.scale.expand(batch_shape))
        expanded.noise = self.noise.expand(batch_shape)
        return expanded

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6)).double()

    def forward(self, x):
        pyro.module("model", self)
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x[:, :6])


class Guide(nn.Module):
    def __init__(self, kind=FixedNoise):
        super().__init__()
        self.net, self.kind = nn.Linear(6, 4).double(), kind

    def forward(self, x):
        pyro.module("guide", self)
        loc, log_scale = self.net(x[:, :6]).chunk(2, -1)
        q = self.kind(loc, (0.1 * log_scale).exp())
        q.noise = x[:, 6:]
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", q.to_event(1))


def own(x):
    return x[rank() :: world_size()]


def steps(name):
    pyro.clear_param_store()
    torch.manual_seed(0)
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.01}, clip_norm=10.0, ema_decay=0.9)
    elbo = OBJECTIVES[name]()
    svi = SVI(Model(), Guide(), optimizer, elbo)
    norms, rates, gammas = [], [], []
    for _ in range(4):
        svi.step(own(X))
        norms.append(optimizer.gradient_norm)
        rates.append(getattr(elbo, "last_rate", torch.zeros(())))
        gammas.append(getattr(elbo, "last_gamma", torch.zeros(())))
    state = optimizer.get_state()
    parameters = dict(pyro.get_param_store().named_parameters())
    found = {name: p.detach().clone() for name, p in parameters.items()}
    found |= {f"average of {name}": value for name, value in state["averages"].items()}
    return {
        **found,
        "gradient norm": torch.stack(norms),
        "rate": torch.stack(rates),
        "gamma": torch.stack(gammas),
    }


def scores():
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide = Model(), Guide(dist.Normal)
    found = {}
    for count in (7, 1):  # not a multiple of the ranks, and fewer
        score = marginal_log_likelihood(model, guide, X[:count], num_samples=30, seed=5)
        found |= {f"{name} of {count}": value for name, value in vars(score).items()}
    without = marginal_log_likelihood(
        lambda x: pyro.plate("images", len(x), dim=-1)(
            lambda: pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)
        )(),
        lambda x: None, X[:3], num_samples=30,
    )
    # Noise of all images, as AutoNormal has parameters of all images.
    fitted = Guide(dist.Normal)

    def of_each_image(x):
        if len(x) != 7:
            raise ValueError("fitted to 7 images")
        fitted(x)

    score = marginal_log_likelihood(model, of_each_image, X[:7], num_samples=30, seed=5)
    found |= {f"{name} of each image": value for name, value in vars(score).items()}
    return {**found, "without a code": without.log_prob, "its samples": without.num_samples}


def late_parameters():
    """Whose first values differ by rank."""
    pyro.clear_param_store()
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.01}, ema_decay=0.9)

    def model(x):
        mean = pyro.param("mean", torch.full((6,), float(rank()), dtype=torch.float64))
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x[:, :6])

    svi = SVI(model, lambda x: None, optimizer, Trace_ELBO())
    for _ in range(2):
        svi.step(own(X))
    return {"mean": pyro.param("mean").detach().clone()}


def evaluation():
    """Of one rank, which the others need not take part in."""
    elbo = FreeBitsELBO(FLOOR)
    if rank() == 0:
        SVI(Model(), Guide(), JointOptim(torch.optim.SGD, {"lr": 1.0}), elbo).evaluate_loss(X)
    return {}


def disagreement():
    try:
        check_agreement({"data": "the same", "seed": [7, 9][rank()]})
    except RankError as error:
        return {"message": str(error)}


def lost():
    """Must be the last: rank 1 is gone afterwards."""
    if rank() == 1:
        os._exit(0)
    try:
        sum_over_ranks([torch.ones(10)])
    except RankError as error:
        return {"message": str(error), "cause": str(error.__cause__)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store",
        rank=int(sys.argv[2]), world_size=2)
    results = {name: steps(name) for name in OBJECTIVES}
    results["from rank 0"] = {"value": from_rank_0(["a", "b"][rank()])}
    for job in (scores, late_parameters, evaluation, disagreement, lost):
        if job is lost:
            torch.save(results, Path(sys.argv[1], f"rank{rank()}.pt"))
        results[job.__name__] = job()
    torch.save(results, Path(sys.argv[1], f"rank{rank()}.pt"))
    os._exit(0)
'''


@pytest.fixture(scope="module")
def alone(import_script):
    return import_script("two_ranks", SCRIPT)


@pytest.fixture(scope="module")
def ranks(alone, run_two_ranks):
    return run_two_ranks(alone)


OBJECTIVES = (
    "plain",
    "floor below the rate",
    "floor above the rate",
    "sequential particles",
    "vectorized particles",
    "soft, target below the rate",
    "soft, target above the rate",
)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_with_half_a_batch_take_the_steps_of_one_process(ranks, alone, name):
    torch.testing.assert_close(ranks[0][name], ranks[1][name], rtol=0, atol=0)
    torch.testing.assert_close(ranks[0][name], alone.steps(name), rtol=0, atol=1e-9)


def test_the_floor_lies_between_the_rates_of_the_ranks(alone):
    """Otherwise the comparison above would not show that the rates are averaged over ranks."""
    rates = []
    for half in (alone.X[::2], alone.X[1::2]):
        alone.X, whole = half, alone.X
        try:
            rates.append(alone.steps("floor below the rate")["rate"])
        finally:
            alone.X = whole
    assert rates[0].max() < alone.FLOOR < 1.05**2 * alone.FLOOR < rates[1].min()
    assert alone.steps("floor below the rate")["rate"].min() > 1.05**2 * alone.FLOOR
    gammas = [alone.steps(name)["gamma"] for name in OBJECTIVES[-2:]]
    assert gammas[0].tolist() == [1] * 4 and gammas[1][-1] < 0.8


def test_scores_are_those_of_one_process(ranks, alone):
    torch.testing.assert_close(ranks[0]["scores"], ranks[1]["scores"], rtol=0, atol=0)
    torch.testing.assert_close(ranks[0]["scores"], alone.scores(), rtol=0, atol=1e-12)


def test_parameters_that_join_late_are_those_of_rank_0(ranks):
    assert torch.equal(ranks[0]["late_parameters"]["mean"], ranks[1]["late_parameters"]["mean"])
    assert ranks[0]["late_parameters"]["mean"].abs().max() < 0.1
    assert [results["from rank 0"]["value"] for results in ranks] == ["a", "a"]


def test_a_difference_is_named_on_all_ranks(ranks):
    for results in ranks:
        assert "rank 1 has seed 9, rank 0 has 7" in results["disagreement"]["message"]


def test_a_rank_that_ends_is_reported(ranks):
    message = ranks[0]["lost"]["message"]
    assert message.startswith("rank 0 of 2 lost contact") and "last checkpoint" in message
    assert ranks[0]["lost"]["cause"] and message.endswith(ranks[0]["lost"]["cause"])


def test_a_sum_of_nothing_needs_no_other_rank(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    distributed.sum_over_ranks([])
