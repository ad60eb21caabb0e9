"""Lossy compression of images to the code of a VLAE.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731.
    Theis and Yosri, "Algorithms for the Communication of Samples", 2022, arXiv:2110.12805.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from numbers import Integral
from typing import Any

import numpy as np
import torch
from pyro.distributions import Delta
from torch import Tensor

from pyro_vlae.codec.codebook import Codebook
from pyro_vlae.codec.container import CodecError, Container, environment, fingerprint
from pyro_vlae.codec.pixels import check_values, emission_of
from pyro_vlae.codec.programs import check_model, check_tensor, posterior
from pyro_vlae.codec.relative_entropy import ZipfCoder, choose_candidates, fit_exponent
from pyro_vlae.codec.stack import BitStack
from pyro_vlae.nn.weight_norm import initialization
from pyro_vlae.reproducible import derive_seed, evaluation_context, set_seed

CHUNK = 256  # images in one pass of the networks
RATE_SAMPLES = 32
SPARE_BITS = 2
TOLERANCE = 1e-4  # of pixels: their rounding hardly changes a code
MOST_LOG2_CANDIDATES = 24  # with 30, each array over the candidates would have 8 GiB


class LossyCodec:
    """Compresses images to an approximate sample of their code, chosen among N candidates.

    Only the code is sent, as its index among ``2^log2_candidates`` = N samples of the prior,
    chosen at random with weights q(z | x) / p(z). As the rate of an image approaches log2 N, its
    code becomes biased toward the prior. Decompressed images have the same global shape; what the
    decoder models by itself, such as texture and the noise along edges, is sampled anew at each
    decompression.

    The file can be decoded only by the same model. If the prior is normal or a flow over one, any
    machine can; otherwise it takes the same version of torch, and the CPU or the same kind of GPU.

    Args:
        model: a `pyro_vlae.models.VLAE` with any prior and likelihood.
        guide: any guide with a density whose only site is ``"z"``. Gaussian guides are fast.
        log2_candidates: the time to compress is proportional to ``2^log2_candidates``. If the rate
            of an image is above ``log2_candidates - 2`` bits, too few candidates are likely under
            q(z | x), and its code fits less well; a warning names these images.

    Raises:
        CodecError: the codec does not support this model or guide.

    Example:
        >>> codec = LossyCodec(*load_pretrained("static-mnist"))
        >>> similar = codec.decompress(codec.compress(images))
    """

    def __init__(self, model: Any, guide: Any, log2_candidates: int = 20) -> None:
        check_model(model)
        whole = isinstance(log2_candidates, Integral)
        if not (whole and 2 <= log2_candidates <= MOST_LOG2_CANDIDATES):
            raise CodecError(
                f"log2_candidates must be an integer in 2..{MOST_LOG2_CANDIDATES}, got "
                f"{log2_candidates}: more candidates would not fit into memory"
            )
        self.model, self.guide, self.log2_candidates = model, guide, log2_candidates
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @property
    def largest_rate(self) -> int:
        """The rate, in bits, above which there are too few candidates."""
        return self.log2_candidates - SPARE_BITS

    def compress(self, images: Tensor) -> bytes:
        """Compress images ``(N, C, H, W)`` to the content of a file.

        Warns if the rate of an image is too high for the number of candidates.

        Raises:
            CodecError: there are no images, their pixels are not finite or no values that the
                likelihood can generate, or the guide has no density.
        """
        check_tensor(images)
        if len(images) == 0:
            raise CodecError("there are no images to compress")
        self._check_pixels(images.detach().float().cpu())
        rates = self.rates(images)
        too_high = (rates > self.largest_rate).nonzero().flatten().tolist()
        if too_high:
            names = ", ".join(map(str, too_high[:10])) + ", ..." * (len(too_high) > 10)
            warnings.warn(
                f"{len(too_high)} of {len(images)} images have a rate above {self.largest_rate} "
                f"bits (index {names}), too many for 2^{self.log2_candidates} candidates: their "
                "codes fit less well than with more candidates (log2_candidates of LossyCodec, at "
                f"most {MOST_LOG2_CANDIDATES})",
                stacklevel=2,
            )
        size = 2**self.log2_candidates
        with self._evaluation():
            posteriors = [self._posterior(x) for x in images.split(CHUNK)]
            codebook = Codebook(self.model.prior())
            index = choose_candidates(codebook, size, posteriors, derive_seed(0, "lossy codec"))
        k = fit_exponent(index, size)
        stack = BitStack(np.zeros(0, np.uint32))
        ZipfCoder(self.log2_candidates, k).push(stack, index)
        return Container(
            "lossy",
            fingerprint(self.model),
            bytes(8),
            (len(images), self.log2_candidates, k),
            _sampler(codebook),
            stack.words(),
        ).pack()

    def decompress(self, data: bytes) -> Tensor:
        """Sample images ``(N, C, H, W)`` with the codes of a file.

        Each call samples new pixels, with PyTorch's global random state.

        Raises:
            CodecError: the file is truncated or altered, or comes from another model.
        """
        z = self.codes(data)
        seed = int(torch.randint(2**62, ()))
        with self._evaluation():
            set_seed(seed, self.device)
            parts = [self.model.likelihood(self.model.decoder(c)).sample() for c in z.split(CHUNK)]
        return torch.cat(parts)

    def codes(self, data: bytes) -> Tensor:
        """The codes ``(N, code_dim)`` in a file; raises as `decompress` does."""
        file = Container.unpack(data)
        if file.method != "lossy":
            raise CodecError("the file is compressed without loss: use LosslessCodec")
        if file.weights != fingerprint(self.model):
            raise CodecError(
                "the file was compressed with another model: load the weights it was written with"
            )
        with self._evaluation():
            codebook = Codebook(self.model.prior())
            here = _sampler(codebook)
            if not codebook.portable and file.texts != here:
                raise CodecError(
                    f"the file was written with {', '.join(file.texts)} (here: {', '.join(here)}), "
                    "which may sample this prior differently: use the same version and device"
                )
            count, log2_candidates, k = file.numbers
            index = ZipfCoder(log2_candidates, k).pop(BitStack(file.words), count)
            return codebook.codes(index)

    def rates(self, images: Tensor) -> Tensor:
        """KL of q(z | x) from the prior, in bits, estimated with 32 samples: ``(N,)``."""
        with self._evaluation():
            set_seed(0, self.device)
            prior, rates = self.model.prior(), []
            for x in images.split(CHUNK):
                q = self._posterior(x)
                total = torch.zeros(len(x), dtype=torch.float64, device="cpu")
                for _ in range(RATE_SAMPLES):
                    z = q.sample()
                    total += (q.log_prob(z) - prior.log_prob(z)).double().cpu()
                rates.append(total / (RATE_SAMPLES * log(2)))
        return torch.cat(rates)

    def _check_pixels(self, x: Tensor) -> None:
        """Raise a CodecError unless the likelihood can generate these pixels, up to rounding."""
        if not x.isfinite().all():
            raise CodecError("the images have pixels that are not finite (NaN or infinite)")
        with self._evaluation():
            likelihood = self.model.likelihood(self.model.decoder(self.model.prior().sample((1,))))
        try:
            levels = emission_of(likelihood).levels
        except CodecError:
            return  # not of finitely many values
        check_values(x, levels.to(x), TOLERANCE)

    def _posterior(self, images: Tensor) -> Any:
        """q(z | x) of images."""
        q = posterior(self.guide, images.to(self.device))
        if isinstance(getattr(q, "base_dist", q), Delta):
            raise CodecError(
                "the guide's code is a point estimate (a Delta distribution), which would take "
                "infinitely many bits: use a guide with a density, such as GaussianGuide"
            )
        return q

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        with (
            evaluation_context(self.device, self.model, self.guide),
            initialization(False),
            torch.no_grad(),
        ):
            yield


def _sampler(codebook: Codebook) -> tuple[str, ...]:
    """What the candidates depend on besides the model: nothing, or PyTorch's generator."""
    if codebook.portable:
        return ()
    # The generators of the CPU and of each kind of GPU return other numbers.
    gpu = codebook.device.type == "cuda"
    name = (f"GPU {torch.cuda.get_device_name(codebook.device)}",) if gpu else ()
    return (*environment()[:1], *name)
