"""The contract of PixelCNN networks."""

import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_vlae.distributions import Emission
from pyro_vlae.distributions.sampling import Front, emission_layout, go_through
from pyro_vlae.models import PixelCNNLikelihood
from pyro_vlae.testing.likelihood import LikelihoodContract


class NetworkContract(LikelihoodContract):
    """Tests of a network for `pyro_vlae.distributions.PixelCNN`, also as part of a likelihood.

    The network must read a context: there are no tests of unconditional ones.

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

    def test_a_channel_depends_on_channels_before_it_only(self) -> None:
        if not self.channel_autoregressive:
            return
        likelihood = cast(PixelCNNLikelihood, self.made())
        context = self.features(8)
        p, (x, others) = likelihood(context), self.images(likelihood, 2, 8)
        for row, column in itertools.product(*map(range, x.shape[-2:])):
            pixel = (..., slice(row, row + 1), slice(column, column + 1))
            for channel in range(x.shape[1]):
                changed = x.clone()
                changed[:, channel:, row, column] = others[:, channel:, row, column]
                with torch.no_grad():
                    after, before = (likelihood.network(y, context)[pixel] for y in (changed, x))
                known = x[pixel]
                same = _sampled(p.emission, after, known, channel)
                assert torch.equal(same, _sampled(p.emission, before, known, channel)), (
                    f"channel {channel} depends on itself or later channels of the same pixel"
                )

    def test_sampling_uses_the_parameters_of_a_full_pass(self) -> None:
        likelihood = cast(PixelCNNLikelihood, self.made())
        context = self.features(3)
        p, x = likelihood(context), self.images(likelihood, 3)
        with torch.no_grad():
            full = likelihood.network(x, context)

        def choose(parameters: Tensor, pixels: Tensor, front: Front) -> Tensor:
            expected = full[:, :, front.rows, front.columns].unsqueeze(2)
            if self.channel_autoregressive:
                channel = front.channels.start
                sampled = _sampled(p.emission, parameters, pixels, channel)
                self.close(sampled, _sampled(p.emission, expected, pixels, channel))
            else:
                self.close(parameters, expected)
            return front.of(x)

        def unread(parameters: Tensor) -> Any:
            return parameters

        go_through(likelihood.network, cast(Emission, unread), context, x.clone(), choose)

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


def _sampled(emission: Emission, parameters: Tensor, pixels: Tensor, channel: int) -> Tensor:
    """Many samples of a channel, always with the same noise: any change of parameters shows."""
    distribution: Any = emission(parameters)
    known = emission_layout(distribution, pixels)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return torch.stack([distribution.sample_channel(channel, known) for _ in range(30)])
