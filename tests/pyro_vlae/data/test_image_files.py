"""Your own images on disk: files and folders in every accepted form, and damaged ones."""

import zipfile
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vlae import reproducible
from pyro_vlae.data import BINARY, BYTES, GRAY, DatasetError, DatasetNotFoundError, load_images

LEVELS = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)


def write_folder(folder, images, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start):
        Image.fromarray(image).save(folder / f"{number:03}.png")


def all_images(data):
    parts = data.train, data.validation, data.test
    return sorted(image.flatten().tolist() for part in parts for image in part.images)


EXPECTED = sorted(image.flatten().tolist() for image in LEVELS)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_images_and_labels(tmp_path, save):
    path = tmp_path / "cells.npz"
    save(path, images=LEVELS, labels=LEVELS[:, 0, 0])
    data = load_images(path)
    assert data.name == "cells" and data.values == GRAY and all_images(data) == EXPECTED
    assert torch.equal(data.train.labels, data.train.images[:, 0, 0, 0].long())
    assert load_images(str(path), BINARY).values == BINARY
    np.savez(path, images=LEVELS > 9)
    data = load_images(path)
    assert data.values == BINARY and data.train.labels is None


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "val_images", "test_images", "train_labels"),
        ("train_images", "validation_images", "test_images", "train_labels"),
        ("x_train", "x_val", "x_test", "y_train"),
    ],
)
def test_npz_with_splits(tmp_path, names):
    path = tmp_path / "a.npz"
    arrays = LEVELS[:12], LEVELS[12:15], LEVELS[15:], np.arange(12)[:, None]
    np.savez(path, **dict(zip(names, arrays, strict=True)))
    data = load_images(path)
    parts = data.train, data.validation, data.test
    for part, images in zip(parts, arrays, strict=False):
        assert torch.equal(part.images[:, 0], torch.from_numpy(images))
    assert data.train.labels.tolist() == list(range(12)) and data.test.labels is None


def test_npz_without_usable_arrays_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    for arrays, message in (
        ({"pictures": LEVELS}, "holds pictures; expected images, or train_images"),
        ({}, "holds nothing"),
        ({"test_images": LEVELS}, "holds test images, but no training images"),
        ({"images": np.array([{}])}, "cannot be read .Object arrays cannot"),
        ({"images": LEVELS, "labels": np.zeros(3)}, "expected 20 labels"),
        ({"images": LEVELS.reshape(20, -1)}, "flat rows"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DatasetError, match=message) as caught:
            load_images(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    np.save(tmp_path / "a.npy", LEVELS)
    with pytest.raises(
        DatasetError, match=r"a\.npy cannot be read .it is not an \.npz file.: save it"
    ):
        load_images(tmp_path / "a.npy")
    with pytest.raises(DatasetNotFoundError, match=r"no file or folder .*nowhere"):
        load_images(tmp_path / "nowhere")


def test_npz_files_that_inflate_to_gigabytes_or_hold_a_name_twice_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=LEVELS)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("images.npy", b"")
    with pytest.raises(DatasetError, match=r"a\.npz cannot be read .it holds two arrays"):
        load_images(path)
    np.savez_compressed(path, images=np.zeros((1, 1 << 20, 9), np.uint8))
    with (
        mock.patch.object(reproducible, "_INFLATED_BYTES", 1 << 20),
        pytest.raises(DatasetError, match=r"a\.npz cannot be read .its .* would become 9,437"),
    ):
        load_images(path)
    np.savez(path, **{"line\nbreak" + "x" * 999: LEVELS})
    with pytest.raises(DatasetError, match="expected images") as caught:
        load_images(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def damaged(content, generator):
    """Content that is cut, overwritten, or extended somewhere."""
    at = int(generator.integers(len(content)))
    noise = generator.bytes(int(generator.integers(1, 30)))
    choices = content[:at], content[:at] + noise + content[at + len(noise) :], noise + content
    return choices[generator.integers(3)]


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_damaged_files_give_the_images_or_one_line_with_the_name(tmp_path, kind):
    generator = np.random.default_rng(5)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=LEVELS)
    if kind == "png":
        write_folder(tmp_path / "folder", LEVELS)
        path = tmp_path / "folder" / "000.png"
    content, refused = path.read_bytes(), 0
    for _ in range(60):
        path.write_bytes(damaged(content, generator))
        try:
            data = load_images(path if kind == "npz" else path.parent)
        except DatasetError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error)
        else:
            assert kind == "png" or all_images(data) == EXPECTED
    assert refused > 30


def test_a_folder_of_images(tmp_path):
    write_folder(tmp_path / "cells", LEVELS)
    (tmp_path / "cells" / "notes.txt").write_text("not an image")
    (tmp_path / "cells" / ".hidden.png").write_text("not an image")
    data = load_images(tmp_path / "cells")
    assert data.name == "cells" and data.values == GRAY and data.train.labels is None
    assert all_images(data) == EXPECTED


def test_a_folder_per_class_and_per_split(tmp_path):
    for name, images in (("b", LEVELS[:10]), ("a", LEVELS[10:])):
        write_folder(tmp_path / "flat" / name, images)
    data = load_images(tmp_path / "flat")
    assert all_images(data) == EXPECTED and "2 labels (a, b)" in data.description
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        assert (image[0].numpy() == LEVELS[:10]).all((1, 2)).any() == label
    for split, part in (("train", LEVELS[:12]), ("val", LEVELS[12:16]), ("test", LEVELS[16:])):
        for name, images in (("x", part[::2]), ("y", part[1::2])):
            write_folder(tmp_path / "split" / split / name, images)
    data = load_images(tmp_path / "split")
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(data.test.images[:2, 0], torch.from_numpy(LEVELS[16::2].copy()))


def test_names_of_splits_in_any_case(tmp_path):
    for name, images in (("Train", LEVELS[:12]), ("VAL", LEVELS[12:16]), ("Test", LEVELS[16:])):
        write_folder(tmp_path / "a" / name, images)
    data = load_images(tmp_path / "a")
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    assert data.train.labels is None


@pytest.mark.parametrize("names", [("test", "validation"), ("Test", "training"), ("cat", "val")])
def test_folders_of_splits_without_train_are_not_taken_for_classes(tmp_path, names):
    for name in names:
        write_folder(tmp_path / name, LEVELS)
    found = " and ".join(n for n in names if n.lower() in ("test", "validation", "val"))
    with pytest.raises(
        DatasetError, match=f"holds {found} images, but no training images: .*rename"
    ):
        load_images(tmp_path)


def test_color_files_without_color_are_gray(tmp_path):
    gray = np.repeat(LEVELS[..., None], 3, -1)
    write_folder(tmp_path / "a", gray)
    assert load_images(tmp_path / "a").image_shape == (1, 6, 5)
    gray[7, 2, 3, 1] ^= 255
    write_folder(tmp_path / "a", gray)
    data = load_images(tmp_path / "a")
    assert data.image_shape == (3, 6, 5) and data.values == BYTES


def test_folders_that_are_not_of_images_are_refused(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    with pytest.raises(DatasetError, match="a holds no images, and no folders of images"):
        load_images(folder)
    write_folder(folder, LEVELS)
    write_folder(folder, [LEVELS[0, :5]], start=30)
    with pytest.raises(
        DatasetError, match=r"one size, but 000\.png is 6x5 and 030\.png is 5x5: resize"
    ):
        load_images(folder)
    (folder / "030.png").unlink()
    write_folder(folder / "more", LEVELS)
    with pytest.raises(DatasetError, match=r"images \(000.png, ...\) and folders of images \(more"):
        load_images(folder)
    with pytest.raises(DatasetError, match="2 images cannot be split"):
        write_folder(tmp_path / "b", LEVELS[:2])
        load_images(tmp_path / "b")
