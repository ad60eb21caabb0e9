"""Drawing images from an autoregressive network, all of them or the unknown part of them."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyro_vlae.nn.threads import single_threaded
from pyro_vlae.nn.wavefront import wavefront_slope, wavefronts

# Up to so many images times features the products of a wavefront are too small for more threads.
SMALL = 4096

Front = tuple[Tensor, Tensor]  # rows and columns of pixels that can be drawn together


class PixelRun(Protocol):
    """One pass over a batch of images whose pixels become known front by front.

    For a channel-autoregressive network `parameters` and `write` are called once per front and
    channel, in turn.
    """

    # Optional: `filters`, maps of a hidden layer, tells how much there is to compute at a pixel.

    @property
    def wavefronts(self) -> Sequence[Front]:
        """The fronts, in the order in which they can be drawn."""

    def parameters(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The emission's parameters at P pixels, ``(N, channels, 1, P)``.

        Channel by channel, those right for the channel to come are enough.
        """

    def write(self, rows: Tensor, columns: Tensor, pixels: Tensor) -> None:
        """Make the values ``(N, C, 1, P)`` of P pixels known.

        Channel by channel, up to the channel whose parameters were asked for last.
        """


class FullPasses:
    """The slow way, for networks that cannot be evaluated pixel by pixel: a full pass per front.

    (For a channel-autoregressive network, a pass per front and channel.) With ``network.window()``
    (offsets of the pixels that are read) fronts are wavefronts; without, single pixels in raster
    order.
    """

    def __init__(self, network: nn.Module, context: Tensor | None, image: Tensor) -> None:
        self.network, self.context, self.image = network, context, image
        height, width = image.shape[-2:]
        window: Any = getattr(network, "window", None)
        slope = width if window is None else wavefront_slope(window())
        self.wavefronts = wavefronts(height, width, slope, image.device)

    def parameters(self, rows: Tensor, columns: Tensor) -> Tensor:
        """See `PixelRun`."""
        return self.network(self.image, self.context)[:, :, rows, columns].unsqueeze(2)

    def write(self, rows: Tensor, columns: Tensor, pixels: Tensor) -> None:
        """See `PixelRun`."""
        self.image[:, :, rows, columns] = pixels.squeeze(2)


def draw_pixels(
    network: Any, context: Tensor | None, image: Tensor, known: Tensor | None = None
) -> Tensor:
    """Draw images in place, each pixel from its conditional given the pixels before it.

    Args:
        network: see `pyro_vlae.distributions.PixelCNN`.
        context: ``(N, K, H, W)`` or None.
        image: ``(N, C, H, W)``; what is not known is overwritten.
        known: ``(N, H, W)``, where the image's own values stay; None for nowhere.
    """
    run: PixelRun
    if hasattr(network, "incremental"):
        run = network.incremental(context, len(image), *image.shape[-2:])
    else:
        # Unknown pixels are zero until drawn: no later value may stand where it might be read.
        blank = image.new_zeros(image.shape)
        run = FullPasses(network, context, blank)
    in_turn = getattr(network, "channel_autoregressive", False)
    with single_threaded(
        len(image) * getattr(run, "filters", math.inf) <= SMALL and not image.is_cuda
    ):
        for rows, columns in run.wavefronts:
            pixels = image.new_zeros(*image.shape[:2], 1, len(rows))
            if known is not None:
                given = image[:, :, rows, columns].unsqueeze(2)
                keep = known[:, None, None, rows, columns].expand_as(given)
            for channels in range(image.shape[1]) if in_turn else [slice(None)]:
                emission = network.emission(run.parameters(rows, columns))
                drawn = _draw(emission, pixels, channels)
                if known is not None:
                    drawn = torch.where(keep[:, channels], given[:, channels], drawn)
                pixels[:, channels] = drawn
                run.write(rows, columns, pixels)
            image[:, :, rows, columns] = pixels.squeeze(2)
    return image


def emission_layout(emission: Any, pixels: Tensor) -> Tensor:
    """Pixels ``(N, C, H, W)`` as an emission takes them: last if the channels are its event."""
    return pixels.movedim(1, -1) if emission.event_shape else pixels


def _draw(emission: Any, pixels: Tensor, channels: int | slice) -> Tensor:
    """All channels of pixels ``(N, C, 1, P)`` at once, or one given those before it."""
    if isinstance(channels, int):
        return emission.sample_channel(channels, emission_layout(emission, pixels))
    drawn = emission.sample()
    return drawn.movedim(-1, 1) if emission.event_shape else drawn


def check_completable(network: nn.Module, known: Tensor) -> None:
    """Raise a ValueError unless no known pixel depends on an unknown one.

    Then the conditionals of the unknown pixels multiply to the exact conditional distribution;
    otherwise what is known would also say something about pixels drawn before it.

    Args:
        network: its ``window()`` says which pixels a pixel depends on; without, all earlier ones.
        known: ``(N, H, W)`` bool.
    """
    height, width = known.shape[-2:]
    window: Any = getattr(network, "window", None)
    if window is None:
        flat = known.flatten(1)
        unknown_before = (~flat).cumsum(1) > 0
        wrong = (flat & unknown_before).view(known.shape)
    else:
        wrong = torch.zeros_like(known)
        for i, j in window():
            if -i >= height or abs(j) >= width:
                continue
            rows, source_rows = slice(-i, height), slice(0, height + i)
            columns = slice(max(0, -j), width - max(0, j))
            source_columns = slice(max(0, j), width + min(0, j))
            wrong[:, rows, columns] |= (
                known[:, rows, columns] & ~known[:, source_rows, source_columns]
            )
    if wrong.any():
        _, row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"pixel ({row}, {column}) is known but depends on unknown pixels before it, so the "
            "exact conditional does not factorize. Known pixels may only have known ones in "
            "their window: rows from the top are allowed, and so is any beginning of the raster "
            "order. For other patterns draw many images and resample them by their likelihood"
        )
