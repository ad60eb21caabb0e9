"""Your own images: every accepted dtype, layout, and kind of data set, and what is refused."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pyro_vlae.data import BINARY, BYTES, GRAY, ImageDataset, Values

LEVELS = np.random.default_rng(0).integers(0, 256, (40, 5, 7), dtype=np.uint8)
LEVELS[0, 0, :2] = 0, 255
COLOR = np.random.default_rng(1).integers(0, 256, (40, 3, 5, 7), dtype=np.uint8)


def together(data):
    """All images of a data set in their original order, given that the labels number them."""
    parts = data.train, data.validation, data.test
    images, labels = (torch.cat([getattr(p, n) for p in parts]) for n in ("images", "labels"))
    assert sorted(labels.tolist()) == list(range(len(labels)))
    return images[labels.argsort()]


def make(images, **options):
    return ImageDataset.from_arrays(images, np.arange(len(images)), **options)


@pytest.mark.parametrize(
    "images",
    [
        LEVELS,
        LEVELS[:, None],
        LEVELS[..., None],
        LEVELS.astype(np.int64),
        LEVELS.astype(np.float64),  # 0 to 255
        LEVELS.astype(np.float32) / 255,
        torch.from_numpy(LEVELS),
        torch.from_numpy(LEVELS)[:, None].float() / 255,
        (torch.from_numpy(LEVELS) / 255).requires_grad_(),
    ],
    ids=lambda images: f"{type(images).__name__}-{images.dtype}-{images.ndim}",
)
def test_gray_levels_of_any_dtype_and_layout(images):
    data = make(images)
    assert data.values == GRAY and data.image_shape == (1, 5, 7)
    assert torch.equal(together(data), torch.from_numpy(LEVELS)[:, None])
    x = data.train.batch(slice(None))
    assert torch.equal(x, data.train.images / 127.5 - 1)


@pytest.mark.parametrize("images", [COLOR, COLOR.transpose(0, 2, 3, 1), COLOR / 255])
def test_color_with_channels_first_or_last(images):
    data = make(images)
    assert data.values == BYTES and data.image_shape == (3, 5, 7)
    assert torch.equal(together(data), torch.from_numpy(COLOR))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32, "0 and 255"])
def test_two_values_are_binary(kind):
    bits = LEVELS > 100
    data = make(bits.astype(np.uint8) * 255 if kind == "0 and 255" else bits.astype(kind))
    assert data.values == data.train.values == BINARY
    assert torch.equal(together(data), torch.from_numpy(bits)[:, None].to(torch.uint8))
    gray = make(bits, values=GRAY)
    assert gray.values == GRAY
    assert torch.equal(together(gray), 255 * together(data))


def test_gray_levels_can_be_binarized():
    data = make(LEVELS, values=BINARY)
    assert data.values == BINARY and data.train.values.bernoulli
    repeated = torch.stack([data.train.batch(slice(None)) for _ in range(400)])
    mean = data.train.images / 255
    assert ((repeated.mean(0) - mean).abs() <= 5 * (mean * (1 - mean) / 400).sqrt()).all()
    assert torch.equal(data.test.batch(slice(None)), data.test.batch(slice(None)))
    assert "binarized each time" in data.description


def test_a_value_means_the_same_in_all_splits():
    bits, levels = (LEVELS > 100).astype(np.uint8), LEVELS
    data = ImageDataset.from_arrays(levels, test=bits * 255)  # by itself, this split looks binary
    assert data.values == GRAY
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(bits * 255))
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 40)
    dark = ImageDataset.from_arrays(levels, test=bits)
    assert torch.equal(dark.test.images[:, 0], torch.from_numpy(bits))
    mixed = ImageDataset.from_arrays(levels / 255, test=bits.astype(bool))
    assert torch.equal(mixed.test.images[:, 0], torch.from_numpy(bits * 255))


@pytest.mark.parametrize("levels", [LEVELS, LEVELS.astype(np.float32), 255 * (LEVELS > 100)])
def test_bits_beside_levels_are_refused(levels):
    bits = LEVELS > 100
    message = "test images are bools, but train images have values up to 255: multiply the test im"
    with pytest.raises(ValueError, match=message):
        ImageDataset.from_arrays(levels, test=bits)
    with pytest.raises(ValueError, match="train images are bools, but test images have values up"):
        ImageDataset.from_arrays(bits, test=levels)
    if levels.dtype.kind != "f":  # otherwise they can be dark images
        with pytest.raises(ValueError, match="test images are floats 0 to 1, but train"):
            ImageDataset.from_arrays(levels, test=bits.astype(float))


@given(st.integers(3, 60), st.integers(0, 5))
def test_the_split_is_a_partition_fixed_by_its_seed(count, seed):
    images = np.zeros((count, 2, 2), bool)
    data, again = (make(images, seed=seed) for _ in range(2))
    assert len(together(data)) == count
    assert len(data.validation) == len(data.test) == max(1, round(count / 10))
    assert torch.equal(data.train.labels, again.train.labels)


def test_seeds_and_fractions_change_the_split():
    assert not torch.equal(make(LEVELS).test.labels, make(LEVELS, seed=1).test.labels)
    data = make(LEVELS, validation=0.25, test=0.5)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 10, 20)
    for options in ({"test": 0.0}, {"test": 1}, {"validation": 0.5, "test": 0.5}):
        with pytest.raises(ValueError, match="40 images cannot be split with validation=0"):
            make(LEVELS, **options)
    with pytest.raises(ValueError, match="2 images cannot be split"):
        make(LEVELS[:2])


def test_labels_are_integers_or_strings_and_stay_with_their_images():
    names = ["cat", "dog"]
    marks = [names[int(image[0, 0]) % 2] for image in LEVELS]
    data = ImageDataset.from_arrays(LEVELS, marks)
    for part in (data.train, data.validation, data.test):
        assert torch.equal(part.labels, part.images[:, 0, 0, 0].long() % 2)
    assert "2 labels (cat, dog)" in data.description
    column = ImageDataset.from_arrays(LEVELS, np.arange(40)[:, None])
    assert column.train.labels.shape == (32,)
    given_apart = ImageDataset.from_arrays((LEVELS, ["b"] * 40), test=(LEVELS[:3], ["a"] * 3))
    assert given_apart.train.labels.unique().tolist() == [1]
    assert given_apart.test.labels.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"40 labels, one per image, got shape \(39,\)"):
        ImageDataset.from_arrays(LEVELS, np.arange(39))
    with pytest.raises(ValueError, match="integers or strings, got float64"):
        ImageDataset.from_arrays(LEVELS, np.zeros(40))


class TorchVisionData:
    """Mimics `torchvision.datasets`: items are pairs of an image, transformed, and a class."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return len(LEVELS)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.transform(Image.fromarray(LEVELS[index])), index


class HuggingFaceData:
    """Mimics `datasets.Dataset`: items are dicts."""

    def __init__(self, images, image="image", label="label"):
        self.images, self.names = images, (image, label)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if isinstance(index, str):
            return [self[i][index] for i in range(len(self))]
        return dict(zip(self.names, (Image.fromarray(self.images[index]), index), strict=True))


def to_tensor(picture):
    return torch.from_numpy(np.array(picture))[None] / 255


@pytest.mark.parametrize(
    "images",
    [
        TorchVisionData(lambda picture: picture),
        TorchVisionData(to_tensor),
        torch.utils.data.Subset(TorchVisionData(to_tensor), range(40)),
        HuggingFaceData(LEVELS),
        HuggingFaceData(LEVELS, "img", "fine_label"),
    ],
)
def test_data_sets_of_other_libraries(images):
    data = ImageDataset.from_arrays(images)
    assert data.values == GRAY
    assert torch.equal(together(data), torch.from_numpy(LEVELS)[:, None])
    relabeled = ImageDataset.from_arrays(images, np.ones(40, int))
    assert relabeled.train.labels.unique().tolist() == [1]


def test_pictures_in_color_binary_and_with_palettes():
    color = COLOR.transpose(0, 2, 3, 1)
    data = ImageDataset.from_arrays(HuggingFaceData(color))
    assert torch.equal(together(data), torch.from_numpy(COLOR))
    bits = [Image.fromarray(image > 100) for image in LEVELS]
    assert bits[0].mode == "1" and ImageDataset.from_arrays(bits).values == BINARY
    palette = [Image.fromarray(LEVELS[i]).convert("P") for i in range(40)]
    assert torch.equal(together(make(palette))[:, 1], torch.from_numpy(LEVELS))
    mixed = [Image.fromarray(LEVELS[0]), *(Image.fromarray(image) for image in color[1:])]
    assert torch.equal(together(make(mixed))[0, 2], torch.from_numpy(LEVELS[0]))
    opacity = np.array([[0, 255, 51, 255], [0, 0, 0, 0]], np.uint8)
    black = Image.fromarray(np.dstack([np.zeros((2, 4, 3), np.uint8), opacity]))
    assert black.mode == "RGBA"  # on white:
    assert together(make([black] * 3))[0, :, 0].tolist() == [[255, 0, 204, 0]] * 3
    deep = Image.fromarray(np.zeros((4, 4), np.uint16))
    with pytest.raises(ValueError, match=r"more than 8 bits per pixel .*convert"):
        make([deep] * 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((9, 3, 5, 3)), r"\(9, 3, 5, 3\) can be .*channels_last=False or"),
        (np.zeros((9, 4, 5, 6)), r"no dimension of 1 \(gray\) or 3 .*opacity"),
        (np.zeros((9, 784)), r"flat rows, use images.reshape\(9, H, W\)"),
        (np.zeros((28, 28, 3)), r"looks like one image \(H, W, C\)"),
        (np.zeros((0, 5, 5)), "got shape"),
        (np.zeros(5), "got shape"),
        (np.full((9, 5, 5), np.nan), r"NaN or infinite.*, in train 9 of 9 \(first: image 0\)"),
        (np.full((9, 5, 5), 2.5), "floats 2.5 to 2.5: divide them by the value of white"),
        (np.linspace(-1, 1, 225).reshape(9, 5, 5), r"-1 to 1: map them .*images \+ 1"),
        (np.full((9, 5, 5), 300), "integers 300 to 300: divide"),
        (np.zeros((9, 5, 5), complex), "got complex"),
        ([np.zeros((5, 5)), np.zeros((5, 6))], "one size, but item 0 is 5x5 and item 1 is 5x6"),
        ([], "there are no images"),
        ([{"pixels": 1}], "keys pixels: rename"),
    ],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset.from_arrays(images)


def test_unknown_kinds_are_refused():
    with pytest.raises(TypeError, match=r"values must be BINARY, GRAY, or BYTES .*, got 'binary'"):
        ImageDataset.from_arrays(LEVELS, values="binary")
    with pytest.raises(TypeError, match="with a length and items, got a generator"):
        ImageDataset.from_arrays(image for image in LEVELS)
    with pytest.raises(TypeError, match=r'keys train, test: pass .*splits\["train"\], test='):
        ImageDataset.from_arrays({"train": LEVELS, "test": LEVELS})
    with pytest.raises(ValueError, match=r"test images: .*got shape"):
        ImageDataset.from_arrays(LEVELS, test=np.zeros((4, 25)))
    with pytest.raises(ValueError, match=r"different shapes .*\(1, 5, 7\).*\(1, 5, 5\)"):
        ImageDataset.from_arrays(LEVELS, test=LEVELS[..., :5])


def test_values_must_fit_the_channels():
    for images, values in (
        (LEVELS, BYTES),
        (COLOR, GRAY),
        (COLOR, BINARY),
        (LEVELS, Values("x", "nats", 9, 1)),
    ):
        with pytest.raises(ValueError, match=f"can have .* got values={values.name} for"):
            ImageDataset.from_arrays(images, values=values)


def test_ambiguous_channels_can_be_named():
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 5, 3))
    first, last = (make(images, channels_last=last) for last in (False, True))
    assert first.image_shape == (3, 5, 3) and last.image_shape == (3, 3, 5)
    assert torch.equal(together(first), torch.from_numpy(images).byte())
    assert torch.equal(together(last), torch.from_numpy(images).byte().movedim(-1, 1))
    with pytest.raises(ValueError, match="where channels_last says"):
        make(COLOR, channels_last=True)


def test_the_description_says_what_was_done(caplog):
    with caplog.at_level(logging.INFO, "pyro_vlae.data"):
        data = make(LEVELS / 255, name="cells")
    assert caplog.messages == [data.description]
    for part in ("cells: 40 gray images 5x7 (floats 0 to 1, rounded to levels 0 to 255)",
                 "32 / 4 / 4 to train, validate, and test (held out at random, seed 0)",
                 "40 labels"):  # fmt: skip
        assert part in data.description
    scanned = make(LEVELS // 16)
    assert "0 to 15, taken as levels of 0 to 255; if 15 is white, divide by it" in (
        scanned.description
    )
    checksum = data.description.rpartition(" ")[2]
    assert make(LEVELS).description.endswith(checksum)  # the same bytes
    changed = LEVELS.copy()
    changed[3, 2, 1] ^= 1
    assert not make(changed).description.endswith(checksum)


def test_plots_show_gray_levels_as_they_are():
    x = make(LEVELS).train.batch(slice(None))
    shown = GRAY.to_unit_range(x)
    assert shown.shape == (32, 3, 5, 7)
    assert torch.allclose(shown[:, 1:2] * 2 - 1, x, atol=1e-6)
    assert GRAY.to_unit_range(x.expand(2, *x.shape)).shape == (2, 32, 3, 5, 7)
    assert BINARY.to_unit_range((x > 0).float()).shape == (32, 1, 5, 7)
