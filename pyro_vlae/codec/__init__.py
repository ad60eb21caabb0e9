"""Compression of images with a VLAE: without loss, or the code alone."""

from pyro_vlae.codec.container import CodecError
from pyro_vlae.codec.lossless import LosslessCodec
from pyro_vlae.codec.lossy import LossyCodec

__all__ = ["CodecError", "LosslessCodec", "LossyCodec"]
