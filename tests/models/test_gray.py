"""The VLAE of gray levels: a distribution over the 256 levels, exact and trainable."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import initialize, marginal_log_likelihood
from pyro_vlae.models import (
    BernoulliLikelihood,
    binary_vlae,
    gray_vlae,
    unconditional_pixelcnn,
)
from pyro_vlae.nn import ResNetArchitecture

SIZES = ResNetArchitecture((1, 5, 7), code_dim=3, channels=(4,), features=8)
OPTIONS = {"architecture": SIZES, "prior": "normal", "pixelcnn_channels": 6, "mixtures": 2}
ALL_LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def levels(*shape):
    return torch.randint(0, 256, shape) / 127.5 - 1


@pytest.mark.parametrize("options", [{"masked_layers": 2, "tied": False}, {"window": "4x2"}])
def test_the_likelihood_sums_to_one_over_all_images_of_two_pixels(options):
    model = gray_vlae(**OPTIONS, **options).double()
    initialize(model, GaussianGuide(architecture=SIZES).double(), levels(8, 1, 5, 7).double())
    features = torch.randn(SIZES.feature_channels, 1, 2, dtype=torch.float64)
    images = torch.cartesian_prod(ALL_LEVELS, ALL_LEVELS).view(-1, 1, 1, 2)
    with torch.no_grad():
        log_prob = model.likelihood(features).log_prob(images)
    assert log_prob.shape == (256**2,)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.exp().max() < 0.5  # spread over many levels


@pytest.mark.parametrize("options", [{"masked_layers": 2}, {"window": "4x2"}])
def test_it_trains_scores_samples_and_completes(options):
    model, guide = gray_vlae(**OPTIONS, **options), GaussianGuide(architecture=SIZES)
    x = levels(16, 1, 1, 7).expand(16, 1, 5, 7).contiguous()  # constant columns: easy
    svi = SVI(model, guide, pyro.optim.Adamax({"lr": 0.02}), Trace_ELBO())
    initialize(model, guide, x)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    score = marginal_log_likelihood(model, guide, x, num_samples=8)
    assert (score.log_prob >= score.elbo - 1e-4).all()
    samples = model(batch_size=3)
    assert samples.shape == (3, 1, 5, 7)
    assert torch.isin(((samples + 1) * 127.5).round(), torch.arange(256.0)).all()
    known = torch.zeros(5, 7, dtype=torch.bool)
    known[:2] = True
    likelihood = model.likelihood(model.decoder(guide(x)))
    completed = likelihood.complete(x, known)
    assert torch.equal(completed[..., :2, :], x[..., :2, :])
    with pytest.raises(ValueError, match=r"outside the support .*level k of 0\.\.255"):
        likelihood.complete(x + 0.001, known)


def test_gray_levels_without_a_code():
    model = unconditional_pixelcnn(image_shape=(1, 4, 3), masked_layers=2, mixtures=2)
    assert model(batch_size=2).shape == (2, 1, 4, 3)


def test_a_window_is_refused_where_it_would_be_ignored():
    for likelihood in ("bernoulli", BernoulliLikelihood(SIZES.feature_channels)):
        with pytest.raises(ValueError, match=r"[Bb]ernoulli\w* has no window='7x4': leave it out"):
            binary_vlae(architecture=SIZES, likelihood=likelihood, window="7x4")
    with pytest.raises(TypeError, match=r"gray_vlae\(\) got an unexpected .*'decoder'"):
        gray_vlae(decoder=torch.nn.Identity(), **OPTIONS)
