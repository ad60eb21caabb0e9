"""The base of all contracts: a part must train, copy, and save like any torch module."""

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

SAMPLES = 20_000
# A model, a guide, and a batch of images.
Program = tuple[Callable[..., Any], Callable[..., Any], Tensor]


class PartContract(ABC):
    """Base class of the contracts.

    Attributes:
        tolerance: allowed difference, in float64, between two ways to compute the same values.
    """

    tolerance = 1e-8

    @abstractmethod
    def make(self) -> nn.Module:
        """A new, small instance of the part."""

    def build(self) -> nn.Module:
        """The instance that the tests run on."""
        return self.make()

    @abstractmethod
    def program(self, part: nn.Module) -> Program:
        """A small model and guide that contain the part, and images to train them on."""

    @abstractmethod
    def output(self, part: nn.Module) -> Tensor:
        """Deterministic values that depend on all of the part's state."""

    def made(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """A seeded instance, initialized and then perturbed, in evaluation mode."""
        pyro.set_rng_seed(seed)
        part = self.build().to(dtype)
        self.output(part)  # initializes the layers
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in part.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter))
        return part.eval()

    def test_every_parameter_moves_under_stock_svi(self) -> None:
        # The second instance starts with the parameter store that the first one left behind.
        for seed in range(2):
            pyro.set_rng_seed(seed)
            part = self.build()
            model, guide, x = self.program(part)
            svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 1e-2}), Trace_ELBO())
            svi.step(x)
            before = {name: p.detach().clone() for name, p in part.named_parameters()}
            svi.step(x)
            after = dict(part.named_parameters())
            still = [name for name, old in before.items() if torch.equal(after[name], old)]
            assert not still, f"parameters of instance {seed} that do not move: {still}"

    def test_training_is_finite_in_both_precisions_and_on_one_image(self) -> None:
        for dtype, count in itertools.product((torch.float32, torch.float64), (1, None)):
            pyro.set_rng_seed(0)
            part = self.build()
            model, guide, x = self.program(part)
            for module in (model, guide):
                cast(nn.Module, module).to(dtype)
            svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 1e-2}), Trace_ELBO())
            losses = [svi.step(x[:count].to(dtype)) for _ in range(3)]
            what = f"with {dtype} and {len(x[:count])} images"
            assert all(map(math.isfinite, losses)), f"losses {losses} {what}"
            wrong = [n for n, p in part.named_parameters() if not p.isfinite().all()]
            assert not wrong, f"parameters that are not finite {what}: {wrong}"

    def test_a_used_part_can_be_copied_and_the_copy_is_independent(self) -> None:
        part = self.made()
        expected = self.output(part)
        twin = copy.deepcopy(part)
        self.close(self.output(twin), expected)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.1)
        self.close(self.output(part), expected)

    def test_round_trip_through_a_state_dict(self) -> None:
        part, fresh = self.made(), self.made(seed=1)
        fresh.load_state_dict(part.state_dict())
        self.close(self.output(fresh), self.output(part))

    def test_state_is_tensors(self) -> None:
        others = [k for k, v in self.build().state_dict().items() if not isinstance(v, Tensor)]
        assert not others, f"entries of the state dict that are not tensors: {others}"

    def test_precision_is_that_of_the_parameters(self) -> None:
        for dtype in (torch.float32, torch.float64):
            part = self.made(dtype=dtype)
            found = self.output(part).dtype
            assert found == dtype or not list(part.parameters()), f"{found} instead of {dtype}"

    def close(self, value: Tensor, expected: Tensor) -> None:
        """Fail unless the two agree within the tolerance."""
        torch.testing.assert_close(value, expected, atol=self.tolerance, rtol=self.tolerance)


def check_samples(samples: Tensor, log_prob: Tensor) -> None:
    """Fail unless samples ``(N, D)`` follow a density that integrates to one.

    For samples of p and any density q, the weights ``q / p`` have mean 1 and estimate the moments
    of q. Here q is a normal distribution that is somewhat narrower than the samples.
    """
    mean = samples.mean(0)
    covariance = 0.7 * torch.cov(samples.T).reshape(len(mean), len(mean))
    narrower = dist.MultivariateNormal(mean, covariance)
    weight = (narrower.log_prob(samples) - log_prob).exp().unsqueeze(-1)
    check_mean(weight, torch.ones_like(weight[0]), "the integral of the density")
    standardized = (samples - mean) / samples.std(0)
    check_mean(weight * standardized, torch.zeros_like(mean), "moments under the density")


def check_mean(values: Tensor, expected: Tensor, what: str) -> None:
    """Fail unless the mean of values ``(N, *)`` is within five standard errors of the expected."""
    error = values.std(0) / len(values) ** 0.5
    difference = (values.mean(0) - expected).abs()
    assert (error < 0.2).all(), (
        f"{what}: the estimate is too noisy, with standard errors up to {error.max():.2g}: make an "
        "instance with fewer dimensions"
    )
    assert (difference < 5 * error + 1e-6).all(), (
        f"{what}: samples give {values.mean(0).tolist()} with standard errors {error.tolist()}, "
        f"expected {expected.tolist()}"
    )
