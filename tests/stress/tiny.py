"""Runs so small that they can be killed and damaged often, with a checkpoint at each step."""

import importlib.util
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from pyro_vlae.data import load_dataset
from pyro_vlae.experiments import BinaryRecipe, ColorRecipe, recipes
from pyro_vlae.infer import partial

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMON = {"max_steps": 4, "max_minutes": None, "num_samples": 8, "eval_images": 8}
BINARY = {**COMMON, "batch_size": 4, "filters": 4, "masked_layers": 2}
COLOR = {**COMMON, "batch_size": 2, "eval_images": 2, "width": 4, "filters": 4, "flow_maps": 4}


@contextmanager
def tiny_runs(**binary):
    """Make the quick presets tiny, save at each step and each scored block, load data once."""
    settings, loaded = recipes.Recipe.training_settings, {}

    def often(recipe):
        every = {"checkpoint_minutes": 0.0, "log_every": 1, "validate_every": 2}
        return replace(settings(recipe), **every, validation_images=8)

    def load_once(name, root=None, device="cpu"):
        if name not in loaded:
            loaded[name] = load_dataset(name, root, device)
        return loaded[name]

    with (
        mock.patch.object(BinaryRecipe, "presets", {"quick": {**BINARY, **binary}}),
        mock.patch.object(ColorRecipe, "presets", {**ColorRecipe.presets, "quick": COLOR}),
        mock.patch.object(recipes.Recipe, "training_settings", often),
        mock.patch.object(recipes, "load_dataset", load_once),
        mock.patch.object(partial, "_SECONDS", 0.0),
    ):
        yield load_once


def example(name):
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
