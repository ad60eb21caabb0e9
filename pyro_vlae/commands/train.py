"""Train a model and score it.

    %(prog)s --dataset static-mnist
    %(prog)s color --window 4x2

The first word is a family of models: {families};
without it, binary or gray, by the data set.
`%(prog)s color --help` shows the options of the family color. Samples,
reconstructions, metrics, checkpoint, and results go to a folder under runs/.
"""

import sys

from pyro_vlae.experiments import RECIPES, ConfigError
from pyro_vlae.experiments.train_command import train


def main(arguments: list[str] | None = None) -> int:
    """Run or resume an experiment, and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    families = ["binary", "gray"]  # the data decide
    if arguments and not arguments[0].startswith("-"):
        families, arguments = arguments[:1], arguments[1:]
    if families[0] not in RECIPES:
        raise ConfigError(
            f"there is no family {families[0]!r} of models: choose {', '.join(RECIPES)}"
        )
    kinds = [RECIPES[family] for family in families]
    return train(kinds, str(__doc__).format(families=", ".join(RECIPES)), arguments)
