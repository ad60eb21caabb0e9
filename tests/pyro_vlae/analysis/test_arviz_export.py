"""Importance-resampled posteriors as ArviZ sees them, against closed forms."""

import subprocess
import sys
import warnings
from functools import partial

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_vlae.analysis import to_inference_data
from pyro_vlae.analysis.arviz_export import CHAINS
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.infer.arviz_versions import import_arviz
from pyro_vlae.models import binary_vlae

matplotlib.use("agg")
GROUPS = {"posterior", "posterior_predictive", "log_likelihood", "sample_stats", "observed_data"}


def close(values, expected, atol=1e-9):
    np.testing.assert_allclose(values, expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def export(linear_gaussian):
    """A problem, its images and what is exported with a guide that is moved and too wide."""
    problem = linear_gaussian()
    x = problem.sample(5)
    guide = partial(problem.guide, shift=0.2, scale=1.5)
    data = to_inference_data(
        problem.model,
        guide,
        x,
        num_samples=4000,
        num_codes=2000,
        image_index=range(10, 15),
        max_codes_per_chunk=4000,
    )
    return problem, x, guide, data


def test_posterior_and_decompressions_agree_with_the_closed_form(export):
    problem, x, _, data = export
    exact = problem.posterior(x)
    z = data.posterior["z"]
    assert z.dims == ("chain", "draw", "image", "code_dim") and z.shape == (CHAINS, 500, 5, 3)
    sd = exact.variance.sqrt().numpy()
    # Errors from having so many weighted codes, and from resampling them.
    error = sd * np.sqrt(1 / data.sample_stats["effective_sample_size"].values[:, None] + 1 / 2000)
    off = (z.mean(("chain", "draw")).values - exact.mean.numpy()) / error
    assert np.abs(off).max() < 4 and np.abs(0.2 / error).min() > 5  # the guide's mean would fail
    close(z.std(("chain", "draw")).values / sd, 1, atol=0.1)  # the guide's is 1.5
    decoded = np.einsum("pd,cnid->cnip", problem.weight.numpy(), z.values)
    decompressed = data.posterior_predictive["x"]
    assert decompressed.dims == ("chain", "draw", "image", "channel", "row", "column")
    noise = (decompressed.values.reshape(decoded.shape) - decoded) / problem.noise
    assert abs(noise.mean()) < 4 / noise.size**0.5 and abs(noise.var() - 1) < 0.02


def test_densities_and_weights_are_those_of_the_codes(export):
    problem, x, guide, data = export
    z = torch.from_numpy(data.posterior["z"].values)
    mean = (z @ problem.weight.T).reshape(*z.shape[:-1], *problem.image_shape)
    log_likelihood = dist.Normal(mean, problem.noise).to_event(3).log_prob(x)
    assert data.log_likelihood["x"].dims == ("chain", "draw", "image")
    close(data.log_likelihood["x"].values, log_likelihood)
    stats = data.sample_stats
    log_prior = dist.Normal(0.0, 1.0).expand([3]).to_event(1).log_prob(z)
    proposal = problem.posterior(x, shift=0.2, scale=1.5)
    log_weight = log_likelihood + log_prior - proposal.log_prob(z)
    index = stats["sample_index"].values
    assert stats["sample_index"].dims == data.log_likelihood["x"].dims
    assert stats["log_weight"].dims == ("importance_sample", "image")
    close(
        np.take_along_axis(stats["log_weight"].values, index.reshape(-1, 5), 0),
        log_weight.view(-1, 5),
    )
    for chain in range(CHAINS):  # each from its own quarter
        assert index[chain].min() >= 1000 * chain and index[chain].max() < 1000 * (chain + 1)
    score = marginal_log_likelihood(problem.model, guide, x, 4000, image_index=range(10, 15))
    for name in ("log_prob", "effective_sample_size", "pareto_k", "kl"):
        assert stats[name].dims == ("image",)
        np.testing.assert_array_equal(stats[name].values, getattr(score, name))


def test_images_are_as_given_and_named_by_their_index(export):
    _, x, _, data = export
    assert data.observed_data["x"].dims == ("image", "channel", "row", "column")
    close(data.observed_data["x"].values, x)
    for group in GROUPS:
        assert data[group]["image"].values.tolist() == list(range(10, 15))
    assert data.posterior["code_dim"].values.tolist() == [0, 1, 2]


def test_draws_depend_on_seed_and_image_alone(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(4)
    run = partial(to_inference_data, problem.model, problem.guide, num_samples=40, num_codes=12)
    whole, state = run(x), torch.get_rng_state()
    torch.rand(7)
    some = run(x[[3, 1]], image_index=[3, 1], max_codes_per_chunk=13)
    for group, name in (("posterior", "z"), ("posterior_predictive", "x")):
        close(some[group][name].values, whole[group][name].sel(image=[3, 1]).values)
    assert not np.isclose(run(x, seed=1).posterior["z"].values, whole.posterior["z"].values).any()
    torch.set_rng_state(state)
    run(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_netcdf_round_trip(export, tmp_path):
    *_, data = export
    arviz = import_arviz()
    data.to_netcdf(tmp_path / "codes.nc")
    again = arviz.from_netcdf(tmp_path / "codes.nc")
    assert set(again.children if hasattr(again, "children") else again.groups()) == GROUPS
    for group in GROUPS:
        assert again[group].load().identical(data[group]), group
    assert again.log_likelihood.attrs["units"] == "nats"
    assert again.sample_stats["log_weight"].attrs["units"] == "nats"


def test_summary_and_r_hat_tell_good_weights_from_bad(export, linear_gaussian):
    problem, x, _, data = export
    arviz = import_arviz()
    table = arviz.summary(data, var_names=["z"], coords={"image": [11]}, round_to="none")
    assert len(table) == 3
    close(table["mean"].astype(float), problem.posterior(x).mean[1], atol=0.1)
    assert (table["r_hat"].astype(float) < 1.05).all()
    narrow = partial(problem.guide, scale=0.3)
    bad = to_inference_data(problem.model, narrow, x, num_samples=200, num_codes=200)
    assert arviz.summary(bad, var_names=["z"])["r_hat"].astype(float).max() > 1.1


@pytest.mark.parametrize("plot", ["plot_trace", "plot_forest", "plot_pair", "plot_rank"])
def test_arviz_plots(export, plot):
    *_, data = export
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ's own
        axes = getattr(import_arviz(), plot)(data, var_names=["z"], coords={"image": [10]})
    assert np.size(axes) > 0


def test_binary_images():
    model = binary_vlae(code_dim=4, prior="normal", masked_layers=2, pixelcnn_channels=4)
    guide = GaussianGuide(code_dim=4)
    x = torch.rand(2, 1, 28, 28).round()
    with torch.no_grad():
        Trace_ELBO().loss(model, guide, x)  # initialized by data
    data = to_inference_data(model, guide, x, num_samples=12, num_codes=8)
    decompressed = data.posterior_predictive["x"]
    assert dict(decompressed.sizes) == {
        "chain": 4, "draw": 2, "image": 2, "channel": 1, "row": 28, "column": 28,
    }  # fmt: skip
    assert set(np.unique(decompressed.values)) == {0, 1}
    assert data.posterior["z"].sizes["code_dim"] == 4
    assert np.isfinite(data.log_likelihood["x"].values).all()
    z = torch.from_numpy(data.posterior["z"].values)
    with torch.no_grad():
        expected = model.eval().likelihood(model.decoder(z)).log_prob(x)
    np.testing.assert_allclose(data.log_likelihood["x"].values, expected, rtol=1e-6)


def test_several_sites_have_dimensions_of_their_own(linear_gaussian):
    problem = linear_gaussian(code_dim=2)
    x = problem.sample(3)

    def model(x):
        with pyro.plate("images", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            for row in range(2):
                fn = dist.Normal((a + b.sum(-1))[..., None, None].expand(*a.shape, 1, 3), 1.0)
                pyro.sample(f"row{row}", fn.to_event(2), obs=x[..., row, :])

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("a", dist.Normal(x.mean((1, 2, 3)), 1.0))
            pyro.sample("b", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    data = to_inference_data(model, guide, x, num_samples=20, num_codes=4)
    assert data.posterior["a"].dims == ("chain", "draw", "image")
    assert data.posterior["b"].dims == ("chain", "draw", "image", "b_dim_0")
    assert data.observed_data["row1"].dims == ("image", "row1_dim_0", "row1_dim_1")
    close(data.observed_data["row1"].values, x[:, :, 1])
    assert list(data.log_likelihood.data_vars) == ["row0_row1"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_samples": 10}, "num_samples is 10, expected a multiple of 4 .*such as 8"),
        ({"num_codes": 1}, "num_codes is 1, .*such as 4"),
        ({"num_codes": 0}, "num_codes is 0"),
        ({"images": torch.zeros(0, 1, 2, 3)}, r"x has shape \(0, 1, 2, 3\)"),
    ],
)
def test_wrong_arguments_are_named(linear_gaussian, changes, match):
    problem = linear_gaussian()
    arguments = {"images": problem.sample(2), "num_samples": 8, "num_codes": 8, **changes}
    with pytest.raises(ValueError, match=match):
        to_inference_data(problem.model, problem.guide, **arguments)


def test_a_model_without_a_code_is_refused():
    def model(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(1, 2, 2), 1.0).to_event(3), obs=x)

    with pytest.raises(ValueError, match="guide samples nothing"):
        to_inference_data(model, lambda x: None, torch.zeros(2, 1, 2, 2))


def test_arviz_is_imported_when_needed_only():
    code = "import sys, pyro_vlae.analysis.arviz_export as m; sys.exit('arviz' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_deterministic_sites_and_factors_are_no_observations(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(2)

    def model(x):
        problem.model(x)
        with pyro.plate("again", len(x), dim=-1):
            pyro.deterministic("double", 2 * x, event_dim=3)
            pyro.factor("nothing", x.new_zeros(len(x)))

    data = to_inference_data(model, problem.guide, x, num_samples=8, num_codes=8)
    for group in ("posterior_predictive", "log_likelihood", "observed_data"):
        assert list(data[group].data_vars) == ["x"]


def test_a_guide_with_parameters_for_each_image_is_exported(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(3)
    guide = AutoNormal(problem.model)
    guide(x)
    data = to_inference_data(problem.model, guide, x, num_samples=40, num_codes=8)
    expected = marginal_log_likelihood(problem.model, guide, x, 40)
    close(data.sample_stats["log_prob"].values, expected.log_prob)
    assert data.posterior["z"].shape[:3] == (CHAINS, 2, 3)
