"""What stored bytes mean: the support a model sees, pictures, and the unit of a score."""

import math

import pytest
import torch

from pyro_vlae.data import BINARY, BYTES, INTENSITIES, Values

FOUR_LEVELS = Values("four levels", "bits/dim", largest=3, scale=1.5, offset=-1)


@pytest.mark.parametrize("values", [BINARY, INTENSITIES, BYTES, FOUR_LEVELS], ids=lambda v: v.name)
def test_samples_lie_in_the_support_and_pictures_in_the_unit_range(values):
    images = torch.arange(values.largest + 1, dtype=torch.uint8).repeat(50)
    x, support = values.sample(images), values.support
    assert x.dtype == support.dtype == torch.float32
    assert torch.equal(x.unique(), support)  # ascending, and all of them occur
    picture = values.to_unit_range(x)
    assert picture.min() == 0 and picture.max() == 1
    assert torch.equal(picture.argsort(stable=True), x.argsort(stable=True))


def test_what_a_model_sees():
    assert BINARY.support.tolist() == INTENSITIES.support.tolist() == [0, 1]
    assert torch.equal(BYTES.support, torch.arange(256) / 127.5 - 1)
    assert torch.allclose(FOUR_LEVELS.support, torch.tensor([-1, -1 / 3, 1 / 3, 1]))
    half = torch.full((2000,), 128, dtype=torch.uint8)
    assert abs(INTENSITIES.sample(half).mean() - 0.5) < 0.06
    assert torch.allclose(BYTES.to_unit_range(BYTES.sample(half)), torch.tensor(128 / 255))


def test_scores_have_the_unit_of_the_literature():
    assert BINARY.unit == INTENSITIES.unit == "nats"
    assert BINARY.score(79.0, 784) == INTENSITIES.score(79.0, 784) == 79.0
    assert BYTES.unit == "bits/dim"
    assert BYTES.score(3072 * math.log(2) * 2.95, 3072) == pytest.approx(2.95)
