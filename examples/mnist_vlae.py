"""Train, score and draw a Variational Lossy Autoencoder on binary images.

    python examples/mnist_vlae.py

Without options: static MNIST, a few minutes on a CPU, the full recipe on a GPU.
Pictures, metrics, checkpoint and results go to a folder under runs/.
"""

import argparse
import sys

from pyro_vlae.data import BINARY, DatasetNotFoundError, dataset_names, load_dataset
from pyro_vlae.experiments.command_line import (
    add_folder_options,
    add_run_options,
    carry_out,
    exit_status,
    folder_to_resume,
    given_options,
    make_parser,
    new_folder,
    pick_device,
    pick_preset,
    positive,
)
from pyro_vlae.experiments.config import make_config, read_config


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; None where nothing was given."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    datasets = f"{', '.join(dataset_names(BINARY))}; default: static-mnist, or digits without data"
    add("--dataset", choices=dataset_names(BINARY), metavar="NAME", help=datasets)
    add("--prior", choices=("flow", "normal"), help="p(z); default: flow")
    add("--guide", choices=("gaussian", "iaf"), help="q(z | x); default: gaussian")
    add("--likelihood", choices=("pixelcnn", "bernoulli"), help="p(x | z); default: pixelcnn")
    add("--batch-size", type=positive(int), metavar="N", help="images per step")
    add("--learning-rate", type=positive(float), metavar="LR", help="peak, of Adamax")
    add_run_options(parser)
    add_folder_options(parser, "runs/DATASET-PRESET")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    options = parse(arguments)
    given = given_options(options)
    device = pick_device(options.device)
    if options.resume:
        out = folder_to_resume(options)
        config = read_config(out, given)
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
    print(data.description)
    carry_out(config, data, device, out, options.resume)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "--resume --out {out}"))
