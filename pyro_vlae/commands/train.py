"""Train a model and score it.

    %(prog)s --dataset static-mnist
    %(prog)s color --window 4x2

The first word is a family of models: {families}. If it is
left out, the data set decides between binary and gray; with --resume, the run
does.
`%(prog)s color --help` shows the options of the family color. Samples,
reconstructions, metrics, checkpoint, and results go to a folder under runs/.
"""

import argparse
import sys
from pathlib import Path

from pyro_vlae.experiments import RECIPES, ConfigError
from pyro_vlae.experiments.recipes import read_recipe
from pyro_vlae.experiments.train_command import train
from pyro_vlae.infer.distributed import from_rank_0


def main(arguments: list[str] | None = None) -> int:
    """Run or resume an experiment, and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    families = ["binary", "gray"]  # the data decide
    if arguments and not arguments[0].startswith("-"):
        families, arguments = arguments[:1], arguments[1:]
    else:
        resumed = _family_of_resumed(arguments)
        if resumed and resumed not in families:
            families = [resumed]
    if families[0] not in RECIPES:
        raise ConfigError(f"there is no model family {families[0]!r}: choose {', '.join(RECIPES)}")
    kinds = [RECIPES[family] for family in families]
    return train(kinds, str(__doc__).format(families=", ".join(RECIPES)), arguments)


def _family_of_resumed(arguments: list[str]) -> str | None:
    """The family of the run to be resumed, if the arguments name one that is there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", nargs="?", type=Path)
    found, _ = parser.parse_known_args(arguments)
    there = found.resume and found.out is not None and (found.out / "config.json").exists()
    # Rank 0 looks before it writes the file.
    return read_recipe(found.out).family if from_rank_0(there) else None
