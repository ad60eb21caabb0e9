"""What a code decides, on small models whose use of the code is known."""

import pytest
import torch

from pyro_vlae.code_figures import (
    draw_interpolations,
    plot_code_swap,
    plot_interpolations,
    swap_codes,
)
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.models import binary_vlae

SHAPE = (1, 8, 8)


def small(**options):
    model = binary_vlae(code_dim=4, image_shape=SHAPE, flow_hidden_dims=(8,), filters=4, **options)
    guide = GaussianGuide(code_dim=4, image_shape=SHAPE)
    x = torch.rand(6, *SHAPE).round()
    model(x), guide(x)
    return model, guide, x


def ignore_code(model):
    with torch.no_grad():
        model.decoder.last.scale.zero_()


def test_without_a_use_for_the_code_a_path_stands_still():
    model, guide, x = small()
    moving = draw_interpolations(model, guide, x, steps=3)
    assert moving.shape == (3, 3, *SHAPE)
    assert torch.equal(moving, draw_interpolations(model, guide, x, steps=3))
    assert not torch.equal(moving[0], moving[-1])
    ignore_code(model)
    still = draw_interpolations(model, guide, x, steps=3)
    assert torch.equal(still, still[:1].expand_as(still))
    assert len(plot_interpolations(x, still).axes[0].images) == 3 * (3 + 2)


def test_a_swap_keeps_the_upper_half_and_counts_what_the_code_was_worth():
    model, guide, x = small()
    state = torch.get_rng_state()
    swap = swap_codes(model, guide, x)
    assert torch.equal(torch.get_rng_state(), state)
    for images in (swap.own, swap.swapped):
        assert torch.equal(images[..., :4, :], x[..., :4, :])
    assert swap.lost.shape == (6, 8, 8) and swap.lost.abs().max() > 1e-4
    assert len(plot_code_swap(swap).axes[0].images) == 5 * 6
    ignore_code(model)
    assert not swap_codes(model, guide, x).lost.any()


def test_a_factorised_likelihood_cannot_complete():
    model, guide, x = small(likelihood="bernoulli")
    with pytest.raises(ValueError, match="completed by a PixelCNN"):
        swap_codes(model, guide, x)
