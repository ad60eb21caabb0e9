"""Other compressors, to compare with; `compression.py` calls them."""

import bz2
import gzip
import io
import lzma
from typing import Any

import constriction
import numpy as np
from PIL import Image

# The ten earlier pixels that JBIG's default template reads, as (row, column) offsets.
JBIG = [(-2, -1), (-2, 0), (-2, 1), *((-1, j) for j in range(-2, 3)), (0, -2), (0, -1)]


def others(images: np.ndarray, binary: bool) -> dict[str, Any]:
    """Bits per dimension of other compressors on ``uint8`` images ``(N, C, H, W)``."""
    count, channels, height, width = images.shape
    columns = int(count**0.5)
    rows = count // columns
    sheet = images[: rows * columns].reshape(rows, columns, channels, height, width)
    sheet = sheet.transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
    # Binary images also with one bit per pixel: whichever the compressor prefers.
    raw = [images.tobytes(), *([np.packbits(images).tobytes()] if binary else [])]
    sizes: dict[str, float] = {}
    for name, options in {
        "PNG": ("PNG", {"optimize": True}),
        "WebP, lossless": ("WEBP", {"lossless": True, "quality": 100, "method": 6}),
    }.items():
        each = sum(len(picture(image, binary, *options)) for image in images)
        sizes[f"{name}, one file per image"] = 8 * each / images.size
        together = len(picture(sheet, binary, *options))
        sizes[f"{name}, all images in one sheet"] = 8 * together / sheet.size
    for name, compress in {
        "gzip -9": lambda b: gzip.compress(b, 9),
        "bzip2 -9": lambda b: bz2.compress(b, 9),
        "xz -9e": lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME),
    }.items():
        sizes[name] = 8 * min(len(compress(b)) for b in raw) / images.size
    if binary:
        bits = images[:, 0].astype(bool)
        sizes["adaptive arithmetic coding, 10 pixels (like JBIG)"] = adaptive(bits, False)
        sizes["the same, plus the position"] = adaptive(bits, True)
    return {"images": count, "bits_per_pixel": sizes}


def picture(image: np.ndarray, binary: bool, kind: str, options: dict[str, Any]) -> bytes:
    """An image ``(C, H, W)`` as a file."""
    content = io.BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    shown = Image.fromarray(255 * pixels if binary else pixels)
    if kind == "PNG" and binary:
        shown = shown.convert("1")
    shown.save(content, kind, **options)
    return content.getvalue()


def adaptive(images: np.ndarray, position: bool) -> float:
    """Bits per pixel of arithmetic coding with adaptive probabilities given ten earlier pixels.

    A pixel's probability is that of the pixels with the same context so far, images before it
    included, estimated as (ones + 0.4) / (all + 0.8).
    """
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (2, 0), (2, 2))).astype(np.int64)
    context = np.zeros(images.shape, np.int64)
    for i, j in JBIG:
        shifted = padded[:, 2 + i : 2 + i + height, 2 + j : 2 + j + width]
        context = 2 * context + shifted
    if position:  # in cells of 4 x 4 pixels
        cells = np.add.outer(np.arange(height) // 4 * width, np.arange(width) // 4)
        context = height * width * context + cells
    context, pixels = context.ravel(), images.ravel().astype(np.int64)
    order = context.argsort(kind="stable")
    starts = np.flatnonzero(np.diff(context[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    before = np.cumsum(pixels[order]) - pixels[order]
    ones = before - np.repeat(before[starts], lengths)
    seen = np.arange(len(order)) - np.repeat(starts, lengths)
    probability = np.empty(len(order))
    probability[order] = (ones + 0.4) / (seen + 0.8)
    coder = constriction.stream.queue.RangeEncoder()
    bernoulli = constriction.stream.model.Bernoulli(perfect=False)
    coder.encode(pixels.astype(np.int32), bernoulli, probability)
    return 8 * coder.get_compressed().nbytes / images.size
