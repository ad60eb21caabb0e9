"""Nearest neighbors: whether similar codes mean similar images."""

import torch
from torch import Tensor


def nearest_neighbors(features: Tensor) -> Tensor:
    """Find the nearest other vector of each vector, by Euclidean distance.

    Args:
        features: vectors, ``(N, D)``, at least two, such as codes or flattened images; integers
            are converted to ``float32``.

    Returns:
        Their indices, ``int64`` of shape ``(N,)``.

    Raises:
        ValueError: the shape is wrong, or there are fewer than two vectors.
    """
    if features.dim() != 2 or len(features) < 2:
        shape = tuple(features.shape)
        raise ValueError(f"expected two or more vectors, shape (N, D), got shape {shape}")
    if not features.is_floating_point():
        features = features.float()
    features = features - features.mean(0)  # cdist is inaccurate far from the origin
    return torch.cdist(features, features).fill_diagonal_(torch.inf).argmin(1)
