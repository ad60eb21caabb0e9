"""The README's code runs, and its figures are those of the committed runs."""

import json
import re
import textwrap
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_vlae.models import binary_vlae
from pyro_vlae.registration import register_parameters

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ROW = re.compile(
    r"^\| `(?P<run>results/[\w-]+)` \| (?P<nll>[\d.]+) ± (?P<error>[\d.]+) \| (?P<bound>[\d.]+) "
    r"\| (?P<bits>[\d.]+) \| (?P<seen>[\d,]+) ",
    re.MULTILINE,
)


def test_the_swap_example_runs():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert "range(100)" in code  # the first block; the second is a guide
    exec(code.replace("range(100)", "range(2)"), {})


def test_the_guide_of_the_readme_trains():
    code = textwrap.dedent(re.search(r"  ```python\n(.*?)  ```", README, re.DOTALL).group(1))
    names = {"torch": torch, "pyro": pyro, "dist": dist, "register_parameters": register_parameters}
    exec(code, names)
    guide, model = names["MyGuide"](), binary_vlae(prior="normal")
    before = guide.net[1].weight.detach().clone()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(torch.rand(2, 1, 28, 28).round())
    assert not torch.equal(guide.net[1].weight, before)


def test_figures_are_those_of_the_committed_runs():
    rows = [match.groupdict() for match in ROW.finditer(README)]
    assert rows
    for row in rows:
        results = json.loads((ROOT / row["run"] / "results.json").read_text())
        assert float(row["nll"]) == pytest.approx(results["nll_nats"], abs=0.005001)
        assert float(row["error"]) == pytest.approx(results["nll_standard_error"], abs=0.005001)
        assert float(row["bound"]) == pytest.approx(-results["elbo_nats"], abs=0.005001)
        assert float(row["bits"]) == pytest.approx(results["kl_bits"], abs=0.05001)
        assert int(row["seen"].replace(",", "")) == results["train_images_seen"]


def test_everything_that_the_readme_links_to_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
