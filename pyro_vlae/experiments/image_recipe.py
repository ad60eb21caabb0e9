"""Recipes for images of any size, of a data set with a name or of your own."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from pyro_vlae.data import (
    DatasetError,
    ImageDataset,
    dataset_names,
    load_dataset,
    load_images,
)
from pyro_vlae.data.names import similar_name
from pyro_vlae.experiments.options import ConfigError
from pyro_vlae.experiments.recipes import RECIPES, Recipe


@dataclass(frozen=True)
class ImageRecipe(Recipe):
    """Base class of recipes for images, which may come from an ``.npz`` file or a folder.

    Args:
        image_shape: ``(C, H, W)`` of the images.
    """

    image_shape: tuple[int, int, int] = (1, 28, 28)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "image_shape", tuple(self.image_shape))  # a list in config.json

    @classmethod
    def options(cls) -> dict[str, dict[str, Any]]:
        known = super().options()
        del known["dataset"]["choices"]  # or a path
        return known

    @classmethod
    def from_options(cls, **given: Any) -> Self:
        """Make a recipe from a preset and the given options (None: not given).

        Raises:
            ConfigError: ``dataset`` is neither the name of a data set of this family nor a path.
        """
        return super().from_options(**_with_full_path(cls, given))

    @classmethod
    def from_data(cls, data: ImageDataset, **given: Any) -> Self:
        """Make a recipe for these images from a preset and the given options (None: not given).

        The options may include ``dataset``, the path or name that the images were loaded by.

        Raises:
            ConfigError: it, by default the name of these images, is that of another data set.
        """
        if is_path(given.get("dataset")):
            given = _with_full_path(cls, given)
        given = {**given, "dataset": given.get("dataset") or data.name}
        _refuse_name_of_others(given["dataset"], data)
        return super().from_options(**given).for_data(data)

    @classmethod
    def resume(cls, folder: Path, **given: Any) -> Self:
        return super().resume(folder, **_with_full_path(cls, given))

    def for_data(self, data: ImageDataset) -> Self:
        return replace(self, image_shape=data.image_shape)

    def check(self, data: ImageDataset) -> None:
        super().check(data)
        if data.image_shape != self.image_shape:
            raise ConfigError(
                f"{data.name} has images of shape {data.image_shape}, the recipe is for "
                f"{self.image_shape}: make it with {type(self).__name__}.from_data(data)"
            )
        if data.name != self.dataset:
            _refuse_name_of_others(self.dataset, data)

    def load_data(self, root: Path | None, device: torch.device) -> ImageDataset:
        if self.dataset in dataset_names():
            return super().load_data(root, device)
        return load_images(self.dataset, self.values).to(device)


def recipe_for(
    data: ImageDataset, kinds: Iterable[type[Recipe]] | None = None, **given: Any
) -> ImageRecipe:
    """The recipe of the family whose models take images with these values.

    Args:
        data: the images.
        kinds: recipe classes to choose from, all registered ones if None.
        **given: fields of the recipe, such as ``max_minutes=5``.

    Raises:
        ConfigError: none takes these values, or the name of the images is that of another data set.

    Example:
        >>> data = ImageDataset.from_arrays(torch.rand(100, 20, 20))
        >>> recipe_for(data, max_minutes=5).family
        'gray'
    """
    kinds = list(RECIPES.values() if kinds is None else kinds)
    for kind in kinds:
        if issubclass(kind, ImageRecipe) and kind.values == data.values:
            return kind.from_data(data, **given)
    suitable = [kind.family for kind in RECIPES.values() if kind.values == data.values]
    way_out = f": {_command(suitable[0], '...')}" if suitable else ""
    raise ConfigError(
        f"{data.name} has {data.values.name} values, for models of the family "
        f"{' or '.join(suitable) or 'none'}, not of {' or '.join(kind.family for kind in kinds)}"
        f"{way_out}"
    )


def is_path(dataset: str | None) -> bool:
    """Whether this is an existing path, and not the name of a data set."""
    named = dataset is None or dataset in dataset_names()
    return not named and Path(str(dataset)).expanduser().exists()


def _refuse_name_of_others(name: str, data: ImageDataset) -> None:
    """Raise a `ConfigError` if images from memory would be replaced when a run is loaded again."""
    own = data.name != name or data.description.startswith(f"{data.name}: ")  # by from_arrays
    if not own or name not in dataset_names():
        return
    try:
        # Not another one if it was registered by this name.
        if load_dataset(name, download=False).description == data.description:
            return
    except DatasetError:
        pass
    raise ConfigError(
        f"{name} is the name of another data set, by which the run would be scored: give these "
        f"images another name, as in ImageDataset.from_arrays(images, name='my-{name}'); they are "
        f"{data.description}"
    )


def _command(family: str, dataset: str) -> str:
    """How to train models of a family."""
    script = " or examples/cifar10_vlae.py" if family == "color" else ""
    return f"use pyro-vlae train {family} --dataset {dataset}{script}"


def _with_full_path(kind: type[Recipe], given: dict[str, Any]) -> dict[str, Any]:
    """The options with a path to a data set made absolute: a run may be continued from anywhere.

    Raises:
        ConfigError: ``dataset`` is neither the name of a data set of this family nor a path.
    """
    dataset, names = given.get("dataset"), dataset_names(kind.values)
    if dataset is None or dataset in names:
        return given
    others = [k.family for k in RECIPES.values() if dataset in dataset_names(k.values)]
    if others:
        raise ConfigError(
            f"{dataset} is a data set for models of the family {others[0]}, not of {kind.family}: "
            f"{_command(others[0], dataset)}"
        )
    path = Path(dataset).expanduser()
    if not (is_path(dataset) or path.is_absolute()):
        raise ConfigError(
            f"dataset must be one of {', '.join(names)}, the path of an .npz file, or of a folder "
            f"of images; got {dataset!r}, which does not exist{similar_name(dataset, names)}"
        )
    return {**given, "dataset": str(path.resolve())}
