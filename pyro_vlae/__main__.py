"""Version, data sets, trained weights, and citation: ``python -m pyro_vlae``."""

import argparse
import sys

from pyro_vlae._version import __version__

CITATION = """\
@inproceedings{chen2017variational,
  title     = {Variational Lossy Autoencoder},
  author    = {Chen, Xi and Kingma, Diederik P. and Salimans, Tim and
               Duan, Yan and Dhariwal, Prafulla and Schulman, John and
               Sutskever, Ilya and Abbeel, Pieter},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  note      = {arXiv:1611.02731}
}"""


def main(arguments: list[str] | None = None) -> int:
    """Print the version, the available names, and the citation; returns the exit status.

    With ``compress`` or ``decompress`` as the first argument, run this command instead.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in (["compress"], ["decompress"]):
        from pyro_vlae.experiments import compression
        from pyro_vlae.experiments.command_line import exit_status

        return exit_status(lambda: getattr(compression, arguments[0])(arguments[1:]))
    parser = argparse.ArgumentParser(
        prog="python -m pyro_vlae",
        description=f"pyro_vlae {__version__}: the Variational Lossy Autoencoder as a Pyro program",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this page, which is also the default")
    add("--version", action="version", version=f"pyro_vlae {__version__}")
    parser.parse_args(arguments)
    # Imported here because they need torch, and --version does not.
    from pyro_vlae.data import dataset_names
    from pyro_vlae.experiments import pretrained_names

    parser.epilog = (
        f"data sets: {', '.join(dataset_names())}\n"
        f"trained weights: {', '.join(pretrained_names())}\n\nto cite:\n{CITATION}"
    )
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
