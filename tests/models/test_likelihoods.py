from pyro_vlae.models import BernoulliLikelihood, PixelCNNLikelihood
from pyro_vlae.nn import MaskedResNet
from pyro_vlae.testing import LikelihoodContract


class TestBernoulli(LikelihoodContract):
    values = (0.0, 1.0)

    def make(self):
        return BernoulliLikelihood(4, 1)


class TestPixelCNN(LikelihoodContract):
    values = (0.0, 1.0)

    def make(self):
        return PixelCNNLikelihood(MaskedResNet(1, 4, 4, 2, 1))
