"""How the window of the decoder determines the size of a compressed image.

    OMP_NUM_THREADS=1 python examples/compression_windows.py runs/windows

Takes the folder of a finished window study. Compresses test images to their
codes under each window, decompresses them, and writes windows.json and
windows.png, with sizes of files. Takes minutes per window.
"""

import sys
from typing import Any

import torch
from compression import coded

from pyro_vlae.codec import LossyCodec
from pyro_vlae.experiments import ConfigError, load_run
from pyro_vlae.experiments.command_line import exit_status, folder, make_parser, positive
from pyro_vlae.experiments.recipes import read_recipe
from pyro_vlae.experiments.run import EVALUATION_SEED, command
from pyro_vlae.experiments.stored import read_results
from pyro_vlae.plots import plot_groups, save_figure
from pyro_vlae.reproducible import write_json

SHOWN = 10


def main(arguments: list[str] | None = None) -> int:
    """Compress under each window, write the results, and return the exit status."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("study", type=folder, help="folder of a window study")
    add("--images", type=positive(int), metavar="N", default=500, help="default: 500")
    add("--log2-candidates", type=positive(int), metavar="N", default=20, help="default: 20")
    add("--data-dir", type=folder, metavar="DIR", help="default: $PYRO_VLAE_DATA, then the cache")
    add("--out", type=folder, metavar="DIR", help="default: the folder of the study")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rates = {p.parent: read_results(p)["kl_nats"] for p in options.study.glob("*/results.json")}
    if not rates:
        raise ConfigError(f"{options.study} holds no finished runs: name a study's folder")
    out = options.out or options.study
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    pictures = {}
    for run in sorted(rates, key=lambda run: -rates[run]):
        recipe = read_recipe(run)
        test = recipe.load_data(options.data_dir, torch.device("cpu")).test
        x = test.subset(min(options.images, len(test)), seed=EVALUATION_SEED).batch(slice(None))
        codec = LossyCodec(*load_run(run), options.log2_candidates)
        data, found, _ = coded(codec, x)
        results[run.name] = found
        torch.manual_seed(EVALUATION_SEED)
        pictures.setdefault("original", x[:SHOWN])
        pictures[f"{run.name}\n{found['bits_per_image']:.1f} bits"] = codec.decompress(data)[:SHOWN]
        print(
            f"window {run.name}: {found['bytes']:,} bytes, {found['bits_per_image']:.2f} bits per "
            f"image, mean rate {found['rate_bits']:.2f} bits",
            flush=True,
        )
    write_json(out / "windows.json", {"command": command(), "windows": results})
    title = f"{len(x):,} test images ({recipe.dataset_name}) compressed to their codes, by window"
    save_figure(plot_groups(pictures, title, 2), out / "windows.png")
    print(f"the figure is {out / 'windows.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
