"""The command ``pyro-vlae``, which is also ``python -m pyro_vlae``."""

import argparse
import sys
from importlib import import_module
from typing import NamedTuple

from pyro_vlae._version import __version__


class Command(NamedTuple):
    """A command: its function, ``module:function``, and what it does.

    The function takes the remaining arguments and returns the exit status. `resume` are the options
    that continue an interrupted run, with ``{out}`` for its folder.
    """

    target: str
    summary: str
    resume: str = ""


_AGAIN = "the same command and --resume"
COMMANDS = {
    "train": Command(
        "pyro_vlae.commands.train:main", "train a model and score it", "--resume --out {out}"
    ),
    "score": Command("pyro_vlae.commands.score:main", "score a trained model on test images"),
    "sample": Command(
        "pyro_vlae.commands.sample:main", "generate images or music from a trained model"
    ),
    "figures": Command("pyro_vlae.commands.figures:main", "plot what a model's code controls"),
    "compress": Command("pyro_vlae.commands.compression:compress", "compress images to a file"),
    "decompress": Command(
        "pyro_vlae.commands.compression:decompress", "decompress a file of images"
    ),
    "window-study": Command(
        "pyro_vlae.commands.window_study:main", "train one model per window", _AGAIN
    ),
    "compare-windows": Command(
        "pyro_vlae.commands.compare_windows:main", "decompress color images under several windows"
    ),
    "paper-table": Command(
        "pyro_vlae.commands.paper_table:main", "train the rows of one of the paper's tables", _AGAIN
    ),
    "results-page": Command(
        "pyro_vlae.commands.results_page:main", "compare runs with the paper's tables"
    ),
    "info": Command(
        "pyro_vlae.commands.info:main", "show data sets, trained weights, and how to cite"
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="pyro-vlae",
        usage="%(prog)s COMMAND [options]",
        description=f"pyro_vlae {__version__}: the Variational Lossy Autoencoder as a Pyro program",
        epilog="commands:\n" + "\n".join(lines) + "\n\n%(prog)s COMMAND --help shows its options",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pyro_vlae {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    name = parser.parse_args(arguments[:1]).command
    if name is None:
        parser.print_help()
        return 0
    if name not in COMMANDS:
        parser.error(f"there is no command {name!r}: choose {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    # What the command sees as its own name, and where `exit_status` looks for --debug.
    sys.argv = [f"pyro-vlae {name}", *arguments[1:]]
    module, function = command.target.split(":")
    # Imported here because they need torch, and --version and --help do not.
    run = getattr(import_module(module), function)
    exit_status = import_module("pyro_vlae.experiments.command_line").exit_status
    return exit_status(lambda: run(arguments[1:]), command.resume)


if __name__ == "__main__":
    sys.exit(main())
