"""The contract of PixelCNN networks."""

from typing import cast

import torch
from torch import Tensor, nn

from pyro_vlae.models import PixelCNNLikelihood
from pyro_vlae.testing.likelihood import LikelihoodContract


class NetworkContract(LikelihoodContract):
    """Tests of a network for `pyro_vlae.distributions.PixelCNN`, also as part of a likelihood.

    Attributes:
        feature_shape: shape ``(K, H, W)`` of the context of one image.
        values: as in `LikelihoodContract`.
        channel_autoregressive: whether a channel's parameters may depend on earlier channels of
            the same pixel.
    """

    channel_autoregressive = False

    def build(self) -> nn.Module:
        return PixelCNNLikelihood(self.make())

    def test_parameters_depend_on_earlier_pixels_only(self) -> None:
        likelihood = cast(PixelCNNLikelihood, self.made())
        context = self.features(1).expand(8, *self.feature_shape)
        x, *others = self.images(likelihood, 9).flatten(2)
        channels = slice(-1 if self.channel_autoregressive else 0, None)

        def parameters(flat: Tensor) -> Tensor:
            return likelihood.network(flat.unflatten(2, context.shape[2:]), context).flatten(2)

        with torch.no_grad():
            before = parameters(x.expand(8, *x.shape))
            for position in range(x.shape[-1]):
                changed = x.repeat(8, 1, 1)
                changed[:, channels, position] = torch.stack(others)[:, channels, position]
                visible = slice(position + 1)
                self.close(parameters(changed)[..., visible], before[..., visible])

    def test_a_pixel_sees_the_context_at_its_own_place(self) -> None:
        likelihood = cast(PixelCNNLikelihood, self.made())
        context = self.features(1).requires_grad_()
        parameters = likelihood.network(self.images(likelihood, 1), context)
        (gradient,) = torch.autograd.grad(parameters[0, :, -1, -1].square().sum(), context)
        assert gradient[0, :, -1, -1].any()

    def test_images_of_any_size_are_scored(self) -> None:
        likelihood = self.made()
        for size in ((3, 3), (5, 4)):
            context = torch.randn(2, self.feature_shape[0], *size, dtype=torch.float64)
            p = likelihood(context)
            assert p.event_shape[1:] == size and p.log_prob(p.sample()).isfinite().all()

    def test_unknown_pixels_are_sampled_and_known_ones_kept(self) -> None:
        likelihood = self.made()
        x = self.images(likelihood, 3)
        known = torch.zeros(x.shape[-2:], dtype=torch.bool)
        known[0] = True
        done = likelihood(self.features(3)).complete(x, known)
        assert torch.equal(done[..., 0, :], x[..., 0, :])
        assert likelihood(self.features(3)).log_prob(done).isfinite().all()
