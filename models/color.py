"""The paper's models for color images, with a keyword argument for each part.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from pyro_vlae.models.likelihoods import PixelCNNLikelihood
from pyro_vlae.models.priors import choose_prior
from pyro_vlae.models.vlae import VLAE
from pyro_vlae.nn import MapArchitecture, MapDecoder, PixelCNNPlusPlusNet


def color_vlae(
    architecture: MapArchitecture = MapArchitecture(),  # noqa: B008 (frozen)
    window: str = "7x4",
    *,
    prior: str | nn.Module = "flow",
    decoder: nn.Module | None = None,
    likelihood: nn.Module | None = None,
    flow_layers: int = 6,
    flow_channels: Sequence[int] = (128, 128),
    pixelcnn_channels: int = 64,
) -> VLAE:
    """A VLAE for color images with any architecture; its guide is ``color_guide(architecture)``.

    Args:
        architecture: sizes of image, code, and decoder.
        window: the decoder's window on the image, ``"4x2"``, ``"5x3"``, ``"7x4"``, or
            ``"7x4-gray"`` in the paper; see `pyro_vlae.nn.PixelCNNPlusPlusNet`.
        prior: ``"flow"`` (autoregressive flow on the code's feature maps), ``"normal"``, or a
            prior module over flat codes.
        decoder: a decoder module with an attribute ``feature_channels``; `MapDecoder` if None.
        likelihood: a likelihood module; a PixelCNN with the given window if None.
        flow_layers: layers of the flow prior.
        flow_channels: channels of the hidden layers of each flow layer's ConvNet.
        pixelcnn_channels: channels of each stack of the PixelCNN.

    Raises:
        ValueError: prior is an unknown name, or no network has the window.
    """
    prior = choose_prior(prior, architecture.code_shape, flow_layers, flow_channels)
    if decoder is None:
        decoder = MapDecoder(architecture)
    if likelihood is None:
        channels = int(decoder.feature_channels)  # type: ignore[arg-type]
        likelihood = PixelCNNLikelihood(PixelCNNPlusPlusNet(channels, pixelcnn_channels, window))
    return VLAE(prior, decoder, likelihood)


def resnet_vlae(
    window: str = "7x4",
    architecture: MapArchitecture = MapArchitecture(),  # noqa: B008 (frozen)
    **parts: Any,
) -> VLAE:
    """The paper's ResNet VLAE: `color_vlae` with residual blocks, regardless of ``dense``.

    Args:
        window: as in `color_vlae`.
        architecture: as in `color_vlae`.
        **parts: its other arguments.

    Raises:
        ValueError: as for `color_vlae`.

    Example:
        >>> model, guide = resnet_vlae("7x4"), color_guide()
    """
    return color_vlae(replace(architecture, dense=False), window, **parts)


def densenet_vlae(
    window: str = "7x4",
    architecture: MapArchitecture = MapArchitecture(),  # noqa: B008 (frozen)
    **parts: Any,
) -> VLAE:
    """The paper's DenseNet VLAE: `color_vlae` with dense blocks, regardless of ``dense``.

    Args:
        window: as in `color_vlae`.
        architecture: as in `color_vlae`.
        **parts: its other arguments.

    Raises:
        ValueError: as for `color_vlae`.

    Example:
        >>> model, guide = densenet_vlae("7x4"), color_guide(MapArchitecture(dense=True))
    """
    return color_vlae(replace(architecture, dense=True), window, **parts)
