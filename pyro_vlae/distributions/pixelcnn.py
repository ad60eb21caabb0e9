"""An autoregressive image likelihood as a Pyro distribution.

References:
    van den Oord et al., "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759.
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 2.3.
"""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vlae.distributions.sampling import check_completable, draw_pixels, emission_layout

# Values drawn at once (4096 binary images, 1045 CIFAR images): bounds the memory of `sample`,
# large enough that steps are not overhead.
SAMPLE_CHUNK = 4096 * 28 * 28


class PixelCNN(TorchDistribution):
    """Images whose pixels are drawn in raster order, each from the pixels before it and a context.

    ``log p(x | context) = sum_i log p(x_i | window(x, i), context)``. The log-density is one
    parallel pass of the network; sampling is exact.

    Args:
        network: maps images ``(N, C, H, W)`` and context ``(N, K, H, W)`` (or None) to parameters
            ``(N, P, H, W)``; ``network.emission(parameters)`` is the distribution of the pixels,
            whose samples have shape ``(N, C, H, W)`` and whose log_prob is ``(N, C, H, W)`` or
            ``(N, H, W)``, or which has batch shape ``(N, H, W)`` and event shape ``(C,)``;
            ``network.image_channels`` is C. The parameters at a pixel must depend on earlier
            pixels (in raster order) only; if ``network.channel_autoregressive`` is true, those of
            a channel may also depend on the pixel's own earlier channels, and pixels are drawn
            by ``emission.sample_channel(channel, pixels)``, channel by channel.
            ``network.support``, if there, is the constraint on a pixel's value. With
            ``network.incremental`` (as in `pyro_vlae.nn.MaskedResNet`) sampling computes each pixel
            once, many together; otherwise it makes a full pass per wavefront if
            ``network.window()`` tells the offsets of the pixels that are read, and a full pass per
            pixel if not.
        context: feature maps ``(*batch_shape, K, H, W)``; they fix batch shape and image size.
        image_shape: ``(C, H, W)``, needed when there is no context, and only then.
        validate_args: as in every Pyro distribution.

    The event shape is ``(C, H, W)``. Values broadcast against the batch shape.

    Raises:
        ValueError: context and image_shape are both given or both missing, the context has fewer
            than three dimensions, or its maps are not as many as the network reads.
    """

    has_rsample = False

    def __init__(
        self,
        network: nn.Module,
        context: Tensor | None,
        image_shape: tuple[int, int, int] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (context is None) == (image_shape is None):
            raise ValueError(
                "give either a context (*batch, K, H, W) or, for an unconditional PixelCNN, "
                f"context=None and image_shape=(C, H, W); got context "
                f"{None if context is None else tuple(context.shape)} and image_shape {image_shape}"
            )
        self.network = network
        self.context = context
        batch_shape = torch.Size()
        if image_shape is None:
            assert context is not None
            if context.dim() < 3:
                raise ValueError(
                    "context must have shape (*batch, K, height, width), got "
                    f"{tuple(context.shape)}"
                )
            wanted = getattr(network, "context_channels", context.shape[-3])
            if context.shape[-3] != wanted:
                raise ValueError(
                    f"the network reads {wanted} context maps, got context of shape "
                    f"{tuple(context.shape)}: build decoder and network with the same number"
                )
            image_shape = (int(network.image_channels), *context.shape[-2:])  # type: ignore[arg-type]
            batch_shape = context.shape[:-3]
        elif len(image_shape) != 3 or image_shape[0] != network.image_channels:
            raise ValueError(
                f"image_shape must be (channels, height, width) with the network's "
                f"{network.image_channels} channels, got {tuple(image_shape)}"
            )
        if context is None and getattr(network, "context_channels", None):
            raise ValueError(
                f"the network reads {network.context_channels} context maps, got context=None: "
                "build it with context_channels=0"
            )
        super().__init__(batch_shape, torch.Size(image_shape), validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The context, where there is one, is real."""
        if self.context is None:
            return {}
        return {"context": constraints.independent(constraints.real, 3)}

    @property
    def support(self) -> constraints.Constraint:
        """Images of pixels in the network's support (real unless the network says)."""
        pixel = getattr(self.network, "support", constraints.real)
        return constraints.independent(pixel, 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PixelCNN":
        """The same distribution over a larger batch shape; the context is not copied."""
        new = self._get_checked_instance(PixelCNN, _instance)
        batch_shape = torch.Size(batch_shape)
        new.network = self.network
        new.context = self.context
        if self.context is not None:
            new.context = self.context.expand(batch_shape + self.context.shape[-3:])
        super(PixelCNN, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def parameters(self, value: Tensor) -> Tensor:
        """The network's parameters given images ``(*shape, C, H, W)``: ``(*shape', P, H, W)``."""
        shape = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        context = self.context
        if context is not None:
            context = context.expand(*shape, *context.shape[-3:]).reshape(-1, *context.shape[-3:])
        flat = value.expand(*shape, *self.event_shape).reshape(-1, *self.event_shape)
        out = self.network(flat, context)
        return out.reshape(*shape, *out.shape[1:])

    def pixel_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each pixel given those before it.

        Args:
            value: images ``(*shape, C, H, W)``, broadcast against the batch shape.

        Returns:
            ``(*shape', H, W)`` nats, channels summed.

        Raises:
            ValueError: the images have another size or, under validation, values outside the
                support.
        """
        self._check_event_shape(value)
        if self._validate_args:
            self._validate_sample(value)
        parameters = self.parameters(value)
        shape = parameters.shape[:-3]
        value = value.expand(*shape, *self.event_shape)
        # Flattened, so that an emission only ever sees (N, P, H, W).
        emission = self.network.emission(parameters.reshape(-1, *parameters.shape[-3:]))  # type: ignore[operator]
        flat = value.reshape(-1, *self.event_shape)
        log_prob = emission.log_prob(emission_layout(emission, flat))
        if log_prob.dim() == 4:
            log_prob = log_prob.sum(1)
        return log_prob.reshape(*shape, *self.event_shape[1:])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of images ``(*shape, C, H, W)``: ``(*shape')`` nats."""
        return self.pixel_log_prob(value).sum((-2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw images exactly: ``(*sample_shape, *batch_shape, C, H, W)``.

        A network not yet initialized is sampled with its plain weights and stays uninitialized.
        """
        shape = self._extended_shape(sample_shape)
        like = self.context if self.context is not None else next(self.network.parameters())
        return self._draw(like.new_zeros(shape), None)

    @torch.no_grad()
    def complete(self, value: Tensor, known: Tensor) -> Tensor:
        """Draw the unknown pixels of images from their exact conditional given the known ones.

        For example the lower half of images, given codes and the upper half::

            known = (torch.arange(28) < 14).unsqueeze(1).expand(28, 28)
            model.likelihood(model.decoder(z)).complete(x, known)

        Args:
            value: images ``(*shape, C, H, W)``, broadcast against the batch shape; their unknown
                pixels do not matter.
            known: bool, broadcastable to ``(*shape, H, W)``: the pixels to keep.

        Returns:
            Images ``(*shape', C, H, W)``.

        Raises:
            ValueError: a known pixel has an unknown one in its window, so that the conditional
                distribution does not factorize along the raster order; or the images have another
                size.
        """
        self._check_event_shape(value)
        if known.dtype != torch.bool:
            raise ValueError(f"known must be a bool tensor, got {known.dtype}")
        shape = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        known = known.expand(*shape, *self.event_shape[1:])
        check_completable(self.network, known.reshape(-1, *known.shape[-2:]))
        return self._draw(value.expand(*shape, *self.event_shape).clone(), known)

    def _draw(self, image: Tensor, known: Tensor | None) -> Tensor:
        shape = image.shape[:-3]
        image = image.reshape(-1, *self.event_shape)
        context = self.context
        if context is not None:
            context = context.expand(*shape, *context.shape[-3:]).reshape(-1, *context.shape[-3:])
        if known is not None:
            known = known.reshape(-1, *self.event_shape[1:])
        chunk = max(1, SAMPLE_CHUNK // self.event_shape.numel())
        for start in range(0, len(image), chunk):
            part = slice(start, start + chunk)
            draw_pixels(
                self.network,
                None if context is None else context[part],
                image[part],
                None if known is None else known[part],
            )
        return image.reshape(*shape, *self.event_shape)

    def _check_event_shape(self, value: Tensor) -> None:
        if value.shape[-3:] != self.event_shape:
            raise ValueError(
                f"expected images of shape (*batch, {', '.join(map(str, self.event_shape))}) "
                f"(channels, height, width), got {tuple(value.shape)}; resize the images, or "
                "build decoder and likelihood for their size"
            )

    def _validate_sample(self, value: Tensor) -> None:
        self._check_event_shape(value)
        try:
            torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"images of batch shape {tuple(value.shape[:-3])} do not broadcast against the "
                f"context's batch shape {tuple(self.batch_shape)}"
            ) from error
        pixel = self.support.base_constraint  # type: ignore[attr-defined]
        valid = pixel.check(value)
        if not valid.all():
            wrong = value[~valid].flatten()
            hint = getattr(pixel, "hint", "check the scaling")
            if pixel is constraints.boolean:
                hint = "binarize gray images first (torch.bernoulli, or ImageSplit.batch)"
            if wrong.isnan().any():
                hint = "images hold NaN"
            raise ValueError(
                f"{wrong.numel()} of {value.numel()} pixel values are outside the support "
                f"{pixel}, the first one {wrong[0].item():.4g}: {hint}"
            )
