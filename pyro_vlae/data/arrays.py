"""Conversion of images and labels of any common dtype and layout to those of `ImageSplit`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vlae.data.formats import Array
from pyro_vlae.data.sources import gather

# How far floats may be outside [0, 1], as after resizing or in half precision: they are clipped.
ROUNDING = 1e-3


@dataclass(frozen=True)
class ConvertedImages:
    """Images as bytes.

    Args:
        images: ``uint8`` of shape ``(N, C, H, W)``, by split.
        labels: ``int64`` of shape ``(N,)`` or None, by split.
        binary: whether the bytes are 0 and 1; otherwise they are levels 0 to 255.
        read_as: the values that were found and what they were taken as, in words.
        classes: the class that each label stands for, if labels were strings.
    """

    images: dict[str, Tensor]
    labels: dict[str, Tensor | None]
    binary: bool
    read_as: str
    classes: tuple[str, ...]


def convert(
    splits: Mapping[str, tuple[Any, Any]], channels_last: bool | None = None
) -> ConvertedImages:
    """Convert splits together, so that a value has the same meaning in all of them.

    Args:
        splits: images and labels (or None) by split, see `ImageDataset.from_arrays`.
        channels_last: whether four-dimensional arrays are ``(N, H, W, C)``; None to infer it.

    Raises:
        ValueError: images or labels are not as described there.
        TypeError: they are of an unknown kind.
    """
    images, labels = {}, {}
    for name, source in splits.items():
        try:
            found, marks = gather(*source)
            images[name] = _channels_first(found, channels_last)
            labels[name] = None if marks is None else _flat_labels(marks, len(found))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{name} images: {error}") from error
    shapes = {name: part.shape[1:] for name, part in images.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the splits hold images of different shapes (C, H, W): {shapes}")
    to_bytes, binary, read_as = _meaning(images)
    classes: tuple[str, ...] = ()
    given = [marks for marks in labels.values() if marks is not None]
    if any(marks.dtype.kind == "U" for marks in given):
        classes = tuple(np.unique(np.concatenate(given).astype(str)).tolist())
    return ConvertedImages(
        {
            # A copy: views may be strided or read-only.
            name: torch.from_numpy(np.array(to_bytes(part), np.uint8, order="C"))
            for name, part in images.items()
        },
        {
            name: None if marks is None else torch.from_numpy(_indices(marks, classes))
            for name, marks in labels.items()
        },
        binary,
        read_as,
        classes,
    )


def _channels_first(images: Array, channels_last: bool | None) -> Array:
    """Images ``(N, H, W)``, ``(N, C, H, W)``, or ``(N, H, W, C)`` as ``(N, C, H, W)``."""
    shape = images.shape
    if len(shape) not in (3, 4) or 0 in shape:
        hint = f"; for flat rows, use images.reshape({shape[0]}, H, W)" if len(shape) == 2 else ""
        raise ValueError(
            "expected images (N, H, W), (N, C, H, W), or (N, H, W, C), each size at least 1, got "
            f"shape {shape}{hint}"
        )
    if len(shape) == 3:
        if shape[-1] in (1, 3):
            raise ValueError(
                f"shape {shape} looks like one image (H, W, C), expected images (N, H, W): add a "
                "dimension"
            )
        return images[:, None]
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if channels_last is None:
        if first and last:
            raise ValueError(
                f"shape {shape} can be (N, C, H, W) or (N, H, W, C): pass channels_last=False or "
                "channels_last=True"
            )
        channels_last = last
    if not (last if channels_last else first):
        raise ValueError(
            f"shape {shape} has no dimension of 1 (gray) or 3 (color) channels"
            f"{' where channels_last says' if first or last else ''}: drop other channels, such as "
            "the opacity"
        )
    return images.transpose(0, 3, 1, 2) if channels_last else images


def _meaning(images: Mapping[str, Array]) -> tuple[Callable[[Array], Array], bool, str]:
    """A function to bytes, whether these are 0 and 1, and what was found, in words."""
    parts = list(images.values())
    kinds = {part.dtype.kind for part in parts}
    if kinds == {"b"}:
        return _unchanged, True, "bool"
    if not kinds <= set("biuf"):
        names = ", ".join(sorted({str(part.dtype) for part in parts}))
        raise ValueError(f"expected images of bools, integers, or floats, got {names}")
    low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    floats = "f" in kinds
    found = f"{'floats' if floats else 'integers'} {low:.3g} to {high:.3g}"
    if not np.isfinite([low, high]).all():
        name, bad = next(
            (name, bad)
            for name, part in images.items()
            if len(bad := np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(1)))
        )
        raise ValueError(
            f"the images hold NaN or infinite values, in {name} {len(bad)} of {len(images[name])} "
            f"(first: image {bad[0]}): leave these out"
        )
    if not floats or all(bool((part == np.rint(part)).all()) for part in parts):
        if low >= 0 and high <= 1:
            return _unchanged, True, found
        if low >= 0:
            _refuse_bits_beside_levels(images)
        if low == 0 and high == 255 and all(_has_only(part, 0, 255) for part in parts):
            return _is_white, True, "values 0 and 255, taken as 0 and 1"
        if low >= 0 and high <= 255:
            dark = f"; if {high:g} is white, divide by it first" if high < 128 else ""
            return _unchanged, False, f"{found}, taken as levels of 0 to 255{dark}"
    if floats and low >= -ROUNDING and high <= 1 + ROUNDING:
        return _to_levels, False, f"{found}, rounded to levels 0 to 255"
    way_out = "divide them by the value of white, so that they are floats 0 to 1"
    if low < 0:
        way_out = "map them to 0 to 1, such as (images + 1) / 2 if they are -1 to 1"
    raise ValueError(f"expected bools, integers 0 to 255, or floats 0 to 1, got {found}: {way_out}")


def _refuse_bits_beside_levels(images: Mapping[str, Array]) -> None:
    """Raise a ValueError if 1 is white in one split, while others hold levels.

    Not of dark images in the same dtype as the others, and of black ones, which are 0 in any case.
    """
    levels = [name for name, part in images.items() if part.max() > 1]
    integers = [name for name in levels if images[name].dtype.kind in "iu"]
    for name, part in images.items():
        others = {"b": levels, "f": integers}.get(part.dtype.kind, [])
        if others and part.max() == 1:
            found = "bools" if part.dtype.kind == "b" else "floats 0 to 1"
            raise ValueError(
                f"{name} images are {found}, but {others[0]} images have values up to "
                f"{images[others[0]].max():g}: multiply the {name} images by the value of white"
            )


def _unchanged(images: Array) -> Array:
    return images


def _is_white(images: Array) -> Array:
    return images == 255


def _to_levels(images: Array) -> Array:
    return np.rint(255 * np.clip(images, 0, 1))


def _has_only(images: Array, *values: int) -> bool:
    return bool(np.isin(images, values).all())


def _flat_labels(labels: Array, count: int) -> Array:
    """Labels ``(N,)`` or ``(N, 1)`` as integers or strings ``(N,)``."""
    if labels.shape not in ((count,), (count, 1)):
        raise ValueError(f"expected {count} labels, one per image, got shape {labels.shape}")
    if labels.dtype.kind not in "biuU":
        raise ValueError(f"expected labels that are integers or strings, got {labels.dtype}")
    return labels.reshape(count)


def _indices(labels: Array, classes: tuple[str, ...]) -> Array:
    if not classes:
        return labels.astype(np.int64)
    return np.searchsorted(np.array(classes), labels.astype(str)).astype(np.int64)
