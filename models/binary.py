"""The paper's models by name, with a keyword argument for each ablation.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.1 and appendix.
"""

from collections.abc import Sequence

from torch import nn

from pyro_vlae.models.likelihoods import BernoulliLikelihood, PixelCNNLikelihood
from pyro_vlae.models.priors import FlowPrior, StandardNormalPrior
from pyro_vlae.models.vlae import VLAE, UnconditionalModel
from pyro_vlae.nn import MaskedResNet, ResNetDecoder, TwoStackNet


def binary_vlae(
    *,
    code_dim: int = 64,
    image_shape: tuple[int, int, int] = (1, 28, 28),
    prior: str | nn.Module = "flow",
    decoder: nn.Module | None = None,
    likelihood: str | nn.Module = "pixelcnn",
    flow_steps: int = 4,
    flow_hidden_dims: Sequence[int] = (640, 640),
    tied: bool = True,
    masked_layers: int = 6,
    kernel_size: int = 3,
    window: str | None = None,
    filters: int = 12,
    feature_maps: int = 4,
) -> VLAE:
    """The paper's VLAE for binary images (MNIST, OMNIGLOT, Caltech-101 Silhouettes).

    Args:
        code_dim: dimensions of the code.
        image_shape: ``(C, H, W)`` of the images.
        prior: ``"flow"`` (autoregressive flow), ``"normal"``, or a prior module.
        decoder: a decoder module; the ResNet decoder if None.
        likelihood: ``"pixelcnn"``, ``"bernoulli"`` (factorized decoder), or a likelihood module.
        flow_steps: steps of the flow prior.
        flow_hidden_dims: hidden layers of each step's MADE.
        tied: the PixelCNN's masked convolutions share their weights (static MNIST; untying helps
            the other sets).
        masked_layers: masked convolutions of the PixelCNN; with 3x3 kernels also the height of its
            window.
        kernel_size: odd size of their kernels.
        window: ``"AxB"`` (see `pyro_vlae.nn.two_stack.window_layers`) takes a `TwoStackNet` with
            exactly that window instead; tied, masked_layers and kernel_size do not apply then.
        filters: maps of the PixelCNN's hidden layers.
        feature_maps: maps that the decoder hands to the likelihood.

    Raises:
        ValueError: prior or likelihood is a string that names neither choice, or the window is
            none that the network can have.
    """
    if isinstance(prior, str):
        if prior == "flow":
            prior = FlowPrior(code_dim, flow_steps, flow_hidden_dims)
        elif prior == "normal":
            prior = StandardNormalPrior(code_dim)
        else:
            raise ValueError(f'prior must be "flow", "normal" or a prior module, got {prior!r}')
    if decoder is None:
        decoder = ResNetDecoder(code_dim, image_shape, feature_maps=feature_maps)
    channels = image_shape[0]
    if isinstance(likelihood, str):
        if likelihood == "pixelcnn":
            network = _network(
                channels, feature_maps, filters, masked_layers, kernel_size, tied, window
            )
            likelihood = PixelCNNLikelihood(network)
        elif likelihood == "bernoulli":
            likelihood = BernoulliLikelihood(feature_maps, channels)
        else:
            raise ValueError(
                f'likelihood must be "pixelcnn", "bernoulli" or a likelihood module, '
                f"got {likelihood!r}"
            )
    return VLAE(prior, decoder, likelihood)


def unconditional_pixelcnn(
    *,
    image_shape: tuple[int, int, int] = (1, 28, 28),
    tied: bool = True,
    masked_layers: int = 6,
    kernel_size: int = 3,
    window: str | None = None,
    filters: int = 12,
    feature_maps: int = 4,
) -> UnconditionalModel:
    """The decoder's PixelCNN alone, without a code: the paper's "unconditional decoder".

    The paper does not say what it reads in place of the decoder's maps. Here these are learned and
    the same for all images, what a decoder that ignores its code would give; none with
    ``feature_maps=0``.

    Arguments as in `binary_vlae`.
    """
    network = _network(
        image_shape[0], feature_maps, filters, masked_layers, kernel_size, tied, window
    )
    return UnconditionalModel(network, image_shape)


def _network(
    image_channels: int,
    context_channels: int,
    filters: int,
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
        return TwoStackNet(image_channels, context_channels, filters, window)
    return MaskedResNet(
        image_channels,
        context_channels,
        filters,
        masked_layers,
        pointwise_blocks=min(4, masked_layers),
        kernel_size=kernel_size,
        tied=tied,
    )
