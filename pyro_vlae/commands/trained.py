"""Trained models as arguments of commands: a run's folder, or the name of shipped weights."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_vlae.data import PIANO_ROLLS
from pyro_vlae.experiments import (
    ConfigError,
    Recipe,
    load_pretrained,
    load_run,
    pretrained_names,
)
from pyro_vlae.experiments.command_line import add_place_options, pick_device
from pyro_vlae.experiments.recipes import recipe_from_config


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``model`` and the options for the data folder and the device."""
    names = ", ".join(pretrained_names())
    parser.add_argument("model", help=f"the folder of a run, or trained weights by name ({names})")
    add_place_options(parser)


def load_model(
    options: argparse.Namespace,
) -> tuple[Any, nn.Module, Recipe, torch.device]:
    """The model that ``options.model`` names, its guide, its recipe, and the device both are on."""
    device = pick_device(options.device)
    load = load_pretrained if is_shipped(options.model) else load_run
    model: Any
    model, guide = (module.to(device) for module in load(options.model))
    return model, guide, recipe_from_config(model.card["config"], options.model), device


def check_images(recipe: Recipe, model: str) -> None:
    """Raise a `ConfigError` if the model is one of piano rolls."""
    if recipe.values == PIANO_ROLLS:
        raise ConfigError(
            f"{model} is a model of piano rolls, and this command takes models of images: "
            "examples/piano_rolls.py writes samples and pictures of piano rolls"
        )


def is_shipped(model: str) -> bool:
    """Whether this is the name of shipped weights; a folder of that name is written ``./NAME``."""
    return model in pretrained_names()


def run_folder(model: str) -> Path:
    """The folder for what is made from a model: that of its run, or ``runs/NAME``."""
    return (Path("runs") if is_shipped(model) else Path()) / model
