"""What there is, in a few lines: ``python -m pyro_vlae``."""

import argparse
import sys

from pyro_vlae import __version__

EXAMPLES = {
    "mnist_vlae.py": "train, score and draw on binary images",
    "cifar10_vlae.py": "the same on CIFAR-10, with chosen windows",
    "cifar10_windows.py": "several windows' decompressions on a page",
    "binary_images.py": "the rows of the paper's tables",
    "window_study.py": "what a window leaves to the code",
    "code_figures.py": "what a trained model's code decides",
    "results_page.py": "compares the runs with the paper",
    "export_weights.py": "a run's weights, for load_pretrained",
}
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


def contents() -> str:
    """What the package holds that has a name."""
    # Here, not above: they bring torch along, for which --version need not wait.
    from pyro_vlae.data import dataset_names
    from pyro_vlae.models import pretrained_names

    scripts = [f"  python examples/{name:18} {what}" for name, what in EXAMPLES.items()]
    return "\n".join(
        [
            "scripts of the repository (each has --help):",
            *scripts,
            f"data sets: {', '.join(dataset_names())}",
            f"trained weights: {', '.join(pretrained_names())}",
            "",
            "to cite:",
            CITATION,
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Print it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyro_vlae",
        description=f"pyro_vlae {__version__}: the Variational Lossy Autoencoder as a Pyro program",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this page, as without any option")
    add("--version", action="version", version=f"pyro_vlae {__version__}")
    parser.parse_args(arguments)
    parser.epilog = contents()
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
