"""The contract of guides."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vlae.models import VLAE, BernoulliLikelihood, StandardNormalPrior
from pyro_vlae.nn import ResNetArchitecture, ResNetDecoder
from pyro_vlae.testing.part import SAMPLES, PartContract, Program, check_samples


class GuideContract(PartContract):
    """Tests of a guide: a module that, called with images, samples ``"z"`` in an image plate.

    Make a small instance: the estimates of the density are too noisy for many or wide dimensions.

    Attributes:
        image_shape: shape of the guide's images.
        reparameterized: whether gradients pass through the guide's samples.
    """

    image_shape: tuple[int, int, int] = (1, 8, 8)
    reparameterized = True

    def images(self, count: int) -> Tensor:
        """The same binary images at each call."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(count, *self.image_shape, generator=generator).round()

    def program(self, part: nn.Module) -> Program:
        x = self.images(6)
        code_dim = self.site(part, x[:2])["value"].shape[-1]
        sizes = ResNetArchitecture(self.image_shape, code_dim, channels=(2,), features=8)
        likelihood = BernoulliLikelihood(sizes.feature_channels, self.image_shape[0])
        return VLAE(StandardNormalPrior(code_dim), ResNetDecoder(sizes), likelihood), part, x

    def output(self, part: nn.Module) -> Tensor:
        x = self.images(5).to(next(part.parameters()))
        code = self.site(part, x)["value"]
        z = torch.randn(code.shape, generator=torch.Generator().manual_seed(1))
        return self.log_prob(part, x, z.to(x))

    def site(self, guide: Callable[..., Any], x: Tensor) -> dict[str, Any]:
        """The site ``"z"`` of a trace of the guide, with its log-probability."""
        trace = poutine.trace(guide).get_trace(x)
        trace.compute_log_prob()
        return dict(trace.nodes["z"])

    def log_prob(self, guide: nn.Module, x: Tensor, z: Tensor) -> Tensor:
        """``log q(z | x)`` of given codes, in nats, from a new trace of the guide."""
        return self.site(poutine.condition(guide, {"z": z.clone()}), x)["log_prob"]

    def test_samples_codes_in_an_image_plate(self) -> None:
        guide = self.made()
        site = self.site(guide, self.images(3).double())
        assert site["value"].dim() == 2 and len(site["value"]) == 3
        assert [frame.dim for frame in site["cond_indep_stack"]] == [-1]
        assert site["log_prob"].shape == (3,)

    def test_particles_are_scored_as_single_runs_are(self) -> None:
        guide, x = self.made(), self.images(3).double()
        with pyro.plate("particles", 2, dim=-2):
            site = self.site(guide, x)
        assert site["value"].shape[:2] == site["log_prob"].shape == (2, 3)
        for z, log_prob in zip(site["value"], site["log_prob"], strict=True):
            self.close(self.log_prob(guide, x, z), log_prob)

    def test_a_code_depends_on_its_own_image_alone(self) -> None:
        guide, x = self.made(), self.images(4).double()
        z = self.site(guide, x)["value"]
        together = self.log_prob(guide, x, z)
        self.close(self.log_prob(guide, x[2:], z[2:]), together[2:])
        self.close(self.log_prob(guide, x[:1], z[:1]), together[:1])
        others = torch.cat([x[:1], 1 - x[1:]])
        self.close(self.log_prob(guide, others, z)[:1], together[:1])

    def test_samples_follow_the_density(self) -> None:
        guide, x = self.made(), self.images(1).double()
        with torch.no_grad():
            site = self.site(guide, x.expand(SAMPLES, *x.shape[1:]))
            check_samples(site["value"], site["log_prob"])

    def test_gradients_pass_through_samples(self) -> None:
        guide = self.made()
        z = self.site(guide, self.images(3).double())["value"]
        assert z.requires_grad == self.reparameterized
        if self.reparameterized:
            z.square().sum().backward()
            gradients = [p.grad for p in guide.parameters() if p.grad is not None]
            assert gradients and all(gradient.isfinite().all() for gradient in gradients)
