"""Train a model and score it.

    %(prog)s --dataset static-mnist
    %(prog)s color --window 4x2

The first word is a family of models: {families}; without it, binary.
`%(prog)s color --help` shows the options of the family color. Samples,
reconstructions, metrics, checkpoint, and results go to a folder under runs/.
"""

import sys

from pyro_vlae.experiments import RECIPES, ConfigError
from pyro_vlae.experiments.command_line import train


def main(arguments: list[str] | None = None) -> int:
    """Run or resume an experiment, and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    family = "binary"
    if arguments and not arguments[0].startswith("-"):
        family, *arguments = arguments
    if family not in RECIPES:
        raise ConfigError(f"there is no family {family!r} of models: choose {', '.join(RECIPES)}")
    return train(RECIPES[family], str(__doc__).format(families=", ".join(RECIPES)), arguments)
