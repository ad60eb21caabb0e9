"""The contract of priors."""

import torch
from torch import Tensor, nn

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.models import VLAE, BernoulliLikelihood
from pyro_vlae.nn import ResNetArchitecture, ResNetDecoder
from pyro_vlae.testing.part import SAMPLES, PartContract, Program, check_samples


class PriorContract(PartContract):
    """Tests of a prior: a module that, called without arguments, returns p(z).

    Attributes:
        code_dim: dimensions of the codes; the prior's own attribute ``code_dim`` if None.
        can_sample: whether the prior can be sampled; some flows can only be scored.
    """

    code_dim: int | None = None
    can_sample = True

    def program(self, part: nn.Module) -> Program:
        code_dim = part().event_shape.numel()
        sizes = ResNetArchitecture((1, 4, 4), code_dim, channels=(2,), features=8)
        model = VLAE(part, ResNetDecoder(sizes), BernoulliLikelihood(sizes.feature_channels))
        return model, GaussianGuide(architecture=sizes), torch.rand(6, 1, 4, 4).round()

    def output(self, part: nn.Module) -> Tensor:
        return part().log_prob(self.codes(part))

    def codes(self, part: nn.Module, *batch: int) -> Tensor:
        """The same codes at each call."""
        like = next(part.parameters(), next(part.buffers(), torch.zeros(())))
        shape = (*(batch or (4,)), *part().event_shape)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return noise.to(like)

    def test_is_a_distribution_over_vectors(self) -> None:
        prior = self.made()
        p = prior()
        assert len(p.event_shape) == 1 and p.batch_shape == ()
        for wanted in (self.code_dim, getattr(prior, "code_dim", None)):
            assert wanted in (None, p.event_shape[0]), (
                f"the prior's codes have {p.event_shape[0]} dimensions, code_dim is {wanted}"
            )
        assert p.expand((6,)).batch_shape == (6,)
        assert p.log_prob(self.codes(prior, 4, 3)).shape == (4, 3)

    def test_batches_are_scored_as_single_codes_are(self) -> None:
        prior = self.made()
        z = self.codes(prior, 2, 3)
        rows = torch.stack([prior().log_prob(row) for row in z])
        self.close(prior().log_prob(z), rows)
        self.close(prior().log_prob(z[:1, :1]), rows[:1, :1])

    def test_samples_follow_the_density(self) -> None:
        prior = self.made()
        if not self.can_sample:
            return
        with torch.no_grad():
            assert prior().sample((2, 3)).shape == (2, 3, *prior().event_shape)
            z = prior().sample((SAMPLES,))
            check_samples(z, prior().log_prob(z.clone()))

    def test_an_updated_prior_scores_the_same_codes_anew(self) -> None:
        prior = self.made()
        if not list(prior.parameters()):
            return
        z = self.codes(prior)
        before = prior().log_prob(z)
        before.sum().backward()
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        after = prior().log_prob(z)
        assert not torch.allclose(before, after), "stale values: clear the transforms' caches"
        after.sum().backward()
