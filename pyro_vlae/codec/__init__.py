"""Compression of images with a VLAE: without loss, or the code alone."""

from pyro_vlae.codec.container import CodecError
from pyro_vlae.codec.lossless import LosslessCodec

__all__ = ["CodecError", "LosslessCodec"]
