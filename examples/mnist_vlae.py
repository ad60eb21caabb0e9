"""Train and score a Variational Lossy Autoencoder on binary or gray images.

    python examples/mnist_vlae.py
    python examples/mnist_vlae.py --dataset my_images.npz

Without options it trains on static MNIST for a few minutes on a CPU. `--preset
paper` is the full recipe, for a GPU. Samples, reconstructions, metrics,
checkpoint, and results go to a folder under runs/. For color images, use
cifar10_vlae.py.
"""

import sys

from pyro_vlae.experiments import BinaryRecipe, GrayRecipe
from pyro_vlae.experiments.command_line import exit_status
from pyro_vlae.experiments.train_command import train


def main(arguments: list[str] | None = None) -> int:
    """Run or resume the experiment, and return the exit status."""
    return train((BinaryRecipe, GrayRecipe), __doc__, arguments)


if __name__ == "__main__":
    sys.exit(exit_status(main, "--resume --out {out}"))
