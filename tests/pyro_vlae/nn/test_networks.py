"""The PixelCNN networks keep their contract."""

import pytest

from pyro_vlae.nn import MaskedResNet, PixelCNNPlusPlusNet, TwoStackNet
from pyro_vlae.testing import NetworkContract


class TestTied(NetworkContract):
    values = (0.0, 1.0)

    def make(self):
        return MaskedResNet(1, 4, 6, 3, 2)


class TestUntied(NetworkContract):
    values = (0.0, 1.0)

    def make(self):
        return MaskedResNet(1, 4, 6, 3, 2, tied=False)


class TestTwoStacks(NetworkContract):
    values = (0.0, 1.0)

    def make(self):
        return TwoStackNet(1, 4, 6, "4x2")


class TestGrayLevels(NetworkContract):
    def make(self):
        return MaskedResNet(1, 4, 6, 3, 2, mixtures=3)


class TestGrayLevelsInTwoStacks(NetworkContract):
    def make(self):
        return TwoStackNet(1, 4, 6, "4x2", mixtures=3)


class TestColorsInOneGo(NetworkContract):
    """Parameters that do not depend on a pixel's own channels; the mixture couples these."""

    def make(self):
        return MaskedResNet(3, 4, 6, 3, 2, mixtures=2)


class TestColor(NetworkContract):
    channel_autoregressive = True

    def make(self):
        return PixelCNNPlusPlusNet(4, 4, "4x2", mixtures=2)


class TestGray(TestColor):
    def make(self):
        return PixelCNNPlusPlusNet(4, 4, "4x2-gray", mixtures=2)


@pytest.mark.parametrize("make", [MaskedResNet, TwoStackNet])
def test_a_negative_number_of_mixtures_is_refused(make):
    with pytest.raises(ValueError, match="mixtures must be 0, for binary images, or more, got -1"):
        make(mixtures=-1)
