"""A linear probe: how well labels can be predicted from codes."""

import math
from typing import NamedTuple

from torch import Tensor


class Probe(NamedTuple):
    """Accuracy of a linear classifier on test codes, and its standard error."""

    accuracy: float
    standard_error: float


def linear_probe(
    train_codes: Tensor, train_labels: Tensor, test_codes: Tensor, test_labels: Tensor
) -> Probe:
    """Fit scikit-learn's logistic regression to the train codes and test it on the others.

    Codes are ``(N, code_dim)``, such as the means of `code_marginals`; labels are integers
    ``(N,)``. Codes are not standardized: that would amplify dimensions without information.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    classifier = LogisticRegression(max_iter=2000)
    classifier.fit(train_codes.cpu().numpy(), train_labels.cpu().numpy())
    accuracy = float(classifier.score(test_codes.cpu().numpy(), test_labels.cpu().numpy()))
    return Probe(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(test_labels)))
