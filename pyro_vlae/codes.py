"""What codes hold: a linear probe of them, and paths between them."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """How well a linear classifier reads classes from codes.

    Attributes:
        accuracy: share of the test codes classified correctly.
        standard_error: of the accuracy, from having so many test codes only.
    """

    accuracy: float
    standard_error: float


def linear_probe(
    train_codes: Tensor, train_labels: Tensor, test_codes: Tensor, test_labels: Tensor
) -> Probe:
    """Fit a multinomial logistic regression (scikit-learn's, its default penalty) to codes.

    Codes are taken as they are: standardising would blow up dimensions that hold nothing.

    Args:
        train_codes: ``(N, D)``, such as the means of `pyro_vlae.infer.code_marginals`.
        train_labels: ``(N,)``, integers.
        test_codes: ``(M, D)``.
        test_labels: ``(M,)``.
    """
    classifier = LogisticRegression(max_iter=2000)
    classifier.fit(train_codes.cpu().numpy(), train_labels.cpu().numpy())
    accuracy = float(classifier.score(test_codes.cpu().numpy(), test_labels.cpu().numpy()))
    return Probe(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(test_labels)))


@torch.no_grad()
def interpolate_codes(
    prior: dist.TorchDistribution, start: Tensor, end: Tensor, steps: int
) -> Tensor:
    """Codes between two codes, along the arc between the noise that a flow prior makes them of.

    A straight line between two codes leaves where a prior puts its mass: in many dimensions
    Gaussian noise lies near a sphere. So both codes are brought to noise, the noise is turned from
    the one to the other, its length changed evenly, and brought back.

    Args:
        prior: a standard normal, or a flow of one, as `StandardNormalPrior` and `FlowPrior` give.
        start: ``(*batch, code_dim)``.
        end: likewise.
        steps: number of codes, both ends included.

    Returns:
        ``(steps, *batch, code_dim)``.

    References:
        White, "Sampling Generative Networks", 2016, arXiv:1609.04468 (spherical interpolation).
    """
    transforms = getattr(prior, "transforms", [])
    ends = []
    for noise in (start, end):
        for transform in reversed(transforms):
            noise = transform.inv(noise)
        ends.append(noise)
    lengths = [noise.norm(dim=-1, keepdim=True) for noise in ends]
    first, last = (noise / length for noise, length in zip(ends, lengths, strict=True))
    angle = (first * last).sum(-1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).arccos()
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
    share = share.view(-1, *[1] * start.dim())
    path = (((1 - share) * angle).sin() * first + (share * angle).sin() * last) / angle.sin()
    codes = path * (lengths[0] + share * (lengths[1] - lengths[0]))
    for transform in transforms:
        codes = transform(codes)
    return codes
