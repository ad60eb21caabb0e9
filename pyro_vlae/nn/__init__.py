"""Plain torch networks, no probability: weight-normalised layers, ResNets, masked PixelCNNs."""

from pyro_vlae.nn.colour_pixelcnn import ColourPixelCNN
from pyro_vlae.nn.incremental import wavefronts
from pyro_vlae.nn.masked import MaskedConv2d
from pyro_vlae.nn.masked_maps import MaskedMapNet
from pyro_vlae.nn.masked_resnet import MaskedResNet
from pyro_vlae.nn.resnet import ResidualBlock, ResNetDecoder, ResNetEncoder
from pyro_vlae.nn.stages import Architecture, MapDecoder, MapEncoder
from pyro_vlae.nn.two_stack import TwoStackNet
from pyro_vlae.nn.weight_norm import (
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    without_initialization,
)

__all__ = [
    "Architecture",
    "ColourPixelCNN",
    "MapDecoder",
    "MapEncoder",
    "MaskedConv2d",
    "MaskedMapNet",
    "MaskedResNet",
    "ResNetDecoder",
    "ResNetEncoder",
    "ResidualBlock",
    "TwoStackNet",
    "WeightNormConv2d",
    "WeightNormConvTranspose2d",
    "WeightNormLinear",
    "wavefronts",
    "without_initialization",
]
