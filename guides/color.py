"""The paper's guide for color images.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.3 and appendix.
"""

from torch import nn

from pyro_vlae.guides.gaussian import GaussianGuide
from pyro_vlae.nn import MapArchitecture, MapEncoder


def color_guide(architecture: MapArchitecture = MapArchitecture()) -> GaussianGuide:  # noqa: B008 (frozen)
    """The guide for `resnet_vlae` and `densenet_vlae`: means and scales of a code of feature maps.

    Args:
        architecture: the model's architecture; ``MapArchitecture(dense=True)`` for `densenet_vlae`.
    """
    encoder = MapEncoder(architecture)
    return GaussianGuide(architecture.code_dim, encoder=encoder, head=nn.Identity())
