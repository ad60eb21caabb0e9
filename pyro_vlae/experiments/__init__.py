"""Experiments: recipes, runs, trained weights, the paper's tables, the window study."""

from pyro_vlae.experiments.binary import BinaryRecipe
from pyro_vlae.experiments.color import ColorRecipe
from pyro_vlae.experiments.gray import GrayRecipe
from pyro_vlae.experiments.image_recipe import ImageRecipe, recipe_for
from pyro_vlae.experiments.piano_roll import PianoRollRecipe
from pyro_vlae.experiments.pretrained import load_pretrained, load_run, pretrained_names
from pyro_vlae.experiments.recipes import RECIPES, ConfigError, Recipe, option, register
from pyro_vlae.experiments.run import run

__all__ = [
    "RECIPES",
    "BinaryRecipe",
    "ColorRecipe",
    "ConfigError",
    "GrayRecipe",
    "ImageRecipe",
    "PianoRollRecipe",
    "Recipe",
    "load_pretrained",
    "load_run",
    "option",
    "pretrained_names",
    "recipe_for",
    "register",
    "run",
]
