"""Train, score and draw a Variational Lossy Autoencoder on binary images.

    python examples/mnist_vlae.py

Without options: static MNIST, a few minutes on a CPU, the full recipe on a GPU.
Pictures, metrics, checkpoint and results go to a folder under runs/.
"""

import argparse
import sys
from pathlib import Path

from shared import (
    add_run_options,
    build,
    exit_status,
    folder,
    make_parser,
    pick_device,
    pick_preset,
    positive,
    report,
)

from pyro_vlae.data import DATASET_NAMES, DatasetNotFoundError, load_dataset
from pyro_vlae.experiment import has_checkpoint, prepare_folder, run
from pyro_vlae.run_config import ConfigError, RunConfig, make_config, read_config
from pyro_vlae.training.checkpoint import read_state


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; None where nothing was given."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    datasets = f"{', '.join(DATASET_NAMES)}; default: static-mnist, or digits without data"
    add("--dataset", choices=DATASET_NAMES, metavar="NAME", help=datasets)
    add("--prior", choices=("flow", "normal"), help="p(z); default: flow")
    add("--guide", choices=("gaussian", "iaf"), help="q(z | x); default: gaussian")
    add("--likelihood", choices=("pixelcnn", "bernoulli"), help="p(x | z); default: pixelcnn")
    add("--batch-size", type=positive(int), metavar="N", help="images per step")
    add("--learning-rate", type=positive(float), metavar="LR", help="peak, of Adamax")
    add_run_options(parser)
    add("--out", type=folder, metavar="DIR", help="default: runs/DATASET-PRESET, numbered")
    add("--resume", action="store_true", help="go on with the run in DIR")
    return parser.parse_args(arguments)


def new_folder(config: RunConfig) -> Path:
    """The first of runs/NAME, runs/NAME-2, ... that does not exist."""
    base = Path("runs", f"{config.dataset}-{config.preset}")
    out, number = base, 1
    while out.exists():
        number += 1
        out = base.with_name(f"{base.name}-{number}")
    return out


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    options = parse(arguments)
    given = {
        name: value
        for name, value in vars(options).items()
        if name not in ("data_dir", "debug", "device", "out", "resume")
    }
    device = pick_device(options.device)
    if options.resume:
        if options.out is None:
            raise ConfigError("--resume needs --out DIR, the folder of the run to go on with")
        config = read_config(options.out, given)
        out = options.out
        data = load_dataset(config.dataset, options.data_dir, device)
    else:
        given["preset"] = pick_preset(options.preset, device)
        config = make_config(given)
        try:
            data = load_dataset(config.dataset, options.data_dir, device)
        except DatasetNotFoundError as error:
            if options.dataset is not None:
                raise
            print(f"{str(error).splitlines()[0]} Going on with the digits of scikit-learn.")
            config = make_config({**given, "dataset": "digits"})
            data = load_dataset("digits", device=device)
        out = options.out or new_folder(config)
    prepare_folder(config, out, options.resume)
    if options.resume and has_checkpoint(out):
        state = read_state(out / "checkpoint")
        print(f"going on at step {state['step']}, {state['images_seen']:,} images seen")

    model, guide = build(config, device)
    print(data.description)
    print(config.describe(), f"device {device}; writing to {out}", sep="\n", flush=True)
    results = run(config, data, model, guide, out, options.resume)
    report(results, out)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "--resume --out {out}"))
