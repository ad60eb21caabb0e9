"""A stack of bits: an ANS coder that pops samples from distributions and pushes them back.

References:
    Duda, "Asymmetric Numeral Systems", 2013, arXiv:1311.2540.
    Bamler, "Understanding Entropy Coding With Asymmetric Numeral Systems (ANS): a Statistician's
    Perspective", 2022, arXiv:2201.01741.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pyro_vlae.codec.container import CodecError, Words

try:
    from constriction import stream
except ImportError as error:  # an optional dependency
    raise ImportError(
        'compression needs the package constriction: pip install "pyro-vlae[codec]"'
    ) from error

Array = np.ndarray[Any, np.dtype[Any]]
# Half-width of a popped Gaussian in standard deviations. Every symbol within it has a probability
# of at least 2^-24, so a wider range would make far outliers too frequent.
TAIL = 6
LARGEST = 2**20  # symbols on one side of zero: more would use up the 24 bits of a probability
SEED = 0x564C4145


class BitStack:
    """A last-in-first-out stack of bits.

    Popping symbols from a distribution removes about as many bits as pushing them adds, and pushing
    popped symbols restores the stack exactly, even after it has run empty.

    Args:
        words: its content.

    Raises:
        CodecError: no stack has this content.
    """

    def __init__(self, words: Words) -> None:
        if len(words) and words[-1] == 0:
            raise CodecError("the coded bits of the compressed file are invalid: the last are zero")
        self._coder = stream.stack.AnsCoder(words) if len(words) else stream.stack.AnsCoder()

    def __len__(self) -> int:
        """Number of bits."""
        return int(self._coder.num_valid_bits())

    def words(self) -> Words:
        """The content, as 32-bit words."""
        return self._coder.get_compressed()

    def pop_levels(self, probabilities: Array) -> Array:
        """Pop levels given their probabilities ``(S, L)``, up to a factor; none is below 2^-24."""
        with _refusing_nan():
            return self._coder.decode(stream.model.Categorical(perfect=False), probabilities)

    def push_levels(self, symbols: Array, probabilities: Array) -> None:
        """Push what `pop_levels` pops."""
        with _refusing_nan():
            self._coder.encode_reverse(
                _int32(symbols), stream.model.Categorical(perfect=False), probabilities
            )

    def pop_normal(self, count: int, scale: float, radius: int) -> Array:
        """Pop integers of at most ``radius`` from a quantized ``N(0, scale^2)``: ``(count,)``."""
        return self._coder.decode(
            stream.model.QuantizedGaussian(-radius, radius, 0.0, scale), count
        )

    def push_normal(self, symbols: Array, scale: float, radius: int) -> None:
        """Push what `pop_normal` pops."""
        model = stream.model.QuantizedGaussian(-radius, radius, 0.0, scale)
        self._coder.encode_reverse(_int32(symbols), model)

    def pop_gaussians(self, means: Array, scales: Array) -> Array:
        """Pop integers from quantized Gaussians, as far as `TAIL` scales from the rounded means.

        Args:
            means: ``(S,)``, float64, like the scales.
            scales: their standard deviations.
        """
        center, offset = _split(means)
        residuals = np.zeros_like(center)
        for radius, chosen in _ranges(scales):
            model = stream.model.QuantizedGaussian(-radius, radius)
            residuals[chosen] = self._coder.decode(model, offset[chosen], scales[chosen])
        return center + residuals

    def push_gaussians(self, symbols: Array, means: Array, scales: Array) -> None:
        """Push what `pop_gaussians` pops."""
        center, offset = _split(means)
        residuals = symbols - center
        for radius, chosen in reversed(_ranges(scales)):
            if np.abs(residuals[chosen]).max() > radius:
                raise CodecError(OTHER_ROUNDING)
            self._coder.encode_reverse(
                _int32(residuals[chosen]),
                stream.model.QuantizedGaussian(-radius, radius),
                offset[chosen],
                scales[chosen],
            )


OTHER_ROUNDING = (
    "the images cannot be decoded exactly: this machine rounds differently from the one that "
    "compressed them; decode on the same kind of machine with the same versions"
)


@contextmanager
def _refusing_nan() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CodecError("the model returns probabilities that are not finite") from error


def initial_words(count: int) -> Words:
    """Random words, always the same, for a stack to start with."""
    raw = np.random.Philox(SEED).random_raw(count)
    words = (raw & 0xFFFFFFFF).astype(np.uint32)
    words[-1:] |= 1 << 31
    return words


def gaussian_bits(scales: Array) -> float:
    """About how many bits popping integers from Gaussians with these scales takes."""
    return float(np.log2(np.maximum(scales * np.sqrt(2 * np.pi * np.e), 1)).sum())


def _split(means: Array) -> tuple[Array, Array]:
    """Rounded means, and the rest."""
    center = np.round(means)
    return center.astype(np.int64), means - center


def _ranges(scales: Array) -> list[tuple[int, Array]]:
    """Largest residuals, and the indices that share them, in a fixed order."""
    radii = np.ceil(TAIL * scales).astype(np.int64) + 1
    if radii.max() > LARGEST:
        raise CodecError(
            f"the guide has a standard deviation of {scales.max():.3g} grid points, too wide to "
            "code: train it, or rescale the code"
        )
    return [(int(radius), np.flatnonzero(radii == radius)) for radius in np.unique(radii)]


def _int32(symbols: Array) -> Array:
    return np.ascontiguousarray(symbols, np.int32)
