"""The contract of likelihoods."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.models import VLAE, StandardNormalPrior
from pyro_vlae.testing.part import SAMPLES, PartContract, Program, check_mean

CODE_DIM = 3
ENUMERABLE = 4096


class LikelihoodContract(PartContract):
    """Tests of a likelihood: a module that, called with features, returns p(x | features).

    Attributes:
        feature_shape: shape of the features of one image.
        values: the values of a pixel, ascending, or None if there are many. If the number of
            possible images is small, they are enumerated.
    """

    feature_shape: tuple[int, ...] = (4, 2, 3)
    values: Sequence[float] | None = None

    def features(self, *batch: int, seed: int = 0) -> Tensor:
        """The same features at each call."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*batch, *self.feature_shape, generator=generator, dtype=torch.float64)

    def images(self, part: nn.Module, *batch: int) -> Tensor:
        """The same images at each call, in the likelihood's precision."""
        like = next(part.parameters(), torch.zeros((), dtype=torch.float64))
        with torch.random.fork_rng([]), torch.no_grad():
            torch.manual_seed(0)
            return part(self.features(*batch).to(like)).sample()

    def program(self, part: nn.Module) -> Program:
        x = self.images(part, 6)
        linear = nn.Linear(CODE_DIM, self.features().numel())
        decoder = nn.Sequential(linear, nn.Unflatten(-1, self.feature_shape))
        head = nn.Linear(x[0].numel(), 2 * CODE_DIM)
        guide = GaussianGuide(CODE_DIM, encoder=nn.Flatten(), head=head)
        model = VLAE(StandardNormalPrior(CODE_DIM), decoder, part)
        return model.to(x.dtype), guide.to(x.dtype), x

    def output(self, part: nn.Module) -> Tensor:
        x = self.images(part, 4)
        return part(self.features(4).to(x)).log_prob(x)

    def test_batch_shape_is_that_of_the_features(self) -> None:
        likelihood = self.made()
        for batch in ((), (1,), (3,), (2, 3)):
            p = likelihood(self.features(*batch))
            assert p.batch_shape == batch and p.event_shape
            x = p.sample()
            assert x.shape == (*batch, *p.event_shape)
            assert p.log_prob(x).shape == batch
            assert p.sample((5,)).shape == (5, *batch, *p.event_shape)

    def test_particles_are_scored_as_single_batches_are(self) -> None:
        likelihood, features = self.made(), self.features(2, 3)
        x = self.images(likelihood, 3)
        rows = torch.stack([likelihood(row).log_prob(x) for row in features])
        self.close(likelihood(features).log_prob(x), rows)

    def test_samples_are_in_the_support(self) -> None:
        p = self.made()(self.features(3))
        x = p.sample()
        assert p.support.check(x).all() and p.log_prob(x).isfinite().all()

    def test_gradients_reach_the_features(self) -> None:
        likelihood = self.made()
        features = self.features(3).requires_grad_()
        likelihood(features).log_prob(self.images(likelihood, 3)).sum().backward()
        assert features.grad is not None and features.grad.any()

    def test_probabilities_of_all_images_sum_to_one(self) -> None:
        everything = self.all_images()
        if everything is None:
            return
        with torch.no_grad():
            log_prob = self.made()(self.features(3, 1)).log_prob(everything)
        self.close(log_prob.exp().sum(-1), torch.ones(3).double())

    def test_samples_follow_the_probabilities(self) -> None:
        # The mean of p(x | b) / p(x | a) over samples of p(x | a) is one.
        likelihood = self.made()
        a = self.features()
        b = a + 0.1 * self.features(seed=1)
        count = SAMPLES // 10
        with torch.no_grad():
            x = likelihood(a).sample((count,))
            ratio = (likelihood(b).log_prob(x) - likelihood(a).log_prob(x)).exp()
            check_mean(ratio.unsqueeze(-1), torch.ones(1).double(), "the sum of probabilities")
            everything = self.all_images()
            if everything is None:
                return
            probability = likelihood(a).log_prob(everything).exp()
            matches = (x.flatten(1).unsqueeze(1) == everything.flatten(1)).all(-1).double()
            deviation = (probability * (1 - probability) / count).sqrt()
            assert ((matches.mean(0) - probability).abs() < 5 * deviation + 2 / count).all()

    def all_images(self) -> Tensor | None:
        """All possible images, or None if there are too many."""
        shape = self.build().double()(self.features()).event_shape
        if self.values is None or len(self.values) ** shape.numel() > ENUMERABLE:
            return None
        images = list(itertools.product(self.values, repeat=shape.numel()))
        return torch.tensor(images, dtype=torch.float64).view(-1, *shape)
