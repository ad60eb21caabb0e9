"""What a code controls, on small models whose use of the code is known."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vlae.analysis import interpolate_codes, interpolate_images, swap_codes
from pyro_vlae.guides import GaussianGuide, color_guide
from pyro_vlae.models import FlowPrior, StandardNormalPrior, binary_vlae, resnet_vlae
from pyro_vlae.nn import MapArchitecture
from pyro_vlae.plots import plot_code_swap, plot_interpolations

SHAPE = (1, 8, 8)


def small(**options):
    model = binary_vlae(
        code_dim=4, image_shape=SHAPE, flow_hidden_dims=(8,), pixelcnn_channels=4, **options
    )
    guide = GaussianGuide(code_dim=4, image_shape=SHAPE)
    x = torch.rand(6, *SHAPE).round()
    model(x), guide(x)
    return model, guide, x


def ignore_code(model):
    with torch.no_grad():
        model.decoder.last.scale.zero_()


def test_without_a_use_for_the_code_a_path_stands_still():
    model, guide, x = small()
    moving = interpolate_images(model, guide, x, count=3)
    assert moving.shape == (3, 3, *SHAPE)
    assert torch.equal(moving, interpolate_images(model, guide, x, count=3))
    assert not torch.equal(moving[0], moving[-1])
    ignore_code(model)
    still = interpolate_images(model, guide, x, count=3)
    assert torch.equal(still, still[:1].expand_as(still))
    assert len(plot_interpolations(x, still).axes[0].images) == 3 * (3 + 2)


def test_a_swap_keeps_the_upper_half_and_counts_what_the_code_was_worth():
    model, guide, x = small()
    state = torch.get_rng_state()
    swap = swap_codes(model, guide, x)
    assert torch.equal(torch.get_rng_state(), state)
    for images in (swap.own_code, swap.prior_code):
        assert torch.equal(images[..., :4, :], x[..., :4, :])
    assert swap.log_ratio.shape == (6, 8, 8) and swap.log_ratio.abs().max() > 1e-4
    assert len(plot_code_swap(swap).axes[0].images) == 5 * 6
    ignore_code(model)
    assert not swap_codes(model, guide, x).log_ratio.any()


def test_a_factorized_likelihood_cannot_complete():
    model, guide, x = small(likelihood="bernoulli")
    with pytest.raises(ValueError, match="only a PixelCNN can complete images"):
        swap_codes(model, guide, x)


@pytest.mark.parametrize("prior", [StandardNormalPrior(6), FlowPrior(6, 3, (12,))])
def test_a_path_between_codes_rotates_their_noise(prior):
    prior = prior.double()
    generator = torch.Generator().manual_seed(1)
    ends = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    path = interpolate_codes(prior(), *ends, count=5)
    assert path.shape == (5, 4, 6)
    torch.testing.assert_close(path[[0, -1]], ends)
    noise = path
    for transform in reversed(getattr(prior(), "transforms", [])):
        noise = transform.inv(noise)
    lengths = noise.norm(dim=-1)
    torch.testing.assert_close(lengths.diff(dim=0), lengths.diff(dim=0)[:1].expand(4, -1))
    unit = noise / lengths[..., None]
    angles = (unit[1:] * unit[:-1]).sum(-1).arccos()
    torch.testing.assert_close(angles, angles[:1].expand_as(angles))


def test_paths_are_for_standard_normal_noise():
    z = torch.randn(2, 3, 4)
    for prior in (dist.Normal(torch.full((4,), 10.0), 1.0).to_event(1), mixture()):
        with pytest.raises(ValueError, match="made of standard normal noise"):
            interpolate_codes(prior, *z, count=3)


def mixture():
    parts = dist.Normal(torch.tensor([[-1.0], [1.0]]).expand(2, 4), 1.0).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)


def test_sampling_leaves_an_untrained_pair_as_it_was():
    model = binary_vlae(code_dim=4, image_shape=SHAPE, flow_hidden_dims=(8,), pixelcnn_channels=4)
    guide = GaussianGuide(code_dim=4, image_shape=SHAPE)
    interpolate_images(model, guide, torch.rand(4, *SHAPE).round(), count=3)
    assert not guide.head.initialized and guide.training
    assert not len(pyro.get_param_store())


def test_color_images_are_plotted_after_conversion_to_the_unit_range():
    architecture = MapArchitecture((3, 8, 8), 2, (4, 4, 4))
    model = resnet_vlae("4x2", architecture, pixelcnn_channels=4, flow_channels=(4,))
    guide = color_guide(architecture)
    x = torch.randint(0, 256, (4, 3, 8, 8)) / 127.5 - 1

    def show(images):
        return (images + 1) / 2

    path = interpolate_images(model, guide, x, count=2)
    plot_interpolations(show(x), show(path))
    swap = swap_codes(model, guide, x)
    shown = swap.map(show)
    assert torch.equal(shown.prior_sample, show(swap.prior_sample))
    assert torch.equal(shown.log_ratio, swap.log_ratio)
    plot_code_swap(shown)
    with pytest.raises(ValueError, match=r"range from .* expected \[0, 1\]: .*to_unit_range"):
        plot_code_swap(swap)


def test_a_path_from_or_to_the_zero_code_is_straight():
    code, zero = torch.tensor([3.0, 0.0, 4.0]), torch.zeros(3)
    steps = torch.tensor([[0.0], [0.5], [1.0]])
    prior = StandardNormalPrior(3)()
    torch.testing.assert_close(interpolate_codes(prior, zero, code, 3), steps * code)
    torch.testing.assert_close(interpolate_codes(prior, code, zero, 3), steps.flip(0) * code)
    assert torch.equal(interpolate_codes(prior, zero, zero, 3), torch.zeros(3, 3))


def test_an_odd_number_of_images_has_no_pairs():
    with pytest.raises(ValueError, match=r"expected pairs of images .* got 3 images"):
        interpolate_images(None, None, torch.zeros(3, *SHAPE))
