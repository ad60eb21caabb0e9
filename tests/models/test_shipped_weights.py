"""The shipped weights load and score as they always did."""

import pytest
import torch

from pyro_vlae.data import load_dataset
from pyro_vlae.models import load_pretrained

# Nats of ten fixed images, their codes half a standard deviation above the guide's means; computed
# when the weights were first shipped.
PRIOR = [
    -76.6330,
    -71.6975,
    -72.9634,
    -76.5939,
    -74.8020,
    -74.9915,
    -74.1989,
    -77.9109,
    -73.1116,
    -75.4365,
]
GUIDE = [
    -54.9555,
    -54.6854,
    -54.3405,
    -56.1080,
    -54.1663,
    -54.3052,
    -55.8597,
    -56.6393,
    -55.4767,
    -55.7739,
]
LIKELIHOOD = [
    -383.9970,
    -346.1295,
    -144.6800,
    -249.8966,
    -228.9261,
    -184.9261,
    -258.7213,
    -350.9884,
    -171.3954,
    -356.4870,
]


def test_static_mnist_scores_fixed_images_and_codes_as_when_it_was_shipped():
    model, guide = load_pretrained("static-mnist")
    x = load_dataset("digits").test.batch(slice(0, 10))
    with torch.no_grad():
        posterior = guide.posterior(x)
        z = posterior.mean + 0.5 * posterior.stddev
        assert posterior.log_prob(z).tolist() == pytest.approx(GUIDE, abs=3e-4)
        assert model.prior().log_prob(z).tolist() == pytest.approx(PRIOR, abs=3e-4)
        likelihood = model.likelihood(model.decoder(z))
        assert likelihood.log_prob(x).tolist() == pytest.approx(LIKELIHOOD, abs=1e-3)
