"""What a linear classifier reads from codes."""

import math
from dataclasses import dataclass

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

    Codes are taken as they are: standardizing would blow up dimensions that hold nothing.

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
