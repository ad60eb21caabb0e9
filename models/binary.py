"""The paper's models for binary images, with a keyword argument for each ablation.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.1 and appendix.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from pyro_vlae.models.likelihoods import BernoulliLikelihood, PixelCNNLikelihood
from pyro_vlae.models.priors import choose_prior
from pyro_vlae.models.vlae import VLAE, UnconditionalModel
from pyro_vlae.nn import MaskedResNet, ResNetArchitecture, ResNetDecoder, TwoStackNet
from pyro_vlae.nn.architecture import complete_architecture


def binary_vlae(
    *,
    architecture: ResNetArchitecture | None = None,
    code_dim: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    prior: str | nn.Module = "flow",
    decoder: nn.Module | None = None,
    likelihood: str | nn.Module = "pixelcnn",
    flow_layers: int = 4,
    flow_hidden_dims: Sequence[int] = (640, 640),
    tied: bool = True,
    masked_layers: int | None = None,
    kernel_size: int | None = None,
    window: str | None = None,
    pixelcnn_channels: int = 12,
) -> VLAE:
    """The paper's VLAE for binary images (MNIST, OMNIGLOT, Caltech-101 Silhouettes).

    Args:
        architecture: sizes of image, code, and decoder, the paper's if None; build the guide from
            the same architecture.
        code_dim: dimensions of the code, 64 if None; a shortcut for an architecture that differs
            from the paper's only in this.
        image_shape: ``(C, H, W)`` of the images, ``(1, 28, 28)`` if None; also a shortcut.
        prior: ``"flow"`` (autoregressive flow), ``"normal"``, or a prior module.
        decoder: a decoder module; the ResNet decoder if None.
        likelihood: ``"pixelcnn"``, ``"bernoulli"`` (factorized decoder), or a likelihood module.
        flow_layers: layers of the flow prior.
        flow_hidden_dims: hidden layers of each flow layer's MADE.
        tied: whether the PixelCNN's masked convolutions share their weights. The paper ties them
            for static MNIST; untying them helps on the other data sets.
        masked_layers: masked convolutions of the PixelCNN, 6 if None; with 3x3 kernels, this is
            also the height of its window.
        kernel_size: odd kernel size of the masked convolutions, 3 if None.
        window: ``"AxB"`` (see `pyro_vlae.nn.two_stack.window_layers`) for a `TwoStackNet` with
            exactly this window; leave out masked_layers and kernel_size; tied is ignored.
        pixelcnn_channels: channels of the PixelCNN's hidden layers.

    Raises:
        ValueError: prior or likelihood is an unknown name, no network has the window, a window is
            combined with masked_layers, kernel_size, or a likelihood other than ``"pixelcnn"``, or
            a size is not positive or contradicts the architecture.

    Example:
        >>> sizes = ResNetArchitecture(image_shape=(1, 14, 14), code_dim=8, channels=(8,))
        >>> model, guide = binary_vlae(architecture=sizes), GaussianGuide(architecture=sizes)
    """
    sizes = complete_architecture(
        architecture, ResNetArchitecture, code_dim=code_dim, image_shape=image_shape
    )
    if window is not None and (likelihood == "bernoulli" or isinstance(likelihood, nn.Module)):
        given = likelihood if isinstance(likelihood, str) else type(likelihood).__name__
        raise ValueError(
            f"the likelihood {given} has no window={window!r}: leave it out, or build the "
            "likelihood module with it"
        )
    prior = choose_prior(prior, sizes.code_shape, flow_layers, flow_hidden_dims)
    if decoder is None:
        decoder = ResNetDecoder(sizes)
    image_channels = sizes.image_shape[0]
    if likelihood == "pixelcnn":
        network = pixel_network(
            image_channels,
            sizes.feature_channels,
            tied=tied,
            masked_layers=masked_layers,
            kernel_size=kernel_size,
            window=window,
            pixelcnn_channels=pixelcnn_channels,
        )
        likelihood = PixelCNNLikelihood(network)
    elif likelihood == "bernoulli":
        likelihood = BernoulliLikelihood(sizes.feature_channels, image_channels)
    elif isinstance(likelihood, str):
        raise ValueError(
            'likelihood must be "pixelcnn", "bernoulli", or a likelihood module, '
            f"got {likelihood!r}"
        )
    return VLAE(prior, decoder, likelihood)


def unconditional_pixelcnn(
    *, image_shape: tuple[int, int, int] = (1, 28, 28), context_channels: int = 4, **network: Any
) -> UnconditionalModel:
    """The decoder's PixelCNN alone, without a code: the paper's "unconditional decoder".

    Train it as a baseline: it shows how well the pixels can be modeled without a code. The paper
    does not state what replaces the decoder's features; here it is a learned context, the same for
    all images.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        context_channels: channels of the learned context, 0 for none.
        **network: tied, masked_layers, kernel_size, window, and pixelcnn_channels as in
            `binary_vlae`, and mixtures as in `gray_vlae`.

    Raises:
        ValueError: no network has the window, it is combined with masked_layers or kernel_size, or
            a size is out of range.
    """
    pixelcnn = pixel_network(image_shape[0], context_channels, **network)
    return UnconditionalModel(pixelcnn, image_shape)


def pixel_network(
    image_channels: int,
    context_channels: int,
    *,
    tied: bool = True,
    masked_layers: int | None = None,
    kernel_size: int | None = None,
    window: str | None = None,
    pixelcnn_channels: int = 12,
    mixtures: int = 0,
) -> nn.Module:
    """The network of a PixelCNN; arguments as in `binary_vlae` and `gray_vlae`."""
    channels = (image_channels, context_channels, pixelcnn_channels)
    if window is None:
        layers = 6 if masked_layers is None else masked_layers
        size = 3 if kernel_size is None else kernel_size
        return MaskedResNet(
            *channels, layers, min(4, layers), kernel_size=size, tied=tied, mixtures=mixtures
        )
    given = {"masked_layers": masked_layers, "kernel_size": kernel_size}
    excluded = [f"{name}={value}" for name, value in given.items() if value is not None]
    if excluded:
        raise ValueError(
            f"window={window!r} alone determines what a two-stack network sees: leave out "
            f"{' and '.join(excluded)}, or the window"
        )
    return TwoStackNet(*channels, window, mixtures)
