"""The commands that compress files of images and decompress them."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyro_vlae.commands.trained import check_images, model_help
from pyro_vlae.data import Values
from pyro_vlae.experiments.command_line import folder, make_folder, make_parser, seed
from pyro_vlae.experiments.options import ConfigError
from pyro_vlae.experiments.pretrained import load_pair
from pyro_vlae.experiments.recipes import recipe_from_config
from pyro_vlae.reproducible import write_array, write_atomically

Array = np.ndarray[Any, np.dtype[Any]]

COMPRESS = """Compress images with a trained model.

    %(prog)s --model static-mnist --lossless images.npy images.vlae
    %(prog)s --model static-mnist --lossy png-folder images.vlae

The images must be of the kind and size that the model was trained for: binary,
gray, or color. An array of gray or color images has the levels 0 to 255 as
uint8, (N, C, H, W) or, with one channel, (N, H, W).
--lossless keeps every pixel; the file can be decompressed only with the same
model, the same versions of torch and constriction, and on the same kind of
machine. --lossy keeps the code, some 20 bits per digit: the shape survives, its
details are sampled anew at each decompression. Compressing with loss takes
minutes, however few the images.
"""
DECOMPRESS = """Decompress images with the model that compressed them.

    %(prog)s --model static-mnist images.vlae images.npy

Images compressed with loss are sampled: another --seed gives other details.
"""


def compress(arguments: list[str] | None = None) -> int:
    """Compress a file or folder of images, and return the exit status."""
    parser = make_parser(COMPRESS)
    parser.add_argument("--model", required=True, metavar="NAME", help=model_help())
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--lossless", action="store_true", help="keep every pixel")
    kind.add_argument("--lossy", action="store_true", help="keep the code alone")
    parser.add_argument("images", type=folder, help=".npy file, or folder of PNG files")
    parser.add_argument("file", type=folder, help="compressed file to write")
    options = parser.parse_args(arguments)
    _check_paths(options.images, options.file)
    if options.file.is_dir():
        raise ConfigError(f"{options.file} is a folder: name the compressed file to write")
    codec, values, shape = _codec(options.model, lossless=options.lossless)
    x = read_images(options.images, values, shape[0])
    if x.shape[1:] != shape:
        raise ConfigError(
            f"{options.images} has images of shape {tuple(x.shape[1:])}, the model takes {shape}"
        )
    make_folder(options.file.parent)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = codec.compress(x)
    for warning in caught:
        print(f"warning: {warning.message}")
    write_atomically(options.file, data)
    bits = 8 * len(data) / len(x)
    unit = "pixel" if shape[0] == 1 else "dimension"
    print(
        f"wrote {options.file}: {len(x):,} images, {len(data):,} bytes, {bits:.1f} bits per image, "
        f"{bits / x[0].numel():.4f} bits per {unit}"
    )
    return 0


def decompress(arguments: list[str] | None = None) -> int:
    """Decompress a file to a file or folder of images, and return the exit status."""
    from pyro_vlae.codec.container import Container

    parser = make_parser(DECOMPRESS)
    parser.add_argument("--model", required=True, metavar="NAME", help=model_help())
    parser.add_argument("file", type=folder, help="compressed file")
    parser.add_argument("images", type=folder, help=".npy file or folder of PNG files to write")
    parser.add_argument("--seed", type=seed, metavar="N", default=0, help="default: 0")
    options = parser.parse_args(arguments)
    _check_paths(options.file, options.images)
    data = options.file.read_bytes()
    lossless = Container.unpack(data).method == "lossless"
    codec, values, shape = _codec(options.model, lossless)
    check_target(options.images, values, shape[0])
    make_folder(options.images.parent)
    torch.manual_seed(options.seed)
    x = codec.decompress(data)
    write_images(options.images, x, values)
    print(f"wrote {options.images}: {len(x):,} images")
    return 0


def read_images(path: Path, values: Values, channels: int) -> Tensor:
    """Images of a ``.npy`` file or a folder of PNG files, sorted by name: ``(N, C, H, W)``.

    Args:
        path: the file or folder.
        values: of the model.
        channels: likewise.

    Returns:
        What the model sees.

    Raises:
        ConfigError: there are no images, or not all of one size and of the model's kind.
    """
    array = _read_folder(path, channels) if path.is_dir() else _read_array(path)
    if array.ndim == 3:
        array = array[:, None]
    if array.dtype.kind not in "biuf" or array.ndim != 4 or len(array) == 0:
        raise ConfigError(
            f"{path} has an array of shape {array.shape}, {array.dtype}; expected numbers, images "
            "(N, H, W) or (N, C, H, W), N at least 1"
        )
    if array.shape[1] != channels:
        raise ConfigError(
            f"{path} has images of {array.shape[1]} channels, the model takes {channels}: expected "
            f"an array (N, {channels}, H, W)"
        )
    levels = values.support
    if len(levels) == 2:
        array = _as_bits(path, array)
    elif array.dtype != np.uint8:
        raise ConfigError(
            f"{path} has values of type {array.dtype}, the model takes {values.name} images: save "
            "their levels 0 to 255 as uint8"
        )
    return levels[torch.from_numpy(array.astype(np.int64, order="C"))]


def write_images(path: Path, x: Tensor, values: Values) -> None:
    """Write images as levels (``.npy``), or as PNG files in a folder; see `check_target`."""
    levels = values.support
    array = torch.bucketize(x, levels).to(torch.uint8).numpy()
    channels = array.shape[1]
    if channels == 1:
        array = array[:, 0]
    if path.suffix == ".npy":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_array(path, array)
        return
    path.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(array) - 1))
    if channels == 3:
        array = array.transpose(0, 2, 3, 1)
    for number, picture in enumerate(array):
        shown = Image.fromarray(picture * np.uint8(255 // (len(levels) - 1)))
        shown = shown.convert("1") if len(levels) == 2 else shown
        content = io.BytesIO()
        shown.save(content, "PNG")
        write_atomically(path / f"{number:0{digits}}.png", content.getvalue())


def check_target(path: Path, values: Values, channels: int) -> None:
    """Raise a ConfigError if images of this kind cannot be written to a path."""
    if path.suffix == ".npy":
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: name the .npy file to write")
        return
    if (channels, len(values.support)) not in ((1, 2), (1, 256), (3, 256)):
        raise ConfigError(f"images of {channels} channels can be written as .npy only")
    if path.is_dir():
        if any(path.iterdir()):
            raise ConfigError(f"the folder {path} is not empty: name a new one")
    elif path.suffix or path.exists():
        raise ConfigError(f"{path} must be an .npy file or a folder for PNG files")


def _check_paths(source: Path, target: Path) -> None:
    """Raise a ConfigError if the target would replace the source."""
    if source.resolve() == target.resolve():
        raise ConfigError(f"{target} would be replaced by what is made from it: name another file")


def _read_folder(path: Path, channels: int) -> Array:
    """PNG files as bytes ``(N, C, H, W)``, one channel or three."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".png")
    if not files:
        raise ConfigError(f"the folder {path} has no PNG files")
    pictures: list[Array] = []
    for file in files:
        try:
            with Image.open(file) as image:
                mode, transparent = image.mode, "transparency" in image.info
                picture = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        except Exception as error:  # of many kinds, if the file is damaged
            raise ConfigError(f"{file} cannot be read as an image ({error})") from error
        if mode not in ("1", "L", "P", "RGB") or transparent:
            raise ConfigError(
                f"{file} has the mode {mode} or transparency, and some of it would be lost: save "
                "it with 8 bits per channel, in gray or RGB"
            )
        if channels == 1:
            if not (picture == picture[:1]).all():
                raise ConfigError(f"{file} is in color, the model takes one channel: convert it")
            picture = picture[:1]
        if pictures and picture.shape != pictures[0].shape:
            raise ConfigError(
                f"{file} has shape {picture.shape[1:]}, {files[0]} has {pictures[0].shape[1:]}: "
                "all images must have the same size"
            )
        pictures.append(picture)
    return np.stack(pictures)


def _read_array(path: Path) -> Array:
    try:
        # Unlike np.load, this reads no more than the file holds, and no archives.
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # of many kinds, if the file is damaged
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path} is not an .npy file of numbers ({reason})") from error


def _as_bits(path: Path, array: Array) -> Array:
    """An array of 0 and 1, or of 0 and 255, as 0 and 1."""
    found = np.unique(array)
    if not (np.isin(found, (0, 1)).all() or np.isin(found, (0, 255)).all()):
        raise ConfigError(
            f"{path} has {len(found)} different values from {found[0]} to {found[-1]}; expected "
            "only 0 and 1, or 0 and 255: binarize the images first"
        )
    return array > 0


def _codec(name: str, lossless: bool) -> tuple[Any, Values, tuple[int, ...]]:
    """The codec of a trained model, and the values and shape of its images."""
    # Imported here because it needs an optional package.
    from pyro_vlae.codec import LosslessCodec, LossyCodec

    model: Any
    model, guide = load_pair(name)
    recipe = recipe_from_config(model.card["config"], name)
    check_images(recipe, name)
    codec = (LosslessCodec if lossless else LossyCodec)(model, guide)
    with torch.no_grad():
        z = model.prior().sample((1,))
        shape = tuple(model.likelihood(model.decoder(z)).event_shape)
    return codec, recipe.values, shape
