import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.nn import ColorPixelCNN, MaskedResNet, TwoStackNet, wavefronts
from pyro_vlae.nn.causal import MaskedConv2d
from pyro_vlae.nn.wavefront import FrontCache, wavefront_slope


@given(height=st.integers(1, 12), width=st.integers(1, 12), slope=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_wavefronts_visit_every_pixel_once(height, width, slope):
    pixels = [
        (int(i), int(j))
        for rows, columns in wavefronts(height, width, slope)
        for i, j in zip(rows, columns, strict=True)
    ]
    assert sorted(pixels) == [(i, j) for i in range(height) for j in range(width)]


def test_82_steps_for_28x28_with_3x3_kernels():
    conv = MaskedConv2d(5, 4, 3, image_channels=1)
    slope = wavefront_slope(conv.taps(slice(1)), conv.taps(slice(1, None)))
    assert slope == 2
    assert len(wavefronts(28, 28, slope)) == 82


@pytest.mark.parametrize("channels", [slice(2), slice(2, None), slice(None), slice(1, 3)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_taps_are_where_the_mask_is(kernel, channels):
    conv = MaskedConv2d(4, 2, kernel, image_channels=2)
    places = (conv.mask[0, channels].amax(0) > 0).nonzero() - kernel // 2
    assert conv.taps(channels) == [tuple(place) for place in places.tolist()]
    used = conv.tap_weight(channels).reshape(len(places), -1, 2).permute(2, 1, 0)
    for (i, j), weight in zip(places.tolist(), used.unbind(-1), strict=True):
        full = conv.weight()[:, channels, i + kernel // 2, j + kernel // 2]
        torch.testing.assert_close(weight, full)


@pytest.mark.parametrize(
    "network", [MaskedResNet(1, 0), TwoStackNet(1, 0, 4, "5x3"), ColorPixelCNN(0, 4, "5x3")]
)
def test_what_was_computed_dies_with_the_run(network):
    """Cycles of references would keep the memory until Python looks for garbage."""
    gc.disable()
    try:
        run = network.incremental(None, 2, 6, 6)
        run.parameters(*run.wavefronts[0])
        caches = [weakref.ref(o) for o in gc.get_objects() if type(o) is FrontCache]
        del run
        assert len(caches) > 2
        assert not any(cache() for cache in caches)
    finally:
        gc.enable()


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_slope_of_a_kernel(kernel):
    conv = MaskedConv2d(2, 2, kernel, image_channels=1)
    expected = kernel // 2 + 1
    assert wavefront_slope(conv.taps(slice(1)), conv.taps(slice(1, None))) == expected


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
