"""The paper's guide for color images by name.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix.
"""

from math import prod

from torch import nn

from pyro_vlae.guides.gaussian import GaussianGuide
from pyro_vlae.nn import Architecture, MapEncoder


def color_guide(architecture: Architecture = Architecture()) -> GaussianGuide:  # noqa: B008 (frozen)
    """The guide for `resnet_vlae` and `densenet_vlae`: means and scales of the code as maps.

    Args:
        architecture: the model's; ``Architecture(dense=True)`` for `densenet_vlae`.
    """
    encoder = MapEncoder(architecture)
    return GaussianGuide(
        prod(architecture.code_shape), architecture.image_shape, encoder, head=nn.Identity()
    )
