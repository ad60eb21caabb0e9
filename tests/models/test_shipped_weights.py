"""The shipped weights load and score as they always did."""

import pytest
import torch

from pyro_vlae.data import load_dataset
from pyro_vlae.models import load_pretrained

# Nats of ten fixed images, their codes half a standard deviation above the guide's means; computed
# in float64 when the weights were first shipped.
PRIOR = [
    -76.6330343,
    -71.6975522,
    -72.9634284,
    -76.5938714,
    -74.8019708,
    -74.9915318,
    -74.1989156,
    -77.9109368,
    -73.1115661,
    -75.4365386,
]
GUIDE = [
    -54.9554867,
    -54.6853883,
    -54.3404585,
    -56.1080443,
    -54.1663349,
    -54.3051729,
    -55.8597211,
    -56.6393308,
    -55.4767078,
    -55.7739398,
]
LIKELIHOOD = [
    -383.9969882,
    -346.1294671,
    -144.6799631,
    -249.8965641,
    -228.9261519,
    -184.9260692,
    -258.7213243,
    -350.9883775,
    -171.3953722,
    -356.4869596,
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
