"""An autoregressive image likelihood as a Pyro distribution.

References:
    van den Oord et al., "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759.
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 3.1.
"""

from contextlib import nullcontext
from functools import partial
from math import prod
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vlae.distributions.emissions import Emission, check_support, find_emission
from pyro_vlae.distributions.sampling import (
    Choose,
    check_completable,
    emission_layout,
    expand_mask,
    go_through,
    keep_known,
    sample_front,
)
from pyro_vlae.distributions.temperature import check_temperature
from pyro_vlae.nn import check_precision
from pyro_vlae.nn.causal import Offset
from pyro_vlae.nn.wavefront import window_of
from pyro_vlae.nn.weight_norm import initialization, initialization_allowed

# Values sampled at once (4096 binary images, 1045 CIFAR images): few enough to bound the memory of
# `sample`, enough to make the overhead of each front negligible.
SAMPLE_CHUNK = 4096 * 28 * 28


class PixelCNN(TorchDistribution):
    """Images sampled in raster order, each pixel given the pixels before it and a context.

    ``log p(x | context) = sum_i log p(x_i | window(x, i), context)``. The log-density is one
    parallel pass of the network; sampling is exact.

    Args:
        network: see `pyro_vlae.nn.PixelNetwork`; it maps images ``(N, C, H, W)`` and a context
            ``(N, K, H, W)`` (or None) to parameters ``(N, P, H, W)``, which depend on earlier
            pixels only.
        context: feature maps ``(*batch_shape, K, H, W)``, which set batch shape and image size.
        image_shape: ``(C, H, W)``, needed when there is no context, and only then.
        emission: maps the parameters to the distribution of the pixels, see
            `pyro_vlae.distributions.Emission`. The default is the network's own method
            ``emission``, or the emission named by its attribute ``outputs``.
        validate_args: as in every Pyro distribution.

    The event shape is ``(C, H, W)``. Values broadcast against the batch shape.

    Raises:
        ValueError: context and image_shape are both given or both missing, the context has fewer
            than three dimensions or another number of channels than the network reads, or the
            network does not define the meaning of its parameters.
    """

    has_rsample = False

    def __init__(
        self,
        network: nn.Module,
        context: Tensor | None,
        image_shape: tuple[int, int, int] | None = None,
        emission: Emission | None = None,
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
        self.emission = find_emission(network) if emission is None else emission
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
                    f"the network reads {wanted} context channels, got a context of shape "
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
                f"the network reads {network.context_channels} context channels, got context=None: "
                "build it with context_channels=0"
            )
        self._may_initialize = initialization_allowed()
        super().__init__(batch_shape, torch.Size(image_shape), validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The context, if there is one, is real."""
        if self.context is None:
            return {}
        return {"context": constraints.independent(constraints.real, 3)}

    @property
    def support(self) -> constraints.Constraint:
        """Images whose pixels are in the emission's support."""
        return constraints.independent(self.emission.support, 3)

    @property
    def window(self) -> frozenset[Offset] | None:
        """Offsets (row, column) of the other pixels that a pixel depends on, None if unknown."""
        return window_of(self.network, self._flat_context(self.batch_shape))

    @classmethod
    def infer_shapes(cls, **arg_shapes: Any) -> tuple[torch.Size, torch.Size]:
        """Not available: the number of image channels is the network's, in no tensor's shape."""
        raise NotImplementedError(
            "the shapes of a PixelCNN also depend on its network's image_channels: build the "
            "distribution and read batch_shape and event_shape"
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PixelCNN":
        """The same distribution over a larger batch shape; the context is not copied."""
        new = self._get_checked_instance(PixelCNN, _instance)
        batch_shape = torch.Size(batch_shape)
        new.network, new.emission = self.network, self.emission
        new._may_initialize = self._may_initialize
        new.context = self.context
        if self.context is not None:
            new.context = self.context.expand(batch_shape + self.context.shape[-3:])
        super(PixelCNN, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def parameters(self, value: Tensor) -> Tensor:
        """The network's parameters given images ``(*shape, C, H, W)``: ``(*shape', P, H, W)``."""
        shape = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        flat = value.expand(*shape, *self.event_shape).reshape(prod(shape), *self.event_shape)
        # A context computed with initialization disabled must not initialize the network.
        with nullcontext() if self._may_initialize else initialization(False):
            out = self.network(flat, self._flat_context(shape))
        return out.reshape(*shape, *out.shape[1:])

    def pixel_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each pixel given those before it.

        Args:
            value: images ``(*shape, C, H, W)``, broadcast against the batch shape.

        Returns:
            ``(*shape', H, W)`` nats, channels summed.

        Raises:
            ValueError: the images have the wrong size or, under validation, values outside the
                support.
        """
        self._check_images(value)
        if self._validate_args:
            self._validate_sample(value)
        parameters = self.parameters(value)
        # Rounded to half precision by torch.autocast, probabilities would not sum to one.
        parameters = parameters.to(torch.promote_types(parameters.dtype, value.dtype))
        shape = parameters.shape[:-3]
        value = value.expand(*shape, *self.event_shape)
        # Flattened, so that an emission only ever sees (N, P, H, W).
        pixels = self.emission(parameters.reshape(prod(shape), *parameters.shape[-3:]))
        if not self._validate_args:
            pixels._validate_args = False
        flat = value.reshape(prod(shape), *self.event_shape)
        log_prob = pixels.log_prob(emission_layout(pixels, flat))
        if log_prob.dim() == 4:
            log_prob = log_prob.sum(1)
        return log_prob.reshape(*shape, *self.event_shape[1:])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of images ``(*shape, C, H, W)``: ``(*shape')`` nats."""
        return self.pixel_log_prob(value).sum((-2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size(), temperature: float = 1.0) -> Tensor:  # noqa: B008
        """Sample images: ``(*sample_shape, *batch_shape, C, H, W)``.

        A network not yet initialized is sampled with the weights it has, and stays uninitialized.

        Args:
            sample_shape: as in every Pyro distribution.
            temperature: T, at least 0. Given the pixels before it, each pixel is sampled with
                probabilities raised to the power 1 / T and normalized again: 1 samples exactly, 0
                chooses the most probable value of each pixel (which need not be the most probable
                image).

        Raises:
            ValueError: the temperature is out of range, or the emission cannot be tempered.
        """
        shape = self._extended_shape(sample_shape)
        # The context, under torch.autocast, may be of lower precision than the network.
        like = torch.empty(0) if self.context is None else self.context
        like = next(self.network.parameters(), like)
        return self._sample(like.new_zeros(shape), None, temperature)

    @torch.no_grad()
    def complete(
        self, value: Tensor, known: Tensor, temperature: float = 1.0, exact: bool = True
    ) -> Tensor:
        """Sample the unknown pixels of images from their exact conditional given the known ones.

        For example the lower half of images, given codes and the upper half::

            known = (torch.arange(28) < 14).unsqueeze(1).expand(28, 28)
            model.likelihood(model.decoder(z)).complete(x, known)

        Args:
            value: images ``(*shape, C, H, W)``, broadcast against the batch shape; their unknown
                pixels are ignored.
            known: bool, broadcastable to ``(*shape', H, W)``: the pixels to keep.
            temperature: as in `sample`, for the unknown pixels.
            exact: refuse known pixels that depend on unknown ones. If False, any pixels may be
                known, but an unknown pixel is sampled given only the pixels before it: known pixels
                after it have no influence (`pyro_vlae.infer.inpaint` takes them into account).

        Returns:
            Images ``(*shape', C, H, W)``, with ``shape'`` the broadcast batch shape.

        Raises:
            ValueError: `exact`, and a known pixel has an unknown one in its window, so that the
                conditional distribution does not factorize along the raster order; images or mask
                have the wrong size; or, under validation, a known value is outside the support.
        """
        self._check_images(value)
        shape = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        known = expand_mask(known, (*shape, *self.event_shape[1:]), value.device)
        value = value.expand(*shape, *self.event_shape)
        if self._validate_args:
            check_support(value, self.emission.support, known.unsqueeze(-3))
        if exact:
            check_completable(self.window, known.reshape(prod(shape), *known.shape[-2:]))
        return self._sample(value.clone(), known, temperature)

    def _sample(self, image: Tensor, known: Tensor | None, temperature: float) -> Tensor:
        check_temperature(temperature)
        shape = image.shape[:-3]
        image = image.reshape(prod(shape), *self.event_shape)
        context = self._flat_context(shape)
        if known is not None:
            known = known.reshape(prod(shape), *self.event_shape[1:])
        chunk = max(1, SAMPLE_CHUNK // self.event_shape.numel())
        for start in range(0, len(image), chunk):
            part = slice(start, start + chunk)
            choose: Choose = partial(sample_front, temperature=temperature)
            if known is not None:
                choose = keep_known(choose, image[part].clone(), known[part])
            maps = None if context is None else context[part]
            go_through(self.network, self.emission, maps, image[part], choose)
        return image.reshape(*shape, *self.event_shape)

    def _flat_context(self, shape: torch.Size) -> Tensor | None:
        """The context expanded to a batch of this shape and flattened, ``(N, K, H, W)``."""
        if self.context is None:
            return None
        maps = self.context.shape[-3:]
        return self.context.expand(*shape, *maps).reshape(prod(shape), *maps)

    def _check_images(self, value: Tensor) -> None:
        check_precision(value, self.network)
        if value.shape[-3:] != self.event_shape:
            raise ValueError(
                f"expected images of shape (*batch, {', '.join(map(str, self.event_shape))}) "
                f"(channels, height, width), got {tuple(value.shape)}; resize the images, or "
                "build decoder and likelihood for their size"
            )

    def _validate_sample(self, value: Tensor) -> None:
        self._check_images(value)
        try:
            torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"images of batch shape {tuple(value.shape[:-3])} do not broadcast against the "
                f"context's batch shape {tuple(self.batch_shape)}"
            ) from error
        check_support(value, self.emission.support)
