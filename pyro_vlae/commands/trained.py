"""Trained models as arguments of commands: a run's folder, or the name of shipped weights."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_vlae.data import PIANO_ROLLS, DatasetNotFoundError, ImageDataset, dataset_names
from pyro_vlae.experiments import (
    ConfigError,
    Recipe,
    pretrained_names,
)
from pyro_vlae.experiments.command_line import add_data_dir_option, add_device_option, pick_device
from pyro_vlae.experiments.pretrained import is_shipped, load_pair
from pyro_vlae.experiments.recipes import recipe_from_config


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``model`` and the option for the device."""
    parser.add_argument("model", help=model_help())
    add_device_option(parser)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the images are, if not where they were for training."""
    text = "name, .npz file, or folder; default: what the model was trained on"
    parser.add_argument("--dataset", metavar="NAME", help=text)
    add_data_dir_option(parser)


def load_data(options: argparse.Namespace, recipe: Recipe, device: torch.device) -> ImageDataset:
    """The images that ``options.dataset`` names, by default those that the model was trained on.

    Raises:
        ConfigError: they are not found, or the model is one of other images.
    """
    if options.dataset is not None:
        recipe = replace(recipe, dataset=options.dataset)
    try:
        data = recipe.load_data(options.data_dir, device)
    except DatasetNotFoundError as error:
        if options.dataset or recipe.dataset in dataset_names():
            raise
        raise ConfigError(
            f"{options.model} was trained on {recipe.dataset}, which is not there: say where the "
            "images are with --dataset PATH"
        ) from error
    recipe.check(data)
    return data


def model_help() -> str:
    """The help text of an argument that names a trained model."""
    names = ", ".join(pretrained_names())
    return f"the folder of a run, or trained weights by name ({names})"


def load_model(
    options: argparse.Namespace,
) -> tuple[Any, nn.Module, Recipe, torch.device]:
    """The model that ``options.model`` names, its guide, its recipe, and the device both are on."""
    device = pick_device(options.device)
    model: Any
    model, guide = (module.to(device) for module in load_pair(options.model))
    return model, guide, recipe_from_config(model.card["config"], options.model), device


def check_images(recipe: Recipe, model: str) -> None:
    """Raise a `ConfigError` if the model is one of piano rolls."""
    if recipe.values == PIANO_ROLLS:
        raise ConfigError(
            f"{model} is a model of piano rolls, and this command takes models of images: for "
            "pictures of piano rolls, use pyro-vlae sample or examples/piano_rolls.py"
        )


def run_folder(model: str) -> Path:
    """The folder for what is made from a model: that of its run, or ``runs/NAME``."""
    return (Path("runs") if is_shipped(model) else Path()) / model
