"""The sparse convolution equals torch's dense one, in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.nn import CausalConv2d


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 6), st.integers(1, 7), st.integers(1, 4), st.integers(1, 9),
    st.integers(0, 5), st.integers(0, 9), st.sampled_from([0.0, 0.2, 1.0]), st.integers(0, 99),
)  # fmt: skip
def test_equals_the_dense_convolution(size, height, width, rows, columns, up, left, density, seed):
    torch.manual_seed(seed)
    layer = CausalConv2d(1, 3, (rows, columns), first_offset=(-up, -left), sparse=True).double()
    x = torch.randn(size, 1, height, width, dtype=torch.float64)
    x = x * (torch.rand(x.shape) < density)
    grads = []
    for sparse in (True, False):
        layer.sparse = sparse
        out = layer(x)
        grads.append([out, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])
    for fast, slow in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow)


def test_dense_where_the_input_requires_a_gradient():
    layer = CausalConv2d(1, 2, (1, 3), first_offset=(0, -3), sparse=True)
    x = torch.ones(1, 1, 2, 5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_the_places_of_the_pixels_are_not_read_from_a_gpu():
    layer = CausalConv2d(1, 2, (1, 3), first_offset=(0, -3), sparse=True).eval().to("meta")
    assert layer.bias.device.type == "meta"  # a device that nothing can be read from
    assert layer(torch.zeros(4, 1, 2, 5, device="meta")).shape == (4, 2, 2, 5)


@pytest.mark.parametrize("options", [{"in_channels": 2}, {"in_channels": 1, "dilation": 2}])
def test_other_layers_cannot_be_sparse(options):
    with pytest.raises(ValueError, match="one input channel and no dilation"):
        CausalConv2d(out_channels=2, kernel_size=3, sparse=True, **options)
