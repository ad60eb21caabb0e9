"""Measure compression with trained models, and compare it with other compressors.

    OMP_NUM_THREADS=1 python examples/compression.py static-mnist

For each model (the folder of a run, or a name; default: all that come with the
package), compresses the test images without loss and with loss. Writes
compression.json, table.md, and pictures. Sizes are those of files. Lossy
compression of 10,000 images takes half an hour on an idle core.
"""

import sys
import time
import warnings
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from other_compressors import others
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pyro_vlae.codec import LosslessCodec, LossyCodec
from pyro_vlae.codec.container import Container, environment
from pyro_vlae.commands.trained import model_help
from pyro_vlae.data import BINARY, PIANO_ROLLS, ImageSplit, Values, load_dataset
from pyro_vlae.experiments import ConfigError, Recipe, pretrained_names
from pyro_vlae.experiments.command_line import exit_status, folder, make_parser, positive
from pyro_vlae.experiments.pretrained import is_shipped, load_pair
from pyro_vlae.experiments.recipes import recipe_from_config
from pyro_vlae.experiments.run import command
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.plots import plot_groups, save_figure
from pyro_vlae.reproducible import read_json, write_json

RESULTS = Path(__file__).parents[1] / "results" / "compression"
PARTS = ("lossless", "others", "lossy")
ELBO_SAMPLES, NEIGHBORS, MNIST_IMAGES, SHOWN = 4, 3, 50_000, 12


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the results, and return the exit status."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", help=model_help())
    add("--only", choices=PARTS, help="measure one part, and keep the results of the others")
    add("--images", type=positive(int), metavar="N", help="test images, from a random subset")
    add("--lossy-images", type=positive(int), metavar="N", help="likewise, for lossy compression")
    add("--log2-candidates", type=positive(int), metavar="N", default=20, help="default: 20")
    add("--data-dir", type=Path, metavar="DIR", help="default: $PYRO_VLAE_DATA, then the cache")
    add("--out", type=folder, metavar="DIR", default=RESULTS, help="default: results/compression")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "compression.json"
    rows: dict[str, Any] = read_json(path) if path.exists() else {}
    made = {"command": command(), "versions": environment()}
    for name in options.models or pretrained_names():
        model: Any
        model, guide = load_pair(name)
        recipe = recipe_from_config(model.card["config"], name)
        if not recipe.has_code or recipe.values == PIANO_ROLLS:
            print(f"{name} is not a model of images with a code")
            continue
        if model.card["results"] is None:
            raise ConfigError(f"{name} has no scores yet: finish the run first, with --resume")
        title = name if is_shipped(name) else Path(name).resolve().name
        test = recipe.load_data(options.data_dir, torch.device("cpu")).test
        if options.images:
            test = test.subset(options.images, seed=0)
        for part in [options.only] if options.only else PARTS:
            print(f"{name}: {part}", flush=True)
            if part == "lossless":
                found = lossless(model, guide, test.batch(slice(None)))
                if not is_shipped(name):
                    found["model"] = trained(recipe, model.card["results"])
            elif part == "others":
                levels = torch.bucketize(test.batch(slice(None)), recipe.values.support)
                found = others(levels.numpy().astype(np.uint8), recipe.values == BINARY)
            else:
                few = test.subset(options.lossy_images or len(test), seed=0)
                x = few.batch(slice(None))
                codec = LossyCodec(model, guide, options.log2_candidates)
                found, versions = lossy(codec, x, recipe.values, options.out / f"{title}.png")
                # Static MNIST has no labels of training images.
                if recipe.values == BINARY and recipe.dataset in ("mnist", "static-mnist"):
                    train = load_dataset("mnist", options.data_dir).train
                    found.update(digits_read(train, few.labels, x, versions[0]))
            rows.setdefault(title, {})[part] = {**found, **made}
            write_json(path, rows)
            (options.out / "table.md").write_text(table(rows))
    print((options.out / "table.md").read_text())
    return 0


def lossless(model: Any, guide: Any, x: Tensor) -> dict[str, Any]:
    """Compress all images, decompress them, compare, and estimate the ELBO of the same model."""
    codec = LosslessCodec(model, guide)
    data, compress = timed(lambda: codec.compress(x, verify=False))
    decompressed, decompress = timed(lambda: codec.decompress(data))
    assert torch.equal(decompressed, x)
    first = codec.compress(x[:1])
    scored = marginal_log_likelihood(model, guide, x, num_samples=ELBO_SAMPLES)
    nats = -scored.elbo.mean().item()
    return {
        "images": len(x),
        "bytes": len(data),
        "header_bytes": len(data) - Container.unpack(data).words.nbytes,
        "bits_per_pixel": 8 * len(data) / x.numel(),
        "bytes_of_the_first_image_alone": len(first),
        "compress_images_per_second": len(x) / compress,
        "decompress_images_per_second": len(x) / decompress,
        "negative_elbo_nats": nats,
        "negative_elbo_bits_per_pixel": nats / (x[0].numel() * log(2)),
        "elbo_samples": ELBO_SAMPLES,
    }


def trained(recipe: Recipe, results: dict[str, Any]) -> str:
    """How the model of a run was made."""
    minutes = results["train_seconds"] / 60
    return (
        f"Not shipped: {recipe.describe_parts()}, preset {recipe.preset}, seed {recipe.seed}, "
        f"trained on {results['train_images_seen']:,} images in {minutes:.0f} minutes"
    )


def lossy(
    codec: LossyCodec, x: Tensor, values: Values, path: Path
) -> tuple[dict[str, Any], list[Tensor]]:
    """Compress images to their codes, and return measurements and three decompressions."""
    data, found, seconds = coded(codec, x)
    torch.manual_seed(0)
    versions = [codec.decompress(data) for _ in range(3)]
    with torch.no_grad():
        likelihoods = [
            codec.model.likelihood(codec.model.decoder(z)).log_prob(part)
            for z, part in zip(codec.codes(data).split(256), x.split(256), strict=True)
        ]
    shown = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:SHOWN]
    titles = ("original", "first", "second", "third")
    pictures = (values.to_unit_range(v[shown]) for v in (x, *versions))
    groups = dict(zip(titles, pictures, strict=True))
    bits = found["bits_per_image"]
    title = f"Originals, and three decompressions of the same {bits:.1f} bits per image"
    save_figure(plot_groups(groups, title, groups_per_row=3), path)
    found["distortion_nats"] = -torch.cat(likelihoods).mean().item()
    found["compress_seconds"] = seconds
    return found, versions


def coded(codec: LossyCodec, x: Tensor) -> tuple[bytes, dict[str, Any], float]:
    """The file of the codes of images, its measurements, and the CPU seconds to make it."""
    rates = codec.rates(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # images of high rate are counted below
        data, seconds = timed(lambda: codec.compress(x))
    found = {
        "images": len(x),
        "bytes": len(data),
        "bits_per_image": 8 * len(data) / len(x),
        "rate_bits": rates.mean().item(),
        "log2_candidates": codec.log2_candidates,
        "images_with_too_high_a_rate": int((rates > codec.largest_rate).sum()),
    }
    return data, found, seconds


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
    lines = []
    for name, row in rows.items():
        sizes = {}
        if "lossless" in row:
            part = row["lossless"]
            promised = part["negative_elbo_bits_per_pixel"]
            sizes[f"`LosslessCodec`, {part['bytes']:,} bytes"] = part["bits_per_pixel"]
            sizes[f"-ELBO of the same model, {part['negative_elbo_nats']:.2f} nats"] = promised
        sizes.update(row.get("others", {}).get("bits_per_pixel", {}))
        if sizes:
            count = row.get("lossless", row.get("others"))["images"]
            lines += [f"\n### {name}, {count:,} test images without loss\n"]
            if "model" in row.get("lossless", {}):
                lines.append(f"{row['lossless']['model']}.\n")
            lines += ["| compressor | bits per dimension |", "|---|---|"]
            lines += [f"| {title} | {size:.4f} |" for title, size in sizes.items()]
        if "lossless" in row:
            lines.append(
                f"\nThe file is {part['bits_per_pixel'] / promised - 1:.2%} larger than -ELBO "
                f"({part['elbo_samples']} samples per image). {part['header_bytes']} bytes of it "
                "are the header. The first image alone takes "
                f"{part['bytes_of_the_first_image_alone']} bytes. In a second of CPU time, one "
                f"thread compresses {part['compress_images_per_second']:.0f} images or "
                f"decompresses {part['decompress_images_per_second']:.0f}."
            )
        if "lossy" in row:
            lines += lossy_table(name, row["lossy"])
        lines += dict.fromkeys(f"\n`{row[part]['command']}`" for part in PARTS if part in row)
    machines: dict[str, list[str]] = {}
    for name, row in rows.items():
        for part in PARTS:
            if part in row:
                machines.setdefault(", ".join(row[part]["versions"]), []).append(f"{name} ({part})")
    lines += [f"\nMeasured with {key}: {', '.join(parts)}." for key, parts in machines.items()]
    return "\n".join(lines).lstrip() + "\n"


def lossy_table(name: str, part: dict[str, Any]) -> list[str]:
    """The lines about lossy compression."""
    entries = {
        "size of the file": f"{part['bytes']:,} bytes",
        "bits per image": f"{part['bits_per_image']:.2f}",
        "mean rate (KL)": f"{part['rate_bits']:.2f} bits",
        f"images whose rate is too high for 2^{part['log2_candidates']} candidates": (
            f"{part['images_with_too_high_a_rate']:,}"
        ),
        "distortion, -log p(x given z)": f"{part['distortion_nats']:.2f} nats",
        "CPU time to compress": f"{part['compress_seconds']:.0f} s",
    }
    if "read_alike" in part:
        entries[f"read correctly by {part['classifier']}, before"] = (
            f"{part['read_correctly_before']:.1%}"
        )
        entries["the same, after"] = f"{part['read_correctly_after']:.1%}"
        entries["read as the same digit before and after"] = f"{part['read_alike']:.1%}"
    title = f"\n### {name}, {part['images']:,} test images with loss\n"
    return [title, "| with loss | |", "|--|--|", *(f"| {k} | {v} |" for k, v in entries.items())]


def timed(call: Any) -> tuple[Any, float]:
    """What a call returns, and its CPU time in seconds."""
    start = time.process_time()
    return call(), time.process_time() - start


if __name__ == "__main__":
    sys.exit(exit_status(main))
