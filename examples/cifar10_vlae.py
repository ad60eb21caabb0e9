"""Train and score a Variational Lossy Autoencoder on color images.

    python examples/cifar10_vlae.py --window 4x2
    python examples/cifar10_vlae.py --dataset my_images/

Without options it trains a reduced model with window 7x4 on CIFAR-10, for
twelve minutes on a CPU. `--preset paper` is the full recipe, for a GPU. The
window is the part of the image that the decoder sees; the code must carry the
rest. Samples, reconstructions, metrics, checkpoint, and results go to a folder
under runs/.
"""

import sys

from pyro_vlae.experiments import ColorRecipe
from pyro_vlae.experiments.command_line import exit_status
from pyro_vlae.experiments.train_command import train


def main(arguments: list[str] | None = None) -> int:
    """Run or resume the experiment, and return the exit status."""
    return train(ColorRecipe, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(exit_status(main, "--resume --out {out}"))
