"""marginal_log_likelihood against closed forms, Pyro's own estimators and ArviZ."""

import importlib
import json
import math
import sys
import warnings
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.distributions import transforms
from pyro.infer import RenyiELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vlae.data import BINARY, ImageSplit
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import importance, marginal_log_likelihood, weights
from pyro_vlae.models import binary_vlae
from pyro_vlae.reproducible import write_json

SPLIT = ImageSplit(torch.zeros(2, 1, 2, 3, dtype=torch.uint8), values=BINARY)
PER_IMAGE = ("log_prob", "elbo", "kl", "effective_sample_size", "monte_carlo_error")


def close(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def recorded_weights(monkeypatch):
    """Collect the log-weights (K, b) of each block on their way to the estimates."""
    seen = []

    def recorder(log_weight, log_ratio, index):
        seen.append(log_weight)
        return weights.weight_statistics(log_weight, log_ratio, index)

    monkeypatch.setattr(importance, "weight_statistics", recorder)
    return seen


@pytest.mark.parametrize("num_samples", [1, 2, 77])
def test_exact_posterior_gives_log_p_with_every_code(linear_gaussian, monkeypatch, num_samples):
    problem = linear_gaussian()
    x = problem.sample(5)
    seen = recorded_weights(monkeypatch)
    result = marginal_log_likelihood(problem.model, problem.guide, x, num_samples)
    for log_w, truth in zip(torch.cat(seen, 1).T, problem.log_prob(x), strict=True):
        close(log_w, truth.expand(num_samples))
    close(result.log_prob, problem.log_prob(x))
    close(result.elbo, problem.log_prob(x))
    close(result.effective_sample_size, torch.full((5,), float(num_samples)).double())
    assert result.pareto_k.isnan().all()
    assert result.num_samples == num_samples
    if num_samples == 1:
        assert result.monte_carlo_error.isnan().all()
    else:
        close(result.monte_carlo_error, torch.zeros(5).double())


def test_wrong_guide_meets_closed_forms_within_its_error_bars(linear_gaussian):
    problem = linear_gaussian(code_dim=2)
    x = problem.sample(40)
    guide = partial(problem.guide, shift=0.2, scale=1.2)
    result = marginal_log_likelihood(problem.model, guide, x, 4000)
    truth = problem.log_prob(x)
    z = (result.log_prob - truth) / result.monte_carlo_error
    assert 0.6 < z.std() < 1.5 and abs(z.mean()) < 0.6
    assert (result.log_prob > result.elbo).all()
    assert abs(result.mean_log_prob - truth.mean()) < 4 * result.mean_monte_carlo_error

    q = problem.posterior(x, shift=0.2, scale=1.2)
    prior = dist.MultivariateNormal(x.new_zeros(2), torch.eye(2).double())
    kl = torch.distributions.kl_divergence(q, prior.expand([40]))
    gap = torch.distributions.kl_divergence(q, problem.posterior(x))
    assert (gap > 0.05).all()
    close(result.elbo, truth - gap, atol=0.1)
    close(result.kl, kl, atol=0.15)
    assert abs((result.elbo - truth + gap).mean()) < 0.01
    assert abs((result.kl - kl).mean()) < 0.015


def test_few_codes_are_biased_downwards_and_error_is_calibrated(linear_gaussian):
    problem = linear_gaussian(code_dim=2)
    x = problem.sample(1).expand(400, 1, 2, 3)
    guide = partial(problem.guide, shift=0.1)
    few = marginal_log_likelihood(problem.model, guide, x, 2)
    many = marginal_log_likelihood(problem.model, guide, x, 100)
    truth = problem.log_prob(x[:1]).item()
    assert few.elbo.mean() < few.mean_log_prob < truth
    assert truth - many.mean_log_prob < 0.1 * (truth - few.mean_log_prob)
    assert many.log_prob.std() == pytest.approx(many.monte_carlo_error.mean().item(), rel=0.15)


def test_agrees_with_renyi_elbo_per_image(linear_gaussian):
    problem = linear_gaussian(code_dim=2)
    image = problem.sample(1)
    guide = partial(problem.guide, shift=0.4)
    particles, repeats = 4, 800
    ours = marginal_log_likelihood(
        problem.model, guide, image.expand(repeats, 1, 2, 3), particles
    ).log_prob
    renyi = RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True)
    theirs = -renyi.loss(problem.model, guide, image.expand(repeats, 1, 2, 3)) / repeats
    error = ours.std().item() * math.sqrt(2 / repeats)
    assert abs(ours.mean().item() - theirs) < 4 * error
    assert problem.log_prob(image).item() - theirs > 8 * error  # K matters: not just any estimate


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 7),
    num_samples=st.integers(1, 40),
    chunk=st.integers(1, 60),
)
def test_chunk_size_changes_nothing_and_is_kept(linear_gaussian, count, num_samples, chunk):
    problem = linear_gaussian(dtype=torch.float32)
    x = problem.sample(count)
    guide = partial(problem.guide, shift=0.2)
    whole = marginal_log_likelihood(problem.model, guide, x, num_samples, max_codes_per_chunk=10**6)
    assert problem.codes_scored == [count * num_samples]
    problem.codes_scored.clear()
    parts = marginal_log_likelihood(problem.model, guide, x, num_samples, max_codes_per_chunk=chunk)
    assert max(problem.codes_scored) <= chunk
    assert sum(problem.codes_scored) == count * num_samples
    # No more passes than even parts need: small images share them, large ones are cut evenly.
    per_pass = chunk // num_samples if chunk >= num_samples else 1
    expected = math.ceil(count / per_pass) * math.ceil(num_samples / chunk)
    assert len(problem.codes_scored) == expected
    close(parts.log_prob, whole.log_prob, atol=1e-5)
    close(parts.elbo, whole.elbo, atol=1e-4)


def test_image_index_and_seed_fix_the_draws(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(6)
    guide = partial(problem.guide, shift=0.3)
    run = partial(marginal_log_likelihood, problem.model, guide, num_samples=30)
    whole = run(x)
    pick = torch.tensor([4, 1])
    for index in (pick, pick.tolist(), pick.numpy()):
        subset = run(x[pick], image_index=index)
        for name in (*PER_IMAGE, "pareto_k"):
            close(getattr(subset, name), getattr(whole, name)[pick])
    assert not torch.allclose(run(x[pick]).log_prob, whole.log_prob[pick], atol=1e-6)
    assert not torch.allclose(run(x, seed=1).log_prob, whole.log_prob, atol=1e-6)
    same = run(x[:1].expand(2, 1, 2, 3)).log_prob
    assert same[0] != same[1]  # two copies of an image have their own draws


class Recognizer(nn.Module):
    """A guide with dropout, that registers parameters and counts its passes."""

    def __init__(self, problem):
        super().__init__()
        self.problem, self.calls = problem, 0
        self.dropout, self.frozen = nn.Dropout(0.5), nn.Linear(1, 1).eval()

    def forward(self, x):
        self.calls += 1
        pyro.module("recognizer", self)
        scale = pyro.param("scale", torch.tensor(1.1, dtype=x.dtype))
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", self.problem.posterior(self.dropout(x), scale=scale))


def test_leaves_global_state_alone_and_encodes_once(linear_gaussian):
    problem = linear_gaussian()
    guide = Recognizer(problem)
    pyro.param("mine", torch.ones(2))
    pyro.enable_validation(True)
    before = torch.get_rng_state()
    x = problem.sample(3)
    first = marginal_log_likelihood(problem.model, guide, x, 50, max_codes_per_chunk=20)
    assert guide.calls == 4  # once per image, once to look
    assert torch.equal(torch.get_rng_state(), before)
    assert guide.training and guide.dropout.training and not guide.frozen.training
    assert set(pyro.get_param_store().keys()) == {"mine"}
    assert torch.distributions.Distribution._validate_args
    torch.rand(5)
    again = marginal_log_likelihood(problem.model, guide, x, 50, max_codes_per_chunk=20)
    assert torch.equal(first.log_prob, again.log_prob)  # dropout off, own random numbers

    with pytest.raises(ValueError, match="not finite"):
        marginal_log_likelihood(problem.model, guide, x * 1e200, 5)
    assert guide.training and torch.distributions.Distribution._validate_args
    assert set(pyro.get_param_store().keys()) == {"mine"}


def test_pareto_k_is_that_of_arviz(linear_gaussian, monkeypatch):
    problem = linear_gaussian()
    x = problem.sample(4)
    seen = recorded_weights(monkeypatch)
    guide = partial(problem.guide, scale=0.6)  # too narrow: heavy-tailed weights
    result = marginal_log_likelihood(problem.model, guide, x, 400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = importlib.import_module("arviz")
    log_w = torch.cat(seen, 1).T.contiguous().numpy()
    if hasattr(arviz, "psislw"):
        expected = arviz.psislw(log_w)[1]
    else:
        expected = importlib.import_module("arviz_stats.base").array_stats.psislw(-log_w)[1]
    np.testing.assert_allclose(result.pareto_k, expected)
    assert (result.pareto_k > 0.3).all()
    safe = marginal_log_likelihood(problem.model, partial(problem.guide, scale=1.5), x, 400)
    assert (safe.pareto_k < 0.3).all()
    assert marginal_log_likelihood(problem.model, guide, x, 24).pareto_k.isnan().all()


def test_the_worst_images_count_as_unreliable(tmp_path):
    """PSIS has no tail to fit, and returns infinity, where at most four weights matter."""
    log_w = torch.randn(64, 5).double() * torch.tensor([3000.0, 3000.0, 0.1, 0.1, 0.0])
    statistics = weights.weight_statistics(log_w, torch.zeros_like(log_w), list(range(5)))
    estimates = dict(zip(weights.PER_IMAGE, statistics, strict=True))
    score = weights.MarginalLikelihood(**estimates, num_samples=64, data_dims=1)
    assert score.pareto_k[:2].tolist() == [math.inf] * 2 and score.pareto_k[4].isnan()
    assert score.summary()["fraction_of_pareto_k_above_0.7"] == 0.5
    write_json(tmp_path / "summary.json", score.summary())


def test_pareto_k_with_arviz_1(monkeypatch):
    """There psislw lives elsewhere and takes log-likelihoods of left-out points, -log w."""

    def psislw(log_likelihood):
        return log_likelihood, -log_likelihood.max(-1)

    stats = SimpleNamespace(array_stats=SimpleNamespace(psislw=psislw))
    monkeypatch.setitem(sys.modules, "arviz", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "arviz_stats", SimpleNamespace(base=stats))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", stats)
    log_w = torch.randn(30, 4).double()
    log_w[:, 2] = 5.0  # equal weights have no tail
    k = weights._pareto_k(log_w)
    assert k.isnan().tolist() == [False, False, True, False]
    close(k[[0, 1, 3]], log_w.amin(0)[[0, 1, 3]])


def test_several_latent_sites(linear_gaussian):
    """The code in two sites and the image in two: the sum of all of them is what it was."""
    problem = linear_gaussian(code_dim=2)
    x = problem.sample(4)

    def model(x):
        with pyro.plate("images", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
            z = torch.stack([a, b], -1)
            mean = (z @ problem.weight.T).reshape(*z.shape[:-1], *problem.image_shape)
            for row in range(2):
                fn = dist.Normal(mean[..., row, :], problem.noise).to_event(2)
                pyro.sample(f"row{row}", fn, obs=x[..., row, :])

    def guide(x):
        posterior = problem.posterior(x)
        mean, covariance = posterior.mean, posterior.covariance_matrix[0]
        with pyro.plate("images", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(mean[:, 0], covariance[0, 0].sqrt()))
            slope = covariance[0, 1] / covariance[0, 0]
            variance = covariance[1, 1] - slope * covariance[0, 1]
            pyro.sample("b", dist.Normal(mean[:, 1] + slope * (a - mean[:, 0]), variance.sqrt()))

    result = marginal_log_likelihood(model, guide, x, 200, max_codes_per_chunk=64)
    close(result.log_prob, problem.log_prob(x))
    prior = dist.MultivariateNormal(x.new_zeros(2), torch.eye(2).double()).expand([4])
    kl = torch.distributions.kl_divergence(problem.posterior(x), prior)
    close(result.kl, kl, atol=0.35)


def test_an_auxiliary_site_may_fix_the_code_but_not_randomize_it(linear_gaussian):
    """q(z | x) must be known: it is where z is a function of the auxiliary variable."""
    problem = linear_gaussian(code_dim=2)
    x = problem.sample(3)

    def fixed(x):
        with pyro.plate("images", len(x), dim=-1):
            a = pyro.sample("a", problem.posterior(x), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(a, event_dim=1))

    result = marginal_log_likelihood(problem.model, fixed, x, 20)
    close(result.log_prob, problem.log_prob(x))

    def randomized(x):
        with pyro.plate("images", len(x), dim=-1):
            a = pyro.sample("a", problem.posterior(x), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(a, 0.1).to_event(1))

    with pytest.raises(ValueError, match="'a' is auxiliary and 'z' is sampled given it"):
        marginal_log_likelihood(problem.model, randomized, x, 20)


def test_factors_count_and_deterministic_sites_do_not(linear_gaussian):
    problem = linear_gaussian(code_dim=2)
    x = problem.sample(3)

    def model(x, extra=True):
        pyro.deterministic("two", torch.tensor(2.0))
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            mean = (z @ problem.weight.T).reshape(*z.shape[:-1], *problem.image_shape)
            pyro.deterministic("mean", mean, event_dim=3)
            pyro.sample("x", dist.Normal(mean, problem.noise).to_event(3), obs=x)
            if extra:
                pyro.factor("penalty", -z.square().sum(-1))

    def guide(x, extra=True):
        with pyro.plate("images", len(x), dim=-1):
            posterior = problem.posterior(x)
            pyro.deterministic("location", posterior.mean, event_dim=1)
            z = pyro.sample("z", posterior)
            if extra:
                pyro.factor("same_penalty", -z.square().sum(-1), has_rsample=True)

    plain = [partial(program, extra=False) for program in (model, guide)]
    close(marginal_log_likelihood(*plain, x, 30).log_prob, problem.log_prob(x))
    close(marginal_log_likelihood(model, guide, x, 30).log_prob, problem.log_prob(x))
    penalized = marginal_log_likelihood(model, plain[1], x, 4000)
    # The factor makes the prior a Normal of variance 1/3, of weight 1/3 in two dimensions.
    covariance = problem.weight @ problem.weight.T / 3
    covariance = covariance + problem.noise**2 * torch.eye(len(covariance)).double()
    p = dist.MultivariateNormal(torch.zeros(len(covariance)).double(), covariance)
    close(penalized.log_prob, p.log_prob(x.flatten(1)) - math.log(3), atol=0.1)


class BinaryPixels(dist.TorchDistribution):
    """Its support is stated for each pixel."""

    arg_constraints: ClassVar = {}
    support = dist.constraints.boolean

    def __init__(self, logits):
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return BinaryPixels(self.logits.expand(*batch_shape, *self.event_shape))

    def log_prob(self, value):
        pixels = dist.Bernoulli(logits=self.logits, validate_args=False)
        return pixels.log_prob(value).sum((-3, -2, -1))


@pytest.mark.parametrize("shape", [(1, 2, 3), (4, 4, 4)])
def test_a_support_of_each_pixel_is_that_of_the_image(shape):
    x = torch.rand(4, *shape).round()

    def model(x, keep=True):
        with pyro.plate("images", len(x), dim=-1), poutine.mask(mask=keep):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            logits = z[..., None, None, None].expand(*z.shape, *shape)
            pyro.sample("x", BinaryPixels(logits), obs=x)

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))

    result = marginal_log_likelihood(model, guide, x, 30)
    assert (result.log_prob < 0).all()
    x[0, 0, 1, 1] = 0.5
    with pytest.raises(ValueError, match="log-weights of image 0 are not finite"):
        marginal_log_likelihood(model, guide, x, 30)

    def masked(x):
        model(x, x.flatten(1).frac().eq(0).all(1))

    assert marginal_log_likelihood(masked, guide, x, 30).log_prob.isfinite().all()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_point_estimate_is_refused(linear_gaussian, wrapped):
    """Its weights are all equal, so no diagnostic would show that log p(x) is wrong."""
    problem = linear_gaussian()
    x = problem.sample(3)

    def point(x):
        with pyro.plate("images", len(x), dim=-1):
            mean = problem.posterior(x).mean
            code = dist.Delta(mean).to_event(1) if wrapped else dist.Delta(mean, event_dim=1)
            pyro.sample("z", code)

    with pytest.raises(ValueError, match="'z' is a point estimate"):
        marginal_log_likelihood(problem.model, point, x, 20)


def test_a_code_that_is_a_point_in_the_model_too_is_scored_exactly(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(3)

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Delta(x.new_zeros(len(x), 3), event_dim=1))

    def model(x):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Delta(x.new_zeros(len(x), 3), event_dim=1))
            mean = (z @ problem.weight.T).reshape(*z.shape[:-1], *problem.image_shape)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)

    expected = dist.Normal(torch.zeros_like(x), 1.0).to_event(3).log_prob(x)
    close(marginal_log_likelihood(model, guide, x, 4).log_prob, expected)


def test_a_guide_with_parameters_for_each_image_is_scored_with_all_of_them(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(5)
    exact = problem.posterior(x)

    def refined(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", exact)

    got = marginal_log_likelihood(problem.model, refined, x, 40, max_codes_per_chunk=40)
    close(got.log_prob, problem.log_prob(x))
    automatic = AutoNormal(problem.model)
    automatic(x)
    with torch.no_grad():
        for name, parameter in automatic.named_parameters():
            parameter.copy_(exact.mean if "locs" in name else exact.stddev.log())
    several = marginal_log_likelihood(problem.model, automatic, x, 4000)
    error = several.monte_carlo_error
    assert ((several.log_prob - problem.log_prob(x)).abs() < 5 * error).all() and (error > 0).all()
    again = marginal_log_likelihood(problem.model, automatic, x, 4000, max_codes_per_chunk=7000)
    close(several.log_prob, again.log_prob)
    with pytest.raises(ValueError, match="must be given exactly the images that it was fitted to"):
        marginal_log_likelihood(problem.model, automatic, x[:1], 4)


@pytest.mark.parametrize(
    ("convert", "match"),
    [
        (torch.Tensor.bool, r"images have dtype torch\.bool, GaussianGuide reads torch\.float32"),
        (torch.Tensor.long, r"dtype torch\.int64.*x\.float\(\)"),
        (torch.Tensor.double, r"dtype torch\.float64, GaussianGuide reads torch\.float32"),
    ],
)
def test_images_of_another_type_get_an_error_of_one_line(convert, match):
    model, guide = binary_vlae(), GaussianGuide()
    x = convert(torch.rand(2, 1, 28, 28).round())
    with pytest.raises(ValueError, match=match) as caught:
        marginal_log_likelihood(model, guide, x, 3)
    assert "\n" not in str(caught.value)


def test_errors_of_model_and_guide_keep_their_own_message(linear_gaussian):
    """Pyro appends a table of shapes to them."""
    problem = linear_gaussian()

    def model(x):
        problem.model(x)
        raise ValueError("the reason in one line")

    with pytest.raises(ValueError) as caught:
        marginal_log_likelihood(model, problem.guide, problem.sample(2), 3)
    assert str(caught.value) == "the reason in one line"


def test_flow_guide_is_scored_by_its_cache(linear_gaussian):
    """A flow whose inverse is unknown can only be scored from the trace that sampled it."""
    problem = linear_gaussian(code_dim=2)
    x = problem.sample(3)
    pyro.set_rng_seed(1)
    flow = transforms.affine_autoregressive(2, hidden_dims=[8]).double()
    flow._inverse = None  # calling it would raise

    def guide(x):
        base = dist.Normal(problem.posterior(x).mean, 0.8).to_event(1)
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    result = marginal_log_likelihood(problem.model, guide, x, 20000, max_codes_per_chunk=4096)
    z = (result.log_prob - problem.log_prob(x)) / result.monte_carlo_error
    assert (z.abs() < 4).all()
    assert (result.effective_sample_size < 19000).all()


def test_model_without_a_code_is_scored_once():
    calls = []

    def model(x):
        calls.append(len(x))
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(1, 2, 2), 1.0).to_event(3), obs=x)

    x = torch.randn(5, 1, 2, 2)
    result = marginal_log_likelihood(model, lambda x: None, x, 4096)
    close(result.log_prob, dist.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1).double(), atol=1e-5)
    assert calls == [5] and result.num_samples == 1
    assert (result.monte_carlo_error == 0).all() and (result.kl == 0).all()


def test_scale_is_no_density_but_masks_count(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(3)
    scaled = marginal_log_likelihood(
        poutine.scale(problem.model, 0.1), poutine.scale(problem.guide, 0.1), x, 20
    )
    close(scaled.log_prob, problem.log_prob(x))

    def masked(program):
        def run(x):
            with poutine.mask(mask=torch.tensor([True, False, True])[: len(x)]):
                program(x)

        return run

    result = marginal_log_likelihood(masked(problem.model), lambda x: problem.guide(x), x, 20)
    assert abs(result.log_prob[0] - problem.log_prob(x)[0]) < 1e-9
    assert result.log_prob[1] != problem.log_prob(x)[1]


def test_summary(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(7)
    result = marginal_log_likelihood(problem.model, problem.guide, x, 30)
    truth = problem.log_prob(x)
    summary = result.summary()
    assert summary["nll_nats"] == pytest.approx(-truth.mean().item())
    assert summary["nll_standard_error"] == pytest.approx(truth.std().item() / math.sqrt(7))
    assert summary["elbo_nats"] == pytest.approx(truth.mean().item())
    assert summary["kl_bits"] * math.log(2) == pytest.approx(summary["kl_nats"])
    assert summary["bits_per_dim"] == pytest.approx(summary["nll_nats"] / 6 / math.log(2))
    assert (summary["num_samples"], summary["num_images"]) == (30, 7)
    one = marginal_log_likelihood(problem.model, problem.guide, x[:1], 30)
    assert math.isnan(one.standard_error)
    assert result.log_prob.dtype == torch.float64


def test_out_of_memory_halves_the_chunk(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(9)
    passes = []

    def model(x):
        problem.model(x)
        passes.append(problem.codes_scored[-1])
        if passes[-1] > 10:
            raise torch.OutOfMemoryError("simulated")

    guide = partial(problem.guide, shift=0.2)
    for num_samples in (3, 25):
        passes.clear()
        small = marginal_log_likelihood(model, guide, x, num_samples, max_codes_per_chunk=64)
        large = marginal_log_likelihood(problem.model, guide, x, num_samples)
        close(small.log_prob, large.log_prob)
        assert sum(p > 10 for p in passes) <= 3  # remembered, not run into at each block
        assert sum(p for p in passes if p <= 10) == 9 * num_samples

    def hopeless(x):
        raise torch.OutOfMemoryError("simulated")

    with pytest.raises(torch.OutOfMemoryError):
        marginal_log_likelihood(hopeless, guide, x, 4)


def test_chunks_have_a_limit_when_none_is_given(linear_gaussian):
    problem = linear_gaussian()
    marginal_log_likelihood(problem.model, problem.guide, problem.sample(3), 700)
    assert sum(problem.codes_scored) == 2100 and max(problem.codes_scored) <= 256


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_and_keeps_its_random_state(linear_gaussian):
    problem = linear_gaussian()
    truth = problem.log_prob(problem.sample(5))
    x = problem.sample(5).cuda()
    problem.weight = problem.weight.cuda()
    problem.posterior_covariance = problem.posterior_covariance.cuda()
    before = torch.cuda.get_rng_state()
    result = marginal_log_likelihood(problem.model, problem.guide, x, 300)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert result.log_prob.device.type == "cpu"
    close(result.log_prob, truth)
    small = marginal_log_likelihood(problem.model, problem.guide, x, 300, max_codes_per_chunk=7)
    close(small.kl, result.kl, atol=1e-6)


def test_progress_bar_counts_images(linear_gaussian, capsys):
    problem = linear_gaussian()
    marginal_log_likelihood(problem.model, problem.guide, problem.sample(3), 4, progress=True)
    assert "3/3" in capsys.readouterr().err


# Programs with a mistake each, and what the error must name.


def no_plate(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 3).double(), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z.sum(-1)[..., None, None, None], 1.0).to_event(3), obs=x)


def summed(x):
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(4), obs=x)


def undrawn(x):
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        pyro.sample("other", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(x, 1.0).to_event(3), obs=x)


def unobserved(x):
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))


def codeless(x):
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("x", dist.Normal(x, 1.0).to_event(3), obs=x)


def gray(x):
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        pyro.sample("x", dist.Bernoulli(torch.full(x.shape, 0.5)).to_event(3), obs=x)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (no_plate, r"'z'.*\(8, 2\).*no image plate.*\(8, 2\)"),
        (summed, r"'x'.*\(8, 1\).*no image plate.*\(8, 2\).*to_event"),
        (undrawn, r"'other' is neither observed nor sampled by the guide"),
        (unobserved, r"observes nothing"),
        (codeless, r"lacks the guide's sites \['z'\]"),
        (gray, r"8 log-weights of image 0 are not finite.*support"),
    ],
)
def test_wrong_models_are_named(linear_gaussian, model, match):
    problem = linear_gaussian()
    with pytest.raises(ValueError, match=match):
        marginal_log_likelihood(model, problem.guide, problem.sample(2), 8)


def test_guide_without_a_plate_is_named(linear_gaussian):
    problem = linear_gaussian()

    def guide(x):
        pyro.sample("z", problem.posterior(x))

    with pytest.raises(ValueError, match=r"guide's site 'z'.*no image plate"):
        marginal_log_likelihood(problem.model, guide, problem.sample(2), 8)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.zeros(0, 1, 2, 3)}, r"x has shape \(0, 1, 2, 3\)"),
        ({"x": [[1.0]]}, r"x must be a tensor .*got list: pass"),
        ({"x": SPLIT}, r"got ImageSplit: pass split\.batch\(slice\(None\)\) for an ImageSplit"),
        ({"x": torch.tensor([[0.0], [math.nan]])}, r"1 of 2 images \(first: x\[1\]\)"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"num_samples": 30.0}, r"num_samples is 30\.0, expected a whole number"),
        ({"max_codes_per_chunk": 0}, "max_codes_per_chunk is 0"),
        ({"image_index": [1, 2, 3]}, r"image_index has shape \(3,\), expected one .*: \(2,\)"),
        ({"image_index": torch.zeros(2, 1)}, r"image_index has shape \(2, 1\), expected one"),
    ],
)
def test_wrong_arguments_are_named(linear_gaussian, changes, match):
    problem = linear_gaussian()
    arguments = {"x": problem.sample(2), "num_samples": 8, **changes}
    with pytest.raises(ValueError, match=match):
        marginal_log_likelihood(problem.model, problem.guide, **arguments)


def test_scoring_initializes_nothing():
    model, guide = binary_vlae(flow_hidden_dims=(64,)), GaussianGuide()
    parts = {"model": model, "guide": guide}
    before = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in parts.items()}
    marginal_log_likelihood(model, guide, torch.rand(2, 1, 28, 28).round(), 3)
    for name, module in parts.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, before[name][key]), key


def test_summary_does_not_pass_off_what_was_not_estimated(linear_gaussian, tmp_path):
    problem = linear_gaussian()
    x = problem.sample(1)
    few = marginal_log_likelihood(problem.model, problem.guide, x, 5).summary()
    for name in ("nll_standard_error", "fraction_of_pareto_k_above_0.7"):
        assert math.isnan(few[name]) and f"{few[name]:.2f}" == "nan"
    write_json(tmp_path / "scores.json", {"of": [few, {}]})
    saved = json.loads((tmp_path / "scores.json").read_text())["of"][0]
    assert saved == {name: None if math.isnan(v) else v for name, v in few.items()}

    def wide(x):
        return problem.guide(x, shift=0.2, scale=1.3)

    score = marginal_log_likelihood(problem.model, wide, problem.sample(4), 200)
    metrics = score.summary()
    assert metrics["fraction_of_pareto_k_above_0.7"] == (score.pareto_k > 0.7).double().mean()
    assert "4 images, 200 samples each" in repr(score)


def test_scores_on_the_cpu_while_the_default_device_is_another(linear_gaussian):
    toy = linear_gaussian()
    x = toy.sample(3)
    expected = marginal_log_likelihood(toy.model, toy.guide, x, 50)
    with torch.device("meta"):
        got = marginal_log_likelihood(toy.model, toy.guide, x, 50)
    for name in PER_IMAGE:
        assert torch.equal(getattr(got, name), getattr(expected, name))
