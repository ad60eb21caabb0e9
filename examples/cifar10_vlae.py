"""Train, score and draw a Variational Lossy Autoencoder on CIFAR-10.

    python examples/cifar10_vlae.py --window 4x2

Without options: window 7x4, a reduced model for a quarter of an hour on a CPU,
the full recipe on a GPU. The window is what the decoder sees of the image:
what it cannot see there, the code has to hold. Pictures, metrics, checkpoint
and results go to a folder under runs/.
"""

import argparse
import sys

from pyro_vlae.data import load_dataset
from pyro_vlae.experiments.color_config import COLOR_PRESETS, ColorConfig
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
    add("--window", choices=("4x2", "5x3", "7x4", "7x4-gray"), help="default: 7x4")
    add("--encoder", choices=("resnet", "densenet"), help="default: resnet; decoder alike")
    add("--prior", choices=("flow", "normal"), help="p(z); default: flow")
    add("--width", type=positive(int), help="maps at 32x32, twice as many below; paper: 48")
    add("--filters", type=positive(int), help="maps of the PixelCNN's stacks; paper: 64")
    add("--flow-maps", type=positive(int), help="maps of the prior's layers; paper: 128")
    add("--target-nats", type=positive(float), help="rate that soft free bits hold; default: 100")
    add("--flips", action="store_true", default=None, help="mirror training images at random")
    add("--batch-size", type=positive(int), help="images per step")
    add("--learning-rate", type=positive(float), help="peak learning rate of Adamax")
    add_run_options(parser)
    add_folder_options(parser, "runs/cifar10-PRESET")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    options = parse(arguments)
    given = given_options(options)
    device = pick_device(options.device)
    if options.resume:
        out = folder_to_resume(options)
        config = read_config(out, given, ColorConfig)
    else:
        given["preset"] = pick_preset(options.preset, device)
        config = make_config(given, COLOR_PRESETS)
        out = options.out or new_folder(config)
    data = load_dataset(config.dataset, options.data_dir, device)
    if config.flips:
        data = data.with_flips()
    print(data.description)
    carry_out(config, data, device, out, options.resume)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "--resume --out {out}"))
