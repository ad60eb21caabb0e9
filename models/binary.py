"""The paper's models for binary images by name, with a keyword argument for each ablation.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.1 and appendix.
"""

from collections.abc import Sequence

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
    masked_layers: int = 6,
    kernel_size: int = 3,
    window: str | None = None,
    pixelcnn_channels: int = 12,
) -> VLAE:
    """The paper's VLAE for binary images (MNIST, OMNIGLOT, Caltech-101 Silhouettes).

    Args:
        architecture: sizes of image, code and decoder; give the guide the same one. The paper's if
            None.
        code_dim: dimensions of the code, 64 if None; short for an architecture that differs from
            the paper's in this alone.
        image_shape: ``(C, H, W)`` of the images, ``(1, 28, 28)`` if None; likewise.
        prior: ``"flow"`` (autoregressive flow), ``"normal"``, or a prior module.
        decoder: a decoder module; the ResNet decoder if None.
        likelihood: ``"pixelcnn"``, ``"bernoulli"`` (factorized decoder), or a likelihood module.
        flow_layers: layers of the flow prior.
        flow_hidden_dims: hidden layers of each flow layer's MADE.
        tied: the PixelCNN's masked convolutions have the same weights (static MNIST; untying helps
            the other sets).
        masked_layers: masked convolutions of the PixelCNN; with 3x3 kernels also the height of its
            window.
        kernel_size: odd size of their kernels.
        window: ``"AxB"`` (see `pyro_vlae.nn.two_stack.window_layers`) takes a `TwoStackNet` with
            exactly that window instead; tied, masked_layers and kernel_size do not apply then.
        pixelcnn_channels: channels of the PixelCNN's hidden layers.

    Raises:
        ValueError: prior or likelihood is a string that names neither choice, the network cannot
            have the window, or a size is not positive or contradicts the architecture.

    Example:
        >>> sizes = ResNetArchitecture(image_shape=(1, 14, 14), code_dim=8, channels=(8,))
        >>> model, guide = binary_vlae(architecture=sizes), GaussianGuide(architecture=sizes)
    """
    sizes = complete_architecture(
        architecture, ResNetArchitecture, code_dim=code_dim, image_shape=image_shape
    )
    prior = choose_prior(prior, sizes.code_shape, flow_layers, flow_hidden_dims)
    if decoder is None:
        decoder = ResNetDecoder(sizes)
    channels = sizes.image_shape[0]
    if likelihood == "pixelcnn":
        likelihood = PixelCNNLikelihood(
            _network(
                channels,
                sizes.feature_channels,
                pixelcnn_channels,
                masked_layers,
                kernel_size,
                tied,
                window,
            )
        )
    elif likelihood == "bernoulli":
        likelihood = BernoulliLikelihood(sizes.feature_channels, channels)
    elif isinstance(likelihood, str):
        raise ValueError(
            f'likelihood must be "pixelcnn", "bernoulli" or a likelihood module, got {likelihood!r}'
        )
    return VLAE(prior, decoder, likelihood)


def unconditional_pixelcnn(
    *,
    image_shape: tuple[int, int, int] = (1, 28, 28),
    tied: bool = True,
    masked_layers: int = 6,
    kernel_size: int = 3,
    window: str | None = None,
    pixelcnn_channels: int = 12,
    context_channels: int = 4,
) -> UnconditionalModel:
    """The decoder's PixelCNN alone, without a code: the paper's "unconditional decoder".

    The paper does not say what it reads in place of the decoder's features. Here these are
    ``context_channels`` learned feature maps, the same for all images, as a decoder that ignores
    its code would give them; 0 for none. The other arguments are those of `binary_vlae`.
    """
    network = _network(
        image_shape[0],
        context_channels,
        pixelcnn_channels,
        masked_layers,
        kernel_size,
        tied,
        window,
    )
    return UnconditionalModel(network, image_shape)


def _network(
    image_channels: int,
    context_channels: int,
    channels: int,
    masked_layers: int,
    kernel_size: int,
    tied: bool,
    window: str | None,
) -> nn.Module:
    """The PixelCNN's network."""
    if window is not None:
        if (masked_layers, kernel_size) != (6, 3):
            raise ValueError(
                f"window={window!r} alone decides what a two-stack network sees: leave out "
                f"masked_layers={masked_layers} and kernel_size={kernel_size}, or the window"
            )
        return TwoStackNet(image_channels, context_channels, channels, window)
    return MaskedResNet(
        image_channels,
        context_channels,
        channels,
        masked_layers,
        pointwise_blocks=min(4, masked_layers),
        kernel_size=kernel_size,
        tied=tied,
    )
