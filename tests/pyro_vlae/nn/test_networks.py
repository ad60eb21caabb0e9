"""The PixelCNN networks keep their contract."""

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


class TestColor(NetworkContract):
    channel_autoregressive = True

    def make(self):
        return PixelCNNPlusPlusNet(4, 4, "4x2", mixtures=2)


class TestGray(TestColor):
    def make(self):
        return PixelCNNPlusPlusNet(4, 4, "4x2-gray", mixtures=2)
