"""A linear probe of codes."""

import math
from typing import NamedTuple

from torch import Tensor


class Probe(NamedTuple):
    """Accuracy of a linear classifier on test codes, and its standard error over these codes."""

    accuracy: float
    standard_error: float


def linear_probe(
    train_codes: Tensor, train_labels: Tensor, test_codes: Tensor, test_labels: Tensor
) -> Probe:
    """Fit scikit-learn's logistic regression to codes and test it on others.

    Codes are not standardized: that would amplify dimensions without information.

    Args:
        train_codes: ``(N, D)``, such as the means of `code_marginals`.
        train_labels: integers ``(N,)``.
        test_codes: ``(M, D)``.
        test_labels: integers ``(M,)``.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    classifier = LogisticRegression(max_iter=2000)
    classifier.fit(train_codes.cpu().numpy(), train_labels.cpu().numpy())
    accuracy = float(classifier.score(test_codes.cpu().numpy(), test_labels.cpu().numpy()))
    return Probe(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(test_labels)))
