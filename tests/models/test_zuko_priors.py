"""The recipe of docs/parts.md: flows of zuko as priors."""

import re
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import decode, marginal_log_likelihood
from pyro_vlae.testing import PriorContract

zuko = pytest.importorskip("zuko")  # turns validation off; the tests' fixture turns it on again

PAGE = (Path(__file__).parents[2] / "docs" / "parts.md").read_text()
RECIPE = re.search(r"## Flows from zuko.*?```python\n(.*?)```", PAGE, re.DOTALL).group(1)


@pytest.fixture(scope="module")
def recipe():
    """The names that the code of the page defines."""
    names = {}
    exec(RECIPE, names)
    return names


class ZukoContract(PriorContract):
    tolerance = 1e-6
    code_dim = 3
    flow = zuko.flows.MAF

    def make(self):
        names = {}
        exec(RECIPE, names)
        return names["ZukoPrior"](self.flow(3, transforms=2, hidden_features=(16, 16)))


class TestMaskedAutoregressive(ZukoContract):
    pass


class TestNeuralSpline(ZukoContract):
    flow = zuko.flows.NSF


def test_the_recipe_trains_scores_and_generates(recipe):
    model, guide = recipe["model"], GaussianGuide(code_dim=64)
    x = torch.rand(4, 1, 28, 28).round()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    before = {name: p.detach().clone() for name, p in model.prior.named_parameters()}
    svi.step(x)
    svi.step(x)
    after = dict(model.prior.named_parameters())
    assert not [name for name, old in before.items() if torch.equal(after[name], old)]
    assert marginal_log_likelihood(model, guide, x, 8).log_prob.isfinite().all()
    assert model(batch_size=2).shape == (2, 1, 28, 28)
    assert decode(model, model.prior().sample((3,)), temperature=0).shape == (3, 1, 28, 28)
