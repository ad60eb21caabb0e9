"""Piano rolls of different lengths, as a Pyro distribution over a padded batch."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vlae.distributions.particle_filter import ParticleFilter
from pyro_vlae.distributions.pixelcnn import PixelCNN
from pyro_vlae.distributions.sampling import go_through


class _Keys(constraints.Constraint):
    """0, 1, or -1 for padding."""

    def check(self, value: Tensor) -> Tensor:
        return (value == 0) | (value == 1) | (value == -1)


class PianoRoll(TorchDistribution):
    """A `PixelCNN` over frames, in which frames after the end of a piece are not scored.

    Values are rolls ``(*batch, 1, T, keys)`` of keys 0 and 1. After the end of a piece, samples are
    -1, and values are ignored.

    Args:
        frames: a `PixelCNN` with event shape ``(1, T, keys)``, or ``(keys, T, 1)`` if its channels
            are the keys.
        lengths: frames of each piece, ``(*batch)``, broadcast against the batch shape.
        validate_args: as in every Pyro distribution.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.independent(_Keys(), 3)
    has_rsample = False

    def __init__(
        self, frames: PixelCNN, lengths: Tensor, validate_args: bool | None = None
    ) -> None:
        self.frames = frames
        self.lengths = lengths.expand(frames.batch_shape)
        channels, length, columns = frames.event_shape
        shape = torch.Size((1, length, channels * columns))
        super().__init__(frames.batch_shape, shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PianoRoll":
        """The same distribution over a larger batch shape."""
        return PianoRoll(self.frames.expand(batch_shape), self.lengths, self._validate_args)

    @property
    def is_real(self) -> Tensor:
        """The frames before the end, ``(*batch, T)`` bool."""
        place = torch.arange(self.event_shape[1], device=self.lengths.device)
        return place < self.lengths.unsqueeze(-1)

    def frame_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each frame given those before it, 0 after the end.

        Args:
            value: rolls ``(*shape, 1, T, keys)``.

        Returns:
            ``(*shape', T)`` nats.

        Raises:
            ValueError: the rolls have the wrong shape or, under validation, other values.
        """
        if value.shape[-3:] != self.event_shape:
            raise ValueError(
                f"expected rolls of shape (*batch, {', '.join(map(str, self.event_shape))}), got "
                f"{tuple(value.shape)}"
            )
        if self._validate_args:
            self._validate_sample(value)
            if ((value < 0).any(-1).squeeze(-2) & self.is_real).any():
                raise ValueError(
                    "the rolls hold -1 (padding) before the end of their pieces: a key must be 0 "
                    "or 1 there; set it to 0, or give the lengths of the pieces"
                )
        frames = self.frames.pixel_log_prob(self._image(value)).sum(-1)
        return torch.where(self.is_real, frames, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of rolls ``(*shape, 1, T, keys)``: ``(*shape')`` nats."""
        return self.frame_log_prob(value).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Sample rolls exactly: ``(*sample_shape, *batch_shape, 1, T, keys)``."""
        return self._padded(self.frames.sample(sample_shape))

    @torch.no_grad()
    def complete(self, value: Tensor, known: Tensor) -> Tensor:
        """Sample the unknown frames of rolls from their exact conditional given the known ones.

        Args:
            value: rolls ``(*shape, 1, T, keys)``; their unknown frames are ignored.
            known: bool, ``(*shape, T)``: the frames to keep, usually the first ones.

        Raises:
            ValueError: a known frame has an unknown one in its window, see `PixelCNN.complete`.
        """
        columns = self.frames.event_shape[-1]
        known = known.unsqueeze(-1).expand(*known.shape, columns)
        return self._padded(self.frames.complete(self._image(value), known))

    @torch.no_grad()
    def resample(self, value: Tensor, known: Tensor, particles: int = 256) -> tuple[Tensor, Tensor]:
        """Sample keys given any others, approximately: by a particle filter over frames.

        Known keys may come later than unknown ones, such as a melody above unknown lower voices.
        Each particle samples the unknown keys of a frame in order, given the keys before them, and
        is weighted by the probability of the known ones. When the effective sample size at the end
        of a frame is below half the number of particles, they are resampled. In the end, one is
        chosen by weight. The result is exact in the limit of many particles.

        Args:
            value: rolls ``(N, 1, T, keys)``, with the batch shape of this distribution.
            known: bool, ``(N, 1, T, keys)``: the keys to keep.
            particles: particles for each roll.

        Returns:
            Rolls ``(N, 1, T, keys)``, and for each the smallest effective sample size at the end of
            a frame, before resampling, ``(N,)``.

        Raises:
            ValueError: a shape is wrong, ``known`` is not bool, or there are no particles.
        """
        shape = (*self.batch_shape, *self.event_shape)
        if not value.shape == known.shape == shape or known.dtype != torch.bool:
            raise ValueError(
                f"value and known must have shape {shape}, and known must be bool; got "
                f"{tuple(value.shape)} and {tuple(known.shape)}, {known.dtype}"
            )
        if particles < 1:
            raise ValueError(f"particles must be at least 1, got {particles}")
        frames = self.frames
        scored = known & self.is_real.unsqueeze(-1).unsqueeze(-3)
        image = self._image(value)
        filtered = ParticleFilter(image, self._image(scored.to(image)) > 0, particles)
        maps = frames._flat_context(torch.Size((particles, *self.batch_shape)))
        images = torch.zeros_like(image).repeat(particles, 1, 1, 1)
        go_through(frames.network, frames.emission, maps, images, filtered.choose, filtered.select)
        chosen = torch.multinomial(filtered.log_weight.softmax(0).T, 1).squeeze(-1)
        own = torch.arange(len(chosen), device=chosen.device)
        rolls = images.unflatten(0, (particles, -1))[chosen, own]
        return self._padded(rolls), filtered.smallest_size

    def _image(self, rolls: Tensor) -> Tensor:
        """Rolls as images of the `PixelCNN`, with silence after the end."""
        rolls = rolls.clamp(min=0)
        if self.frames.event_shape == self.event_shape:
            return rolls
        return rolls.movedim(-1, -3).movedim(-2, -1)

    def _padded(self, image: Tensor) -> Tensor:
        """Images of the `PixelCNN` as rolls, with -1 after the end."""
        if self.frames.event_shape != self.event_shape:
            image = image.movedim(-3, -1).movedim(-2, -3)
        return torch.where(self.is_real.unsqueeze(-1).unsqueeze(-3), image, -1.0)
