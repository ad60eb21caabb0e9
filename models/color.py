"""The paper's models for color images by name, with a keyword argument for each part.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import nn

from pyro_vlae.models.likelihoods import PixelCNNLikelihood
from pyro_vlae.models.priors import StandardNormalPrior, spatial_flow_prior
from pyro_vlae.models.vlae import VLAE
from pyro_vlae.nn import Architecture, ColorPixelCNN, MapDecoder


def resnet_vlae(
    window: str = "7x4",
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    code_maps: int = 16,
    widths: Sequence[int] = (48, 96, 96),
    blocks: Sequence[int] = (2, 2, 3),
    **parts: Any,
) -> VLAE:
    """The paper's ResNet VLAE for CIFAR-10; ``color_guide()`` is its guide.

    Args:
        window: see `color_vlae`.
        image_shape: ``(3, H, W)`` of the images.
        code_maps: maps of the code, which is a quarter of the image wide and high.
        widths: maps of the decoder's stages, from the image's size down.
        blocks: residual blocks of each stage.
        **parts: as in `color_vlae`.

    Raises:
        ValueError: as `color_vlae`, or sizes that do not fit (see `Architecture`).

    Example:
        >>> model, guide = resnet_vlae("7x4"), color_guide()
    """
    return color_vlae(Architecture(image_shape, code_maps, widths, blocks), window, **parts)


def densenet_vlae(
    window: str = "7x4",
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    code_maps: int = 16,
    widths: Sequence[int] = (48, 96, 96),
    blocks: Sequence[int] = (2, 2, 3),
    **parts: Any,
) -> VLAE:
    """The paper's DenseNet VLAE; its guide is ``color_guide(Architecture(dense=True))``.

    Args:
        window: see `color_vlae`.
        image_shape: as in `resnet_vlae`.
        code_maps: as in `resnet_vlae`.
        widths: maps of the residual stages that the dense blocks take the place of.
        blocks: their residual blocks, two of which become one dense block.
        **parts: as in `color_vlae`.

    Raises:
        ValueError: as `resnet_vlae`.
    """
    architecture = Architecture(image_shape, code_maps, widths, blocks, dense=True)
    return color_vlae(architecture, window, **parts)


def color_vlae(
    architecture: Architecture,
    window: str = "7x4",
    *,
    prior: str | nn.Module = "flow",
    decoder: nn.Module | None = None,
    likelihood: nn.Module | None = None,
    flow_steps: int = 6,
    flow_maps: Sequence[int] = (128, 128),
    filters: int = 64,
) -> VLAE:
    """A VLAE for color images of any architecture.

    Args:
        architecture: sizes and blocks of the decoder; the guide's encoder has the same.
        window: what the decoder sees of the image, ``"4x2"``, ``"5x3"``, ``"7x4"`` or
            ``"7x4-gray"`` in the paper; see `pyro_vlae.nn.ColorPixelCNN`.
        prior: ``"flow"`` (autoregressive flow on the code's maps), ``"normal"``, or a prior module
            over flat codes.
        decoder: a decoder module with ``feature_maps``; `MapDecoder` if None.
        likelihood: a likelihood module; a `PixelCNN` with the given window if None.
        flow_steps: steps of the flow prior.
        flow_maps: hidden layers of each step.
        filters: maps of each stack of the PixelCNN.

    Raises:
        ValueError: prior is a string that names neither choice, or the window is none that the
            network can have.
    """
    code_shape = architecture.code_shape
    if isinstance(prior, str):
        if prior == "flow":
            prior = spatial_flow_prior(code_shape, flow_steps, flow_maps)
        elif prior == "normal":
            prior = StandardNormalPrior(prod(code_shape))
        else:
            raise ValueError(f'prior must be "flow", "normal" or a prior module, got {prior!r}')
    if decoder is None:
        decoder = MapDecoder(architecture)
    if likelihood is None:
        maps = int(decoder.feature_maps)  # type: ignore[arg-type]
        likelihood = PixelCNNLikelihood(ColorPixelCNN(maps, filters, window))
    return VLAE(prior, decoder, likelihood)
