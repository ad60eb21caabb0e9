"""Plain torch networks without probability: weight-normalized layers, ResNets, PixelCNNs."""

from pyro_vlae.nn.architecture import Architecture, MapArchitecture, ResNetArchitecture
from pyro_vlae.nn.blocks import ResidualBlock
from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.encoders import MapDecoder, MapEncoder, ResNetDecoder, ResNetEncoder
from pyro_vlae.nn.fronts import wavefronts
from pyro_vlae.nn.masked_convnet import MaskedConvNet
from pyro_vlae.nn.masked_resnet import MaskedResNet
from pyro_vlae.nn.pixel_network import PixelNetwork
from pyro_vlae.nn.pixelcnn_pp import PixelCNNPlusPlusNet
from pyro_vlae.nn.precision import check_precision
from pyro_vlae.nn.two_stack import TwoStackNet
from pyro_vlae.nn.weight_norm import (
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
)

__all__ = [
    "Architecture",
    "CausalConv2d",
    "MapArchitecture",
    "MapDecoder",
    "MapEncoder",
    "MaskedConvNet",
    "MaskedResNet",
    "PixelCNNPlusPlusNet",
    "PixelNetwork",
    "ResNetArchitecture",
    "ResNetDecoder",
    "ResNetEncoder",
    "ResidualBlock",
    "TwoStackNet",
    "WeightNormConv2d",
    "WeightNormConvTranspose2d",
    "WeightNormLinear",
    "check_precision",
    "wavefronts",
]
