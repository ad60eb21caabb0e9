"""The Variational Lossy Autoencoder, and a PixelCNN without a code, as Pyro models."""

import re
from collections.abc import Callable
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from pyro_vlae.distributions import PixelCNN
from pyro_vlae.nn.weight_norm import initialization
from pyro_vlae.registration import check_batch, register_parameters


class VLAE(nn.Module):
    """``p(z) p(x | z)`` with a sample site ``"z"`` and a sample site ``"x"`` in an image plate.

    Args:
        prior: called without arguments, returns a distribution over codes with event shape
            ``(code_dim,)``.
        decoder: maps codes ``(*batch, code_dim)`` to features ``(*batch, *feature_shape)``.
        likelihood: maps features to a distribution of images with batch shape ``batch``; its event
            shape is that of an image, for example ``(C, H, W)``.

    To swap a part, pass another object. With a factorized likelihood this is a plain VAE.

    References:
        Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731.
    """

    networks = ("decoder",)  # may be compiled and run in half precision

    def __init__(
        self,
        prior: Callable[[], dist.TorchDistribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Callable[[Tensor], dist.TorchDistribution],
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, batch_size: int = 1) -> Tensor:
        """The generative program.

        Args:
            x: images ``(batch, *image_shape)`` to condition on, or None to generate.
            batch_size: number of images to generate when x is None.

        Returns:
            The images, ``(batch, *image_shape)``.

        Raises:
            ValueError: the prior returns no distribution, its event shape is not one-dimensional
                (a missing ``to_event(1)``), the codes or x do not fit, or the decoder does not take
                codes with several leading dimensions.
        """
        register_parameters(self)
        size = batch_size if x is None else len(x)
        check_batch(size)
        prior = self.prior()
        if not hasattr(prior, "event_shape"):
            raise ValueError(
                "the prior, called without arguments, must return a distribution, got a "
                f"{type(prior).__name__}: pass a module or a function that returns one (calling a "
                "Pyro distribution samples it)"
            )
        if len(prior.event_shape) != 1:
            raise ValueError(
                "the prior must be a distribution over vectors, event_shape (code_dim,), got "
                f"event_shape {tuple(prior.event_shape)} and batch_shape "
                f"{tuple(prior.batch_shape)}: add .to_event(1)"
            )
        with pyro.plate("images", size, dim=-1):
            with _Origin() as origin:
                z = pyro.sample("z", prior)
            if z.shape[-1:] != prior.event_shape:
                raise ValueError(
                    f"the codes have {z.shape[-1]} dimensions, the prior has "
                    f"{prior.event_shape[0]}: build prior, decoder, and guide for one code_dim"
                )
            # Layers must not be initialized on codes of an untrained prior.
            inferred = x is not None and origin.is_given
            with nullcontext() if inferred else initialization(False):
                likelihood = self._decode(z)
            if x is not None:
                _check_event_shape(x, likelihood.event_shape)
            return pyro.sample("x", likelihood, obs=x)

    def _decode(self, z: Tensor) -> dist.TorchDistribution:
        """The distribution of images given codes ``(*batch, code_dim)``."""
        batch = z.shape[:-1]
        way_out = (
            "A decoder must take codes (*batch, code_dim) with any leading dimensions (those of "
            "several codes for each image, as in scoring): flatten them, and restore them in the "
            "features, features.view(*z.shape[:-1], *feature_shape)"
        )
        try:
            likelihood = self.likelihood(self.decoder(z))
        except RuntimeError as error:
            sized = re.search("shape|size|dim|elements", str(error), re.I)
            if len(batch) < 2 or not sized or type(error) is not RuntimeError:
                raise
            raise ValueError(f"{error}, for codes of shape {tuple(z.shape)}. {way_out}") from error
        if len(likelihood.batch_shape) > len(batch) and not likelihood.event_shape:
            raise ValueError(
                f"the likelihood has batch shape {tuple(likelihood.batch_shape)}, expected "
                f"{tuple(batch)}: add .to_event({len(likelihood.batch_shape) - len(batch)})"
            )
        try:
            torch.broadcast_shapes(likelihood.batch_shape, batch)
        except RuntimeError:
            raise ValueError(
                f"for codes of shape {tuple(z.shape)}, the likelihood has batch shape "
                f"{tuple(likelihood.batch_shape)}, expected {tuple(batch)}. {way_out}"
            ) from None
        return likelihood


class UnconditionalModel(nn.Module):
    """A PixelCNN without a code, with a sample site ``"x"`` in an image plate.

    Fit it with SVI and a guide that samples nothing (``lambda x: None``).

    Args:
        network: see `pyro_vlae.distributions.PixelCNN`. If it reads a context, it gets a learned
            one, the same for all images, in place of a decoder's features. Without a context,
            convolutions have no information about position, except close to the border.
        image_shape: ``(C, H, W)`` of the images.

    Raises:
        ValueError: the network is for images with another number of channels.
    """

    networks = ("network",)  # may be compiled and run in half precision

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int] = (1, 28, 28)) -> None:
        super().__init__()
        if image_shape[0] != network.image_channels:
            raise ValueError(
                f"the network is for images of {network.image_channels} channels, got "
                f"image_shape {tuple(image_shape)}"
            )
        self.network = network
        self.image_shape = image_shape
        channels = getattr(network, "context_channels", 0)
        context = 0.1 * torch.randn(channels, *image_shape[1:])
        self.context = nn.Parameter(context) if channels else None

    def forward(self, x: Tensor | None = None, batch_size: int = 1) -> Tensor:
        """The generative program; arguments and result as in `VLAE.forward`."""
        register_parameters(self)
        size = batch_size if x is None else len(x)
        check_batch(size)
        with pyro.plate("images", size, dim=-1):
            with nullcontext() if x is not None else initialization(False):
                if self.context is None:
                    likelihood = PixelCNN(self.network, None, self.image_shape)
                else:
                    likelihood = PixelCNN(self.network, self.context.expand(size, -1, -1, -1))
            return pyro.sample("x", likelihood, obs=x)


class _Origin(Messenger):
    """Records whether a sample site's value came from a handler or was sampled in place.

    Handlers that condition a site mark it as observed; those that replay a trace replace the site's
    `infer` dictionary with that of the trace.
    """

    is_given = False

    def _pyro_sample(self, msg: Message) -> None:
        self._own_infer = msg["infer"]

    def _pyro_post_sample(self, msg: Message) -> None:
        self.is_given = bool(msg["is_observed"]) or msg["infer"] is not self._own_infer


def _check_event_shape(x: Tensor, event_shape: torch.Size) -> None:
    batch_dims = x.dim() - len(event_shape)
    if batch_dims < 1 or x.shape[batch_dims:] != event_shape:
        sizes = "".join(f", {size}" for size in event_shape)
        raise ValueError(
            f"expected images of shape (*batch{sizes}), the likelihood's event shape, got "
            f"{tuple(x.shape)}; resize the images, or build model and guide for this "
            "image_shape"
        )
