"""Lossless compression of images with a VLAE: bits back with asymmetric numeral systems.

References:
    Townsend et al., "Practical Lossless Compression with Latent Variables using Bits Back Coding",
    2019, arXiv:1901.04866.
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 2.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from pyro.distributions import Independent, Normal
from torch import Tensor, nn

from pyro_vlae.codec.container import (
    CodecError,
    Container,
    environment,
    fingerprint,
    images_digest,
)
from pyro_vlae.codec.lattice import LatticePrior
from pyro_vlae.codec.pixels import check_values, emission_of, pop_pixels, push_pixels
from pyro_vlae.codec.programs import check_model, check_tensor, posterior
from pyro_vlae.codec.stack import (
    LARGEST,
    OTHER_ROUNDING,
    Array,
    BitStack,
    gaussian_bits,
    initial_words,
)
from pyro_vlae.nn.threads import single_threaded
from pyro_vlae.nn.weight_norm import initialization
from pyro_vlae.reproducible import evaluation_context

GRID_BITS = 5  # codes are multiples of 2^-5: coarser grids lose bits, finer ones leak
# Networks run on batches padded to these sizes: the same image in a batch of another size would be
# rounded differently.
PADDED = (16, 128)
MARGIN_BITS = 64  # left on the stack, so that popped codes are as random as they should be


class LosslessCodec:
    """Compresses images without loss to about ``-ELBO`` bits each.

    Each batch of images pops its codes from the bits of the batches before it, pushes the pixels
    given the codes, and pushes the codes given the prior. The first image starts from random bits,
    which are part of the size.

    A file can be decoded only by the same model and guide, with the same versions of torch and
    constriction, on the same kind of machine: networks must round alike in encoder and decoder.
    Anything else is refused.

    Args:
        model: a `pyro_vlae.models.VLAE` in float32 on the CPU, whose prior is standard normal or a
            flow of mean-only layers, and whose pixels take finitely many values (see
            `pyro_vlae.distributions.emissions.DiscreteEmission`): binary, or 256 levels.
        guide: a diagonal Gaussian with site ``"z"``.

    Raises:
        CodecError: the codec does not support this model or guide.

    Example:
        >>> codec = LosslessCodec(*load_pretrained("static-mnist"))
        >>> data = codec.compress(images)
        >>> assert torch.equal(codec.decompress(data), images)
    """

    def __init__(self, model: Any, guide: Any) -> None:
        check_model(model)
        for part in (model, guide):
            for name, p in part.named_parameters() if isinstance(part, nn.Module) else ():
                if p.dtype != torch.float32 or p.device.type != "cpu":
                    raise CodecError(
                        f"lossless coding needs float32 weights on the CPU, {name} is {p.dtype} on "
                        f"{p.device}: use .float().cpu()"
                    )
        self.model, self.guide = model, guide
        self.delta = 2.0**-GRID_BITS
        with self._exactly():
            emission_of(self._likelihood(_zeros(1, self._prior().code_dim)))

    def compress(self, images: Tensor, verify: bool = True) -> bytes:
        """Compress images.

        Args:
            images: ``(N, C, H, W)``, float32, with the values that the model sees: 0 and 1, or
                ``k / 127.5 - 1`` for level k of 0..255.
            verify: also decompress, and compare.

        Returns:
            The content of a file.

        Raises:
            CodecError: the images have the wrong shape or values, or ``verify`` finds a difference.
        """
        check_tensor(images)
        x = images.detach()
        with self._exactly():
            self._check_images(x)
            stack, batches = self._push_all(x)
        shape = (*x.shape[1:], GRID_BITS)
        # Runs of equal batches, the first one last: the decoder goes backwards.
        runs = [(len(list(same)), *batch) for batch, same in groupby(reversed(batches))]
        data = Container(
            "lossless",
            fingerprint(self.model, self.guide),
            images_digest(x),
            (*shape, *(number for run in runs for number in run)),
            environment(),
            stack.words(),
        ).pack()
        if verify and not torch.equal(self.decompress(data), x):
            raise CodecError("decompressing gave other images: model or guide is not deterministic")
        return data

    def decompress(self, data: bytes) -> Tensor:
        """Decompress what `compress` returned: the same images, float32.

        Raises:
            CodecError: the file is truncated or altered, or comes from another model, other
                versions, or another kind of machine.
        """
        file = Container.unpack(data)
        self._check_origin(file)
        shape, numbers = file.numbers[:3], file.numbers[4:]
        runs = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False))
        valid = (n > 0 and 0 < m <= PADDED[-1] and 2 ** min(k, 99) <= LARGEST for n, m, k in runs)
        if not runs or not all(valid):
            raise CodecError("the header of the compressed file is invalid")
        stack = BitStack(file.words)
        parts = []
        with self._exactly():
            for repeats, count, radius in runs:
                for _ in range(repeats):
                    if not len(stack):  # a wrong number of batches
                        raise CodecError("the header of the compressed file is invalid")
                    like = _zeros(_padded(count), *shape)
                    parts.append(self._pop_batch(stack, like, count, 2**radius))
        x = torch.cat(parts[::-1])
        rest = stack.words()
        if images_digest(x) != file.images or not np.array_equal(rest, initial_words(len(rest))):
            raise CodecError(OTHER_ROUNDING)
        return x

    def _push_all(self, x: Tensor) -> tuple[BitStack, list[tuple[int, int]]]:
        """The stack with all images, and the size and code radius of each batch."""
        per_image = gaussian_bits(self._posterior(_pad(x[:1]), 1)[1])
        # Random bits for the code of the first image.
        stack = BitStack(initial_words(1 + int(per_image + MARGIN_BITS) // 32))
        batches: list[tuple[int, int]] = []
        start = 0
        while start < len(x):
            # As many images as the stack can lend bits for.
            lent = int((len(stack) - MARGIN_BITS) / per_image) if per_image else PADDED[-1]
            count = min(PADDED[-1], len(x) - start, 2 ** max(0, lent.bit_length() - 1))
            radius, used = self._push_batch(stack, x[start : start + count])
            per_image = max(per_image, used / count)
            batches.append((count, radius))
            start += count
        return stack, batches

    def _push_batch(self, stack: BitStack, x: Tensor) -> tuple[int, int]:
        """Push a batch; returns log2 of the radius of its codes, and the number of bits lent."""
        count, padded, before = len(x), _pad(x), len(stack)
        means, scales = self._posterior(padded, count)
        z = self._on_grid(stack.pop_gaussians(means, scales), len(padded))
        used = before - len(stack)
        push_pixels(stack, self._likelihood(z), padded, count)
        noise = self._prior().to_noise(z)[:count] / self.delta
        radius = max(8 << GRID_BITS, int(noise.abs().max()))
        if not radius < LARGEST:  # also if NaN
            raise CodecError(
                f"codes {radius * self.delta:.3g} standard deviations from the mean of the prior "
                "cannot be coded: train the model, or use its guide with it"
            )
        exponent = (radius - 1).bit_length()
        stack.push_normal(noise.flatten().numpy(), 1 / self.delta, 2**exponent)
        return exponent, used

    def _pop_batch(self, stack: BitStack, like: Tensor, count: int, radius: int) -> Tensor:
        """Pop a batch of images ``(count, C, H, W)``."""
        prior = self._prior()
        symbols = stack.pop_normal(count * prior.code_dim, 1 / self.delta, radius)
        # With other strides than in the encoder, matrix products would be rounded differently.
        z = prior.to_codes(self._on_grid(symbols, len(like))).contiguous()
        likelihood = self._likelihood(z)
        if likelihood.event_shape != like.shape[1:]:
            raise CodecError(f"the file has images of shape {tuple(like.shape[1:])}")
        x = pop_pixels(stack, likelihood, like, count)
        symbols = (z[:count] / self.delta).flatten().numpy().astype(np.int64)
        stack.push_gaussians(symbols, *self._posterior(x, count))
        return x[:count]

    def _on_grid(self, symbols: Array, rows: int) -> Tensor:
        """Grid points as codes ``(rows, code_dim)``, padded with zeros."""
        z = _zeros(rows, self._prior().code_dim)
        flat = torch.from_numpy(symbols.astype(np.float32)) * self.delta
        z.view(-1)[: len(flat)] = flat
        return z

    def _prior(self) -> LatticePrior:
        return LatticePrior(self.model.prior(), self.delta)

    def _likelihood(self, z: Tensor) -> Any:
        return self.model.likelihood(self.model.decoder(z))

    def _posterior(self, x: Tensor, count: int) -> tuple[Array, Array]:
        """Means and scales of the first codes, in grid points, flat."""
        q = posterior(self.guide, x)
        normal = q.base_dist if isinstance(q, Independent) else None
        if not isinstance(normal, Normal):
            raise CodecError(
                "lossless coding needs a guide whose codes are diagonal Gaussian, got a "
                f"{type(q).__name__}, which cannot be popped from bits: use GaussianGuide, or "
                "LossyCodec"
            )
        means, scales = (
            (moment[:count].double().flatten() / self.delta).numpy()
            for moment in (normal.loc, normal.scale)
        )
        if not (np.isfinite(means).all() and np.isfinite(scales).all()):
            raise CodecError("the guide returns means or scales that are not finite")
        return means, scales

    def _check_images(self, x: Tensor) -> None:
        """Raise a CodecError unless these are images that the likelihood can generate."""
        likelihood = self._likelihood(_zeros(1, self._prior().code_dim))
        shape = tuple(likelihood.event_shape)
        right_type = x.dtype == torch.float32 and x.device.type == "cpu"
        if x.dim() != 4 or len(x) == 0 or x.shape[1:] != shape or not right_type:
            raise CodecError(
                f"expected float32 images of shape (N, {', '.join(map(str, shape))}) on the CPU, N "
                f"at least 1, got {x.dtype} of shape {tuple(x.shape)} on {x.device}"
            )
        check_values(x, emission_of(likelihood).levels)

    def _check_origin(self, file: Container) -> None:
        """Raise a CodecError unless this codec, here, wrote the file."""
        if file.method != "lossless":
            raise CodecError("the file is compressed with loss: use LossyCodec")
        if file.weights != fingerprint(self.model, self.guide):
            raise CodecError(
                "the file was compressed with another model or guide: load the weights it was "
                "written with"
            )
        here = environment()
        differing = [f"{a} (here: {b})" for a, b in zip(file.texts, here, strict=False) if a != b]
        if differing or file.numbers[3:4] != (GRID_BITS,):
            raise CodecError(
                f"the file was written with {', '.join(differing)}; networks may round differently "
                "here: decode it with the same versions on the same kind of machine"
            )

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        """Run networks so that they round alike each time."""
        with (
            evaluation_context(torch.device("cpu"), self.model, self.guide),
            initialization(False),
            single_threaded(),
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            yield


def _zeros(*shape: int) -> Tensor:
    """Zeros in float32 on the CPU, whatever the defaults are."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def _padded(count: int) -> int:
    """The size of the batch that ``count`` images are padded to."""
    return next(size for size in PADDED if count <= size)


def _pad(x: Tensor) -> Tensor:
    padded = _zeros(_padded(len(x)), *x.shape[1:])
    padded[: len(x)] = x
    return padded
