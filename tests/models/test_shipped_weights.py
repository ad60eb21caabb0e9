"""The shipped weights load and score as they always did."""

import pytest
import torch

from pyro_vlae.data import load_dataset
from pyro_vlae.models import load_pretrained

# Nats of ten fixed images, their codes half a standard deviation above the guide's means; computed
# in float64 by an independent version of the package, with other networks and another sampler.
PRIOR = [
    -79.9024155,
    -75.5510379,
    -72.2150000,
    -86.6889628,
    -78.6881255,
    -75.1252869,
    -81.6349594,
    -78.7932054,
    -76.8107868,
    -80.8334722,
]
GUIDE = [
    -52.7202691,
    -54.0072453,
    -52.9261767,
    -55.9366778,
    -52.7046482,
    -53.1285072,
    -55.2950098,
    -53.7564201,
    -53.6251403,
    -54.9443117,
]
LIKELIHOOD = [
    -345.6678435,
    -347.6767110,
    -171.1767226,
    -259.5951215,
    -231.3181726,
    -183.0959110,
    -290.4896878,
    -294.8823483,
    -249.4423237,
    -380.3530663,
]


def test_static_mnist_scores_fixed_images_and_codes_as_when_it_was_shipped():
    model, guide = load_pretrained("static-mnist")
    model, guide = model.double(), guide.double()
    x = load_dataset("digits").test.batch(slice(0, 10)).double()
    with torch.no_grad():
        posterior = guide.posterior(x)
        z = posterior.mean + 0.5 * posterior.stddev
        assert posterior.log_prob(z).tolist() == pytest.approx(GUIDE, abs=1e-5)
        assert model.prior().log_prob(z).tolist() == pytest.approx(PRIOR, abs=1e-5)
        likelihood = model.likelihood(model.decoder(z))
        assert likelihood.log_prob(x).tolist() == pytest.approx(LIKELIHOOD, abs=1e-5)
