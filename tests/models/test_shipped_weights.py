"""The shipped weights load and score as they always did."""

import pytest
import torch

from pyro_vlae.data import load_dataset
from pyro_vlae.models import load_pretrained

# Nats of ten fixed images, their codes half a standard deviation above the guide's means; computed
# in float64 when the weights were exported. With the weights before them, the same code gave the
# numbers of an independent version of the package, with other networks and another sampler.
PRIOR = [
    -79.5415066,
    -75.3256789,
    -71.6190347,
    -86.3112215,
    -77.0974950,
    -74.0027524,
    -82.8470969,
    -78.4389941,
    -77.0362880,
    -81.8182239,
]
GUIDE = [
    -52.4242774,
    -53.7248060,
    -52.6964678,
    -55.9532676,
    -52.4106247,
    -53.0078857,
    -55.2299289,
    -53.4938793,
    -53.5168189,
    -55.2939689,
]
LIKELIHOOD = [
    -316.1761213,
    -325.0217657,
    -159.3351737,
    -244.7313121,
    -214.9500357,
    -175.5977429,
    -270.0617025,
    -268.5791094,
    -228.4170117,
    -343.1696201,
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
