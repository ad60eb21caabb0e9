"""Networks evaluated front by front compute what one full pass computes."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.nn import CausalConv2d, MaskedResNet, PixelCNNPlusPlusNet, TwoStackNet, wavefronts
from pyro_vlae.nn.fronts import FrontCache, wavefront_slope
from pyro_vlae.nn.tracing import plan
from pyro_vlae.nn.wavefront import WavefrontEvaluator


@given(height=st.integers(1, 12), width=st.integers(1, 12), slope=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_wavefronts_visit_every_pixel_once(height, width, slope):
    pixels = [
        (int(i), int(j))
        for rows, columns in wavefronts(height, width, slope)
        for i, j in zip(rows, columns, strict=True)
    ]
    assert sorted(pixels) == [(i, j) for i in range(height) for j in range(width)]


def test_82_fronts_for_28x28_with_3x3_kernels():
    slope = plan(MaskedResNet(), torch.zeros(1, 4, 3, 3)).slope
    assert slope == 2
    assert len(wavefronts(28, 28, slope)) == 82


@pytest.mark.parametrize("channels", [slice(2), slice(2, None), slice(None), slice(1, 3)])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2)])
def test_offsets_are_where_the_mask_is(kernel, dilation, channels):
    conv = CausalConv2d(4, 2, kernel, image_channels=2, dilation=dilation)
    places = (conv.mask[:, channels].amax((0, 1)) > 0).nonzero() - kernel // 2
    assert conv.offsets(channels) == tuple((i * dilation, j * dilation) for i, j in places.tolist())


@pytest.mark.parametrize(
    ("layer", "seen"),
    [
        (CausalConv2d(1, 1, (2, 3), first_offset=(-2, -1)), [(-2, -1), (-1, 1)]),
        (CausalConv2d(1, 1, (1, 2), first_offset=(0, -1)), [(0, -1), (0, 0)]),
        (CausalConv2d(1, 1, 1, first_offset=(0, -1)), [(0, -1), (0, -1)]),
        (CausalConv2d(1, 1, 3, dilation=2), [(-2, -2), (0, 0)]),
        (CausalConv2d(1, 1, (3, 5), image_channels=1), [(-1, -2), (0, -1)]),
    ],
    ids=str,
)
def test_a_causal_convolution_reads_its_offsets_and_nothing_else(layer, seen):
    x = torch.randn(1, 1, 9, 9, requires_grad=True)
    out = layer(x)
    assert out.shape == x.shape
    (gradient,) = torch.autograd.grad(out[0, 0, 4, 4], x)
    offsets = tuple((i - 4, j - 4) for i, j in gradient[0, 0].nonzero().tolist())
    assert offsets == layer.offsets() and [offsets[0], offsets[-1]] == seen


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize(("offset", "kernel"), [((-1, 2), 1), ((-2, 3), (1, 2)), ((-4, -5), 2)])
def test_pixels_outside_a_narrow_image_count_as_zero(offset, kernel, size):
    layer = CausalConv2d(2, 3, kernel, first_offset=offset)
    x = torch.randn(2, 2, size, size)
    wide = torch.nn.functional.pad(x, (0, 9, 0, 9))
    torch.testing.assert_close(layer(x), layer(wide)[..., :size, :size])


def test_a_causal_convolution_placed_by_hand_takes_no_mask():
    with pytest.raises(ValueError, match=r"first_offset=\(0, -1\) is not masked"):
        CausalConv2d(1, 1, (1, 2), 1, first_offset=(0, -1))


@pytest.mark.parametrize(
    "network", [MaskedResNet(1, 0), TwoStackNet(1, 0, 4, "5x3"), PixelCNNPlusPlusNet(0, 4, "5x3")]
)
def test_what_was_computed_is_freed_with_the_evaluator(network):
    """Cycles of references would keep the memory until Python looks for garbage."""
    plan(network)  # torch.fx itself leaves cycles behind, once for each network
    gc.disable()
    try:
        evaluator = WavefrontEvaluator(network, None, 2, 6, 6)
        next(iter(evaluator))
        caches = [weakref.ref(o) for o in gc.get_objects() if type(o) is FrontCache]
        del evaluator
        assert len(caches) > 2
        assert not any(cache() for cache in caches)
    finally:
        gc.enable()


def test_a_plan_does_not_keep_its_network():
    network = MaskedResNet(1, 0)
    plan(network)
    alive = weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_slope_of_a_kernel(kernel):
    network = MaskedResNet(1, 0, masked_layers=2, pointwise_blocks=0, kernel_size=kernel)
    assert plan(network).slope == kernel // 2 + 1
    assert wavefront_slope(CausalConv2d(1, 1, kernel, 1).offsets()) == kernel // 2 + 1


@given(
    kernel=st.sampled_from([3, 5]),
    layers=st.integers(1, 4),
    tied=st.booleans(),
    channels=st.integers(1, 2),
    context=st.integers(0, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_incremental_parameters_equal_the_full_pass(
    feed_by_wavefronts, kernel, layers, tied, channels, context, height, width, seed
):
    """Feed a fixed image wavefront by wavefront: the parameters are those of one full pass."""
    torch.manual_seed(seed)
    net = MaskedResNet(channels, context, 5, layers, min(2, layers), kernel, tied).double()
    x = torch.rand(3, channels, height, width, dtype=torch.float64)
    maps = torch.randn(3, context, height, width, dtype=torch.float64) if context else None
    net(x, maps)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        expected = net(x, maps)
        got = feed_by_wavefronts(net, x, maps)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)
