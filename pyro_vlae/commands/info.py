"""Show the data sets, the trained weights, and how to cite."""

from pyro_vlae.data import dataset_names
from pyro_vlae.experiments import RECIPES, pretrained_names
from pyro_vlae.experiments.command_line import make_parser

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
    """Print the page, and return the exit status."""
    make_parser(__doc__).parse_args(arguments)
    for family, recipe in RECIPES.items():
        print(f"data sets ({family}): {', '.join(dataset_names(recipe.values))}")
    print(f"trained weights: {', '.join(pretrained_names())}\n\nto cite:\n{CITATION}")
    return 0
