"""Measure compression with trained models, beside other compressors.

    OMP_NUM_THREADS=1 python examples/compression.py static-mnist

For each named model (default: all binary ones that come with the package),
compresses the test images without loss and with loss. Writes compression.json,
table.md, and pictures. Sizes are those of files. Lossy compression of 10,000
images takes half an hour on an idle core.
"""

import bz2
import gzip
import io
import lzma
import sys
import time
import warnings
from math import log
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pyro_vlae.codec import LosslessCodec, LossyCodec
from pyro_vlae.codec.container import Container, environment
from pyro_vlae.data import BINARY, INTENSITIES, ImageSplit, load_dataset
from pyro_vlae.experiments import load_pretrained, pretrained_names
from pyro_vlae.experiments.command_line import exit_status, folder, make_parser, positive
from pyro_vlae.experiments.recipes import recipe_from_config
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.plots import plot_groups, save_figure
from pyro_vlae.reproducible import write_json

RESULTS = Path(__file__).parents[1] / "results" / "compression"
# The ten earlier pixels that JBIG's default template reads, as (row, column) offsets.
JBIG = [(-2, -1), (-2, 0), (-2, 1), *((-1, j) for j in range(-2, 3)), (0, -2), (0, -1)]
ELBO_SAMPLES, NEIGHBORS, MNIST_IMAGES, SHOWN = 4, 3, 50_000, 12


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the results, and return the exit status."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", help=f"one of {', '.join(pretrained_names())}")
    add("--images", type=positive(int), metavar="N", help="test images, from a random subset")
    add("--lossy-images", type=positive(int), metavar="N", help="likewise, for lossy compression")
    add("--log2-candidates", type=positive(int), metavar="N", default=20, help="default: 20")
    add("--data-dir", type=Path, metavar="DIR", help="default: $PYRO_VLAE_DATA, then the cache")
    add("--out", type=folder, metavar="DIR", default=RESULTS, help="default: results/compression")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "versions": environment()}
    for name in options.models or pretrained_names():
        model, guide = load_pretrained(name)
        recipe = recipe_from_config(model.card["config"], name)
        if not recipe.has_code or recipe.values not in (BINARY, INTENSITIES):
            print(f"{name} is no model of binary images with a code")
            continue
        data = recipe.load_data(options.data_dir, torch.device("cpu"))
        test = data.test
        if options.images:
            test = test.subset(options.images, seed=0)
        x = test.batch(slice(None))
        few = test.subset(options.lossy_images or len(test), seed=0)
        digits = None
        if name.endswith("mnist"):  # static MNIST has no labels of training images
            digits = load_dataset("mnist", options.data_dir).train, few.labels
        rows[name] = {
            "lossless": {**lossless(model, guide, x), **bound(model, guide, x)},
            "others": others(x.bool().numpy()),
            "lossy": lossy(
                LossyCodec(model, guide, options.log2_candidates),
                few.batch(slice(None)),
                digits,
                options.out / f"{name}.png",
            ),
        }
        write_json(options.out / "compression.json", rows)
        (options.out / "table.md").write_text(table(rows))
    print((options.out / "table.md").read_text())
    return 0


def lossless(model: Any, guide: Any, x: Tensor) -> dict[str, Any]:
    """Compress all images, decompress them, and compare."""
    codec = LosslessCodec(model, guide)
    data, compress = timed(lambda: codec.compress(x, verify=False))
    decompressed, decompress = timed(lambda: codec.decompress(data))
    assert torch.equal(decompressed, x)
    first = codec.compress(x[:1])
    return {
        "images": len(x),
        "bytes": len(data),
        "header_bytes": len(data) - Container.unpack(data).words.nbytes,
        "bits_per_pixel": 8 * len(data) / x.numel(),
        "bytes_of_the_first_image_alone": len(first),
        "compress_images_per_second": len(x) / compress,
        "decompress_images_per_second": len(x) / decompress,
    }


def bound(model: Any, guide: Any, x: Tensor) -> dict[str, float]:
    """The bits per pixel that -ELBO promises, and how many percent more the file takes."""
    scored = marginal_log_likelihood(model, guide, x, num_samples=ELBO_SAMPLES)
    return {
        "negative_elbo_nats": -scored.elbo.mean().item(),
        "negative_elbo_bits_per_pixel": -scored.elbo.mean().item() / (x[0].numel() * log(2)),
        "elbo_samples": ELBO_SAMPLES,
    }


def others(images: np.ndarray) -> dict[str, float]:
    """Bits per pixel of other compressors on bool images ``(N, 1, H, W)``."""
    images = images[:, 0]
    count, height, width = images.shape
    columns = int(count**0.5)
    rows = count // columns
    sheet = images[: rows * columns].reshape(rows, columns, height, width)
    sheet = sheet.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    # Both one bit and one byte per pixel: whichever the compressor prefers.
    raw = [np.packbits(images).tobytes(), images.astype(np.uint8).tobytes()]
    sizes: dict[str, float] = {}
    for name, options in {
        "PNG": {"optimize": True},
        "WEBP": {"lossless": True, "quality": 100, "method": 6},
    }.items():
        title = name.replace("WEBP", "WebP, lossless")
        each = sum(len(picture(image, name, options)) for image in images)
        sizes[f"{title}, a file per image"] = 8 * each / images.size
        sizes[f"{title}, all images in one sheet"] = (
            8 * len(picture(sheet, name, options)) / sheet.size
        )
    sizes["gzip -9"] = 8 * min(len(gzip.compress(b, 9)) for b in raw) / images.size
    sizes["bzip2 -9"] = 8 * min(len(bz2.compress(b, 9)) for b in raw) / images.size
    sizes["xz -9e"] = (
        8 * min(len(lzma.compress(b, preset=9 | lzma.PRESET_EXTREME)) for b in raw) / images.size
    )
    sizes["adaptive arithmetic coding, 10 pixels (like JBIG)"] = adaptive(images, False)
    sizes["the same, and the position"] = adaptive(images, True)
    return sizes


def picture(image: np.ndarray, kind: str, options: dict[str, Any]) -> bytes:
    """A black-and-white picture as a file."""
    content = io.BytesIO()
    shown = Image.fromarray(255 * image.astype(np.uint8))
    if kind == "PNG":
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


def lossy(codec: LossyCodec, x: Tensor, digits: Any, path: Path) -> dict[str, Any]:
    """Compress images to their codes, and look at what comes back."""
    rates = codec.rates(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # images of high rate are counted below
        data, seconds = timed(lambda: codec.compress(x))
    torch.manual_seed(0)
    versions = [codec.decompress(data) for _ in range(3)]
    with torch.no_grad():
        likelihoods = [
            codec.model.likelihood(codec.model.decoder(z)).log_prob(part)
            for z, part in zip(codec.codes(data).split(256), x.split(256), strict=True)
        ]
    shown = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:SHOWN]
    titles = ("original", "first", "second", "third")
    groups = dict(zip(titles, (v[shown] for v in (x, *versions)), strict=True))
    bits = 8 * len(data) / len(x)
    title = f"Originals, and three decompressions of the same {bits:.1f} bits per image"
    save_figure(plot_groups(groups, title, groups_per_row=3), path)
    found = {
        "images": len(x),
        "bytes": len(data),
        "bits_per_image": bits,
        "rate_bits": rates.mean().item(),
        "log2_candidates": codec.log2_candidates,
        "images_with_too_high_a_rate": int((rates > codec.largest_rate).sum()),
        "distortion_nats": -torch.cat(likelihoods).mean().item(),
        "compress_seconds": seconds,
    }
    if digits is not None:
        found.update(digits_read(*digits, x, versions[0]))
    return found


def digits_read(
    train: ImageSplit, truth: Tensor, x: Tensor, decompressed: Tensor
) -> dict[str, Any]:
    """How a classifier of pixels reads the images before and after."""
    train = train.subset(min(MNIST_IMAGES, len(train)), seed=0)
    classifier = KNeighborsClassifier(NEIGHBORS)
    classifier.fit(train.batch(slice(None)).flatten(1).numpy(), train.labels.numpy())
    before, after = (classifier.predict(v.flatten(1).numpy()) for v in (x, decompressed))
    return {
        "classifier": f"{NEIGHBORS} nearest neighbors among {len(train):,} images of MNIST",
        "read_correctly_before": float((before == truth.numpy()).mean()),
        "read_correctly_after": float((after == truth.numpy()).mean()),
        "read_alike": float((before == after).mean()),
    }


def table(rows: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [f"Written by `{rows['command']}` with {', '.join(rows['versions'])}: do not edit."]
    for name, row in rows.items():
        if not isinstance(row, dict):
            continue
        free, code = row["lossless"], row["lossy"]
        promised = free["negative_elbo_bits_per_pixel"]
        sizes = {
            f"`LosslessCodec`, {free['bytes']:,} bytes": free["bits_per_pixel"],
            f"-ELBO of the same model, {free['negative_elbo_nats']:.2f} nats": promised,
            **row["others"],
        }
        over = free["bits_per_pixel"] / promised - 1
        lines += [
            f"\n### {name}, {free['images']:,} test images without loss\n",
            "| compressor | bits per pixel |\n|---|---|",
            *(f"| {title} | {size:.4f} |" for title, size in sizes.items()),
            f"\nThe file is {over:.2%} larger than -ELBO ({free['elbo_samples']} samples per image)"
            f". {free['header_bytes']} bytes of it are the header. One image alone takes "
            f"{free['bytes_of_the_first_image_alone']} bytes. Speed per second of CPU time, one "
            f"thread: {free['compress_images_per_second']:.0f} images to compress, "
            f"{free['decompress_images_per_second']:.0f} to decompress.",
            f"\n### {name}, {code['images']:,} test images with loss\n",
            "| | |\n|---|---|",
            f"| size of the file | {code['bytes']:,} bytes |",
            f"| bits per image | {code['bits_per_image']:.2f} |",
            f"| mean rate (KL) | {code['rate_bits']:.2f} bits |",
            f"| images of too high a rate for 2^{code['log2_candidates']} candidates | "
            f"{code['images_with_too_high_a_rate']:,} |",
            f"| distortion, -log p(x given z) | {code['distortion_nats']:.2f} nats |",
            f"| CPU time to compress | {code['compress_seconds']:.0f} s |",
        ]
        if "read_alike" in code:
            lines += [
                f"| read correctly by {code['classifier']}: before | "
                f"{code['read_correctly_before']:.1%} |",
                f"| ... and after | {code['read_correctly_after']:.1%} |",
                f"| read as the same digit before and after | {code['read_alike']:.1%} |",
            ]
    return "\n".join(lines) + "\n"


def timed(call: Any) -> tuple[Any, float]:
    """What a call returns, and its CPU time in seconds."""
    start = time.process_time()
    return call(), time.process_time() - start


if __name__ == "__main__":
    sys.exit(exit_status(main))
