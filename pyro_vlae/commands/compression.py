"""The commands that compress files of images and decompress them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vlae.commands.trained import load_pair, model_help
from pyro_vlae.experiments.command_line import folder, make_parser, seed
from pyro_vlae.experiments.options import ConfigError
from pyro_vlae.reproducible import write_array, write_atomically

Array = np.ndarray[Any, np.dtype[Any]]

COMPRESS = """Compress binary images with a trained model.

    %(prog)s --model static-mnist --lossless images.npy images.vlae
    %(prog)s --model static-mnist --lossy png-folder images.vlae

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
    parser.add_argument("images", type=folder, help=".npy file (N, H, W), or folder of PNG files")
    parser.add_argument("file", type=folder, help="compressed file to write")
    options = parser.parse_args(arguments)
    x = read_images(options.images)
    codec = _codec(options.model, lossless=options.lossless)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = codec.compress(x)
    for warning in caught:
        print(f"warning: {warning.message}")
    options.file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.file, data)
    bits = 8 * len(data) / len(x)
    print(
        f"wrote {options.file}: {len(x):,} images, {len(data):,} bytes, {bits:.1f} bits per image, "
        f"{bits / x[0].numel():.4f} bits per pixel"
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
    data = options.file.read_bytes()
    codec = _codec(options.model, lossless=Container.unpack(data).method == "lossless")
    torch.manual_seed(options.seed)
    x = codec.decompress(data)
    write_images(options.images, x)
    print(f"wrote {options.images}: {len(x):,} images")
    return 0


def read_images(path: Path) -> Tensor:
    """Binary images of a ``.npy`` file or a folder of PNG files, sorted by name: ``(N, C, H, W)``.

    Raises:
        ConfigError: there are none, of one size, with values 0 and 1 or 0 and 255.
    """
    from PIL import Image

    if path.is_dir():
        files = sorted(path.glob("*.png"))
        if not files:
            raise ConfigError(f"the folder {path} has no PNG files")
        pictures = []
        for file in files:
            try:
                with Image.open(file) as image:
                    pictures.append(np.asarray(image.convert("L")))
            except Exception as error:  # of many kinds, if the file is damaged
                raise ConfigError(f"{file} cannot be read as an image ({error})") from error
        for file, picture in zip(files, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise ConfigError(
                    f"{file} has shape {picture.shape}, {files[0]} has {pictures[0].shape}: all "
                    "images must have the same size"
                )
        array = np.stack(pictures)
    else:
        try:
            # Unlike np.load, this reads no more than the file holds, and no archives.
            array = np.lib.format.open_memmap(path, mode="r")
        except OSError:
            raise
        except Exception as error:  # of many kinds, if the file is damaged
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"{path} is no .npy file of numbers ({reason})") from error
    if array.dtype.kind not in "biuf" or array.ndim not in (3, 4) or len(array) == 0:
        raise ConfigError(
            f"{path} has an array of shape {array.shape}, {array.dtype}; expected numbers, images "
            "(N, H, W) or (N, C, H, W)"
        )
    found = np.unique(array)
    if not (np.isin(found, (0, 1)).all() or np.isin(found, (0, 255)).all()):
        raise ConfigError(
            f"{path} has {len(found)} different values from {found[0]} to {found[-1]}; expected "
            "only 0 and 1, or 0 and 255: binarize the images first"
        )
    x = torch.from_numpy((array > 0).astype(np.float32))
    return x.unsqueeze(1) if x.dim() == 3 else x


def write_images(path: Path, x: Tensor) -> None:
    """Write binary images as an array of 0 and 1 (``.npy``), or as PNG files in a folder."""
    from PIL import Image

    array = x.to(torch.uint8).numpy()
    if array.shape[1] == 1:
        array = array[:, 0]
    if path.suffix == ".npy":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_array(path, array)
        return
    if array.ndim != 3:
        raise ConfigError(f"images of {array.shape[1]} channels can be written as .npy only")
    path.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(array) - 1))
    for number, picture in enumerate(array):
        Image.fromarray(255 * picture).convert("1").save(path / f"{number:0{digits}}.png")


def _codec(name: str, lossless: bool) -> Any:
    """The codec of a trained model."""
    # Imported here because it needs an optional package.
    from pyro_vlae.codec import LosslessCodec, LossyCodec

    return (LosslessCodec if lossless else LossyCodec)(*load_pair(name))
