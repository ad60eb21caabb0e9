"""Nearest neighbors are others, and the nearest."""

import pytest
import torch

from pyro_vlae.analysis import nearest_neighbors


def test_neighbors_are_the_nearest_others():
    corners = torch.tensor([[0.0, 0], [10, 0], [0, 10]], dtype=torch.float64)
    near = corners + torch.tensor([0.0, 1])
    far = corners + torch.tensor([2.5, 0])
    assert nearest_neighbors(torch.cat([corners, near, far])).tolist() == [
        *(3, 4, 5),
        *(0, 1, 2),
        *(0, 1, 2),
    ]


def test_equal_vectors_are_each_other_s_neighbors():
    assert nearest_neighbors(torch.ones(2, 3)).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(1, 4), (4,), (2, 1, 4)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"\(N, D\), got shape \(" + str(shape[0])):
        nearest_neighbors(torch.zeros(shape))


def test_bytes_are_converted():
    x = torch.tensor([[0, 0], [250, 0], [3, 0]], dtype=torch.uint8)
    assert nearest_neighbors(x).tolist() == [2, 2, 0]


def test_far_from_the_origin_neighbors_are_the_same():
    torch.manual_seed(0)
    features = (torch.randn(200, 16) * 64).round() / 64  # exact, also with the offset
    assert torch.equal(nearest_neighbors(features + 4096), nearest_neighbors(features))
