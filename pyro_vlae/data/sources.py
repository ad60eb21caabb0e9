"""Images and labels of arrays, tensors, Pillow images, and data sets of other libraries."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vlae.data.formats import Array

IMAGE_KEYS = ("image", "img", "images", "pixel_values")
LABEL_KEYS = ("label", "labels", "fine_label", "target")


def gather(images: Any, labels: Any = None) -> tuple[Array, Array | None]:
    """Images and labels as arrays, in the dtype and layout that they have.

    Args:
        images: see `ImageDataset.from_arrays`.
        labels: labels, which replace those of a data set.

    Raises:
        TypeError: images of an unknown kind.
        ValueError: no images, or images of different sizes.
    """
    if isinstance(images, tuple) and len(images) == 2 and labels is None:
        images, labels = images
    if isinstance(images, Mapping):
        raise TypeError(
            f"got a mapping with the keys {', '.join(map(str, images))}: pass its splits one by "
            'one, as from_arrays(splits["train"], test=splits["test"])'
        )
    if not isinstance(images, np.ndarray | Tensor):
        if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
            raise TypeError(
                "expected an array, a tensor, or a data set with a length and items, got a "
                f"{type(images).__name__}"
            )
        items = [_image_and_label(images[i]) for i in range(len(images))]
        images = stack([image for image, _ in items], lambda i: f"item {i}")
        if labels is None and all(label is not None for _, label in items):
            labels = [int(label) if isinstance(label, Tensor) else label for _, label in items]
    return _as_array(images), None if labels is None else _as_array(labels)


def picture(image: Any) -> Array:
    """Pixels of a Pillow image, ``uint8``: ``(H, W)`` if it is gray, else ``(H, W, 3)``.

    Transparent pixels are put on white.

    Raises:
        ValueError: it has more than 8 bits per channel.
    """
    if image.mode[0] in "IF":
        raise ValueError(
            f"more than 8 bits per pixel (Pillow's mode {image.mode!r}): convert it to 8 bits"
        )
    gray = image.mode in ("1", "L", "LA")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA")).astype(np.float32)
        color, opacity = pixels[..., :3], pixels[..., 3:] / 255
        pixels = np.rint(255 + opacity * (color - 255)).astype(np.uint8)
        return pixels[..., 0] if gray else pixels
    return np.asarray(image.convert("L" if gray else "RGB"))


def stack(pictures: Sequence[Array], name: Callable[[int], str]) -> Array:
    """Stack images of one size; gray ones among color ones get three equal channels.

    Args:
        pictures: the images.
        name: describes the image with an index, for messages.

    Raises:
        ValueError: there are none, or their sizes differ.
    """
    if not pictures:
        raise ValueError("there are no images")
    shapes = sorted({image.shape for image in pictures}, key=len)
    if len(shapes) == 2 and shapes[1] == (*shapes[0], 3):
        pictures = [
            np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image for image in pictures
        ]
    elif len(shapes) > 1:
        first = pictures[0].shape
        other = next(i for i, image in enumerate(pictures) if image.shape != first)
        raise ValueError(
            f"all images must have one size, but {name(0)} is {_size(first)} and {name(other)} is "
            f"{_size(pictures[other].shape)}: resize or crop them first"
        )
    return np.stack(pictures)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _image_and_label(item: Any) -> tuple[Array, Any]:
    """Image and label (or None) of an item of a data set of torchvision or Hugging Face."""
    label = None
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        if key is None:
            raise ValueError(
                f"the items have the keys {', '.join(map(str, item))}: rename the one of the "
                f"images to {IMAGE_KEYS[0]!r}"
            )
        label = next((item[name] for name in LABEL_KEYS if name in item), None)
        item = item[key]
    elif isinstance(item, tuple):
        item, label = item[0], item[1] if len(item) > 1 else None
    return _as_array(item), label


def _as_array(values: Any) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    # Only Pillow's images have these two.
    is_picture = hasattr(values, "convert") and hasattr(values, "mode")
    return picture(values) if is_picture else np.asarray(values)
