"""The data sets: counts, means, orientation and fixed binarizations of the real files."""

import gzip
import hashlib
import shutil

import numpy as np
import pytest
import scipy.io
import torch

from pyro_vlae.data import (
    BINARY,
    BYTES,
    GRAY,
    INTENSITIES,
    PIANO_ROLLS,
    DatasetCorruptError,
    DatasetNotFoundError,
    ImageDataset,
    ImageSplit,
    Values,
    dataset_names,
    datasets,
    files,
    load_dataset,
    readers,
    register_dataset,
)
from pyro_vlae.data.formats import decode_idx


@pytest.fixture(autouse=True)
def no_other_data(tmp_path, monkeypatch):
    """Only what a test passes as root: no cache, no network."""
    monkeypatch.setattr(files, "user_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(files, "download", lambda addresses, *_: (None, addresses))


def mean(split):
    return split.images.double().mean().item() / split.values.largest


def mean_image(images):
    return images.double().mean((0, 1))


def correlation(first, second):
    return torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1].item()


def digest(split):
    return hashlib.sha256(split.images.numpy().tobytes()).hexdigest()[:16]


def assert_splits(data, sizes, values):
    assert data.image_shape == (1, 28, 28)
    assert tuple(len(split) for split in (data.train, data.validation, data.test)) == sizes
    assert data.train.values is values
    assert data.validation.values is data.test.values is data.values is BINARY
    assert len(data.train_validation) == sizes[0] + sizes[1]
    assert data.train_validation.values is values
    for split in (data.train, data.validation, data.test):
        batch = split.batch(torch.arange(0, len(split), 50))
        assert batch.dtype == torch.float32
        assert set(batch.unique().tolist()) == {0.0, 1.0}


@pytest.mark.real_data
def test_static_mnist(real_data_root):
    data = load_dataset("static-mnist", real_data_root)
    assert_splits(data, (50_000, 10_000, 10_000), BINARY)
    assert mean(data.train) == pytest.approx(0.130562, abs=1e-6)
    assert mean(data.validation) == pytest.approx(0.131127, abs=1e-6)
    assert mean(data.test) == pytest.approx(0.132512, abs=1e-6)
    assert data.train.labels is None and data.validation.labels is None
    # Train and validation together are a sample of MNIST's 60,000 train images.
    gray = load_dataset("mnist", real_data_root).train_validation
    target = mean_image(gray.images) / 255
    both = mean_image(data.train_validation.images)
    assert (both - target).abs().max() < 5 * (0.25 / 60_000) ** 0.5
    assert (both.T - target).abs().max() > 0.1


@pytest.mark.real_data
def test_static_mnist_test_images_are_mnist_sorted_by_digit(real_data_root, tmp_path, monkeypatch):
    """So their labels are known: no pixel of any image is impossible under its gray levels."""
    static, mnist = (load_dataset(name, real_data_root).test for name in ("static-mnist", "mnist"))
    store = files.FileStore("mnist", real_data_root, download=False)
    gray = torch.from_numpy(decode_idx(store.read(readers._MNIST[2])).copy())[:, None]

    def impossible(order):
        white, black = gray[order] == 0, gray[order] == 255
        ink = static.images.bool()
        return ((white & ink) | (black & ~ink)).flatten(1).any(1)

    order = mnist.labels.argsort(stable=True)
    assert not impossible(order).any()
    assert impossible(order.roll(1)).double().mean() > 0.99  # the neighbor's digit, mostly
    assert torch.equal(static.labels, mnist.labels[order])
    # Without MNIST's label file the images are there all the same.
    monkeypatch.delenv("PYRO_VLAE_DATA")
    (tmp_path / "binarized_mnist").symlink_to(real_data_root / "binarized_mnist")
    alone = load_dataset("static-mnist", tmp_path).test
    assert alone.labels is None and torch.equal(alone.images, static.images)


@pytest.mark.real_data
def test_mnist(real_data_root):
    data = load_dataset("mnist", real_data_root)
    assert_splits(data, (50_000, 10_000, 10_000), INTENSITIES)
    assert mean(data.train_validation) == pytest.approx(0.130660, abs=1e-6)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.train_validation.labels.bincount().tolist() == counts
    test_counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.test.labels.bincount().tolist() == test_counts
    assert data.train_validation.labels[:5].tolist() == [5, 0, 4, 1, 9]  # the published order
    assert "seeds 1 and 2" in data.description


@pytest.mark.real_data
def test_mnist_is_binarized_by_its_gray_levels(real_data_root):
    data = load_dataset("mnist", real_data_root)
    # README's mean of the gray test images; the sample's error is far below 1e-3.
    assert mean(data.test) == pytest.approx(0.132515, abs=3e-4)
    batch = data.train.batch(slice(None), torch.Generator().manual_seed(0))
    levels = mean_image(data.train.images) / 255
    error = (levels * (1 - levels) / len(data.train)).sqrt()
    assert ((mean_image(batch) - levels).abs() <= 5 * error).all()
    gray = data.train_validation.images[-10_000:]  # the gray images behind the validation bits
    assert not (data.validation.images > gray).any()  # no ink on white
    assert (data.validation.images[gray == 255] == 1).all()
    # A 1 is tall, a 7 has its bar on top.
    ones = mean_image(data.test.images[data.test.labels == 1])
    assert (ones.sum(1) > 0.5).sum() > 2 * (ones.sum(0) > 4).sum()
    sevens = mean_image(data.test.images[data.test.labels == 7]).sum(1)
    assert sevens[8:10].sum() > 2 * sevens[18:20].sum()


@pytest.mark.real_data
def test_omniglot(real_data_root):
    data = load_dataset("omniglot", real_data_root)
    assert_splits(data, (23_000, 1_345, 8_070), INTENSITIES)
    assert mean(data.train_validation) == pytest.approx(0.083012, abs=2e-5)  # 256 levels
    assert mean(data.test) == pytest.approx(0.082021, abs=5e-4)  # binarized
    assert "rebuilt" in data.description
    assert data.train_validation.labels.unique().tolist() == list(range(50))
    held_out = data.validation.labels.bincount(minlength=50)
    assert (held_out > 0).sum() > 45  # shuffled: stored in the order of the alphabets
    # Test images are drawers 16 to 20 of each character; the raw file is upright.
    raw = np.load(real_data_root / "omniglot" / "omniglot_105_raw.npz")
    packed = raw["images"][raw["drawer"] > 15][:100]
    large = np.unpackbits(packed, axis=1)[:, :11025].reshape(-1, 1, 105, 105)
    small = torch.nn.functional.interpolate(torch.tensor(large).float(), (28, 28), mode="area")
    images = data.test.images[:100].float()
    assert correlation(images, small) > 0.6
    assert correlation(images.mT, small) < 0.3


@pytest.mark.real_data
def test_omniglot_original_is_preferred(real_data_root, tmp_path, monkeypatch):
    rebuilt = real_data_root / "omniglot" / "omniglot_28_rebuilt.mat"
    (tmp_path / "omniglot").mkdir()
    shutil.copy(rebuilt, tmp_path / "omniglot" / "chardata.mat")
    shutil.copy(rebuilt, tmp_path / "omniglot")
    with pytest.raises(DatasetCorruptError, match=r"chardata\.mat.*md5.*21ecaf34373511aa"):
        load_dataset("omniglot", tmp_path)  # by its name it must be the original
    original = readers.PublishedFile(
        "omniglot", "chardata.mat", readers._OMNIGLOT_REBUILT.checksum, 1 << 28
    )
    monkeypatch.setattr(readers, "_OMNIGLOT", original)
    assert "rebuilt" not in load_dataset("omniglot", tmp_path).description


@pytest.mark.real_data
def test_caltech101(real_data_root):
    data = load_dataset("caltech101", real_data_root)
    assert_splits(data, (4_100, 2_264, 2_307), BINARY)
    assert mean(data.train) == pytest.approx(1 - 0.551055, abs=1e-6)
    assert mean(data.validation) == pytest.approx(1 - 0.535959, abs=1e-6)
    assert mean(data.test) == pytest.approx(1 - 0.539015, abs=1e-6)
    for split in (data.train, data.validation, data.test):
        assert split.labels.unique().tolist() == list(range(101))
    # The object is 1: the middle belongs to it, the corners do not.
    middle = mean_image(data.train.images)
    assert middle[10:18, 10:18].mean() > 0.7
    assert middle[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.3
    # Upright: aeroplanes seen from the side are wide, pyramids stand on their base.
    path = real_data_root / "caltech101_silhouettes" / "caltech101_silhouettes_28_split1.mat"
    names = [str(name[0]) for name in scipy.io.loadmat(path)["classnames"][0]]

    def silhouette(name):
        return mean_image(data.train.images[data.train.labels == names.index(name)])

    plane, pyramid = silhouette("Airplanes Side 2"), silhouette("pyramid")
    assert plane[:, 4].sum() > 3 * plane[4, :].sum()
    assert pyramid[14:].sum() > 2 * pyramid[:14].sum()


@pytest.mark.real_data
def test_plain_and_damaged_copies_of_a_real_file(real_data_root, tmp_path):
    shutil.copytree(real_data_root / "mnist", tmp_path / "mnist")
    labels = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    images = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    plain = images.with_suffix("")
    plain.write_bytes(gzip.decompress(whole))
    images.unlink()
    assert len(load_dataset("mnist", tmp_path).test) == 10_000
    plain.unlink()
    images.write_bytes(whole[:-1000])
    with pytest.raises(DatasetCorruptError, match=r"t10k-images.*truncated"):
        load_dataset("mnist", tmp_path)
    shutil.copy(labels, images)
    with pytest.raises(DatasetCorruptError, match=r"t10k-images.* 10,008 bytes, which begin with"):
        load_dataset("mnist", tmp_path)
    shutil.copy(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", images)
    with pytest.raises(DatasetCorruptError, match=r"t10k-images.* has more than 7,840,016 bytes"):
        load_dataset("mnist", tmp_path)
    changed = bytearray(gzip.decompress(whole))
    changed[5000] ^= 1
    images.write_bytes(gzip.compress(bytes(changed), 1))
    with pytest.raises(DatasetCorruptError, match="sha256"):
        load_dataset("mnist", tmp_path)


@pytest.mark.real_data
def test_cifar10(real_data_root):
    data = load_dataset("cifar10", real_data_root)
    assert data.image_shape == (3, 32, 32)
    assert data.values is data.train.values is data.validation.values is BYTES
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [45_000, 5_000, 10_000]
    assert "last 5,000 train images are held out" in data.description
    # Means and classes of all train and of the test images, as published.
    for split, means in (
        (data.train_validation, (0.491400, 0.482158, 0.446531)),
        (data.test, (0.494214, 0.485131, 0.450409)),
    ):
        found = split.images.double().mean((0, 2, 3)) / 255
        assert found.tolist() == pytest.approx(means, abs=1e-6)
        assert (split.labels.bincount() == len(split) / 10).all()
    assert torch.equal(data.validation.images, data.train_validation.images[45_000:])
    # Rows and columns: neighbors are alike, and ships and planes (8, 0) have a bright sky above.
    images = data.test.images[:, 0].float()
    assert correlation(images[:, 1:], images[:, :-1]) > 0.9
    assert correlation(images[..., 1:], images[..., :-1]) > 0.9
    sky = mean_image(data.test.images[(data.test.labels == 8) | (data.test.labels == 0)])
    assert sky[:8].mean() > sky[-8:].mean() + 10
    batch = data.test.batch(torch.arange(0, 10_000, 50))
    assert batch.shape == (200, 3, 32, 32) and batch.dtype == torch.float32
    assert torch.equal(((batch + 1) * 127.5).round().byte(), data.test.images[::50])
    assert not any(split.flip for split in splits)


DIGESTS = {  # of the train, validation and test images, binarized where they are
    "static-mnist": ["43490d4d6ac90027", "069b4f0beb389b77", "ca0294c3b8d984c7"],
    "mnist": ["c80ceb24eedca80f", "77320eb20294d8f5", "933d1a9ce6eebb3d"],
    "omniglot": ["1f075caa45f68054", "e949552c3e3c9080", "a31d6cf2cc16b4b6"],
    "caltech101": ["cb0a788db5095e4f", "1b9c3b942673aed8", "36fc4a2cc67cf73f"],
    "digits": ["713de6cf71047dfc", "e279ccadf0c14d74", "c5e5c2ea28c90d3d"],
    "cifar10": ["6b9c6197739b7ba5", "1c0b2f1fb423ffcc", "177777c33ba79825"],
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", DIGESTS)
def test_binarizations_and_splits_stay_as_they_are(name, real_data_root):
    data = load_dataset(name, real_data_root)
    assert [digest(split) for split in (data.train, data.validation, data.test)] == DIGESTS[name]


def test_digits():
    data = load_dataset("digits", download=False)
    assert_splits(data, (1_197, 300, 300), BINARY)
    assert torch.equal(data.train.images, load_dataset("digits").train.images)
    assert 0.2 < mean(data.train) < 0.3
    # The middle of every third pixel is a pixel of the scan: upright, in place, not mirrored.
    from sklearn.datasets import load_digits

    scans = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(readers.SPLIT_SEED))
    ink = torch.from_numpy(scans.images > readers.DIGITS_THRESHOLD)[order]
    images = torch.cat([data.train_validation.images, data.test.images])
    assert torch.equal(images[:, 0, 3:27:3, 3:27:3].bool(), ink)
    labels = torch.cat([data.train_validation.labels, data.test.labels])
    assert torch.equal(labels, torch.from_numpy(scans.target)[order])
    # No pixel so near the threshold that rounding could decide it.
    levels = readers._enlarge(torch.from_numpy(scans.images).double().unsqueeze(1))
    assert (levels - readers.DIGITS_THRESHOLD).abs().min() > 1e-9


@pytest.mark.parametrize("name", [name for name in dataset_names() if name != "digits"])
def test_missing_files_are_named(name, tmp_path, monkeypatch):
    monkeypatch.delenv("PYRO_VLAE_DATA", raising=False)
    with pytest.raises(DatasetNotFoundError, match=f"{name}.*not on disk") as caught:
        load_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("static_mnist", "static-mnist"),
        ("MNIST", "mnist"),
        ("caltech-101", "caltech101"),
        ("cifar-10", "cifar10"),
    ],
)
def test_unknown_name_suggests_a_close_one(name, close):
    with pytest.raises(ValueError, match=f"did you mean '{close}'") as caught:
        load_dataset(name)
    assert all(known in str(caught.value) for known in dataset_names())


def test_sets_are_named_by_what_a_model_sees():
    """Options that take a binary set, such as the MNIST script's, must not offer the others."""
    assert dataset_names(BYTES) == ("cifar10",)
    assert dataset_names(GRAY) == ("gray-mnist",)
    named = {*dataset_names(BINARY), *dataset_names(PIANO_ROLLS), "gray-mnist", "cifar10"}
    assert set(dataset_names()) == named
    assert load_dataset("digits").values is BINARY


def test_a_new_family_registers_its_sets(monkeypatch):
    monkeypatch.setattr(datasets, "_READERS", dict(datasets._READERS))
    values = Values("four levels", "bits/dim", largest=3, scale=1.5, offset=-1)

    def read(store):
        split = ImageSplit(torch.full((4, 1, 2, 2), 3, dtype=torch.uint8), values=values)
        return ImageDataset("toy", "four levels", split, split, split)

    register_dataset("toy", read, values)
    data = load_dataset("toy")
    assert data.values is values and dataset_names(values) == ("toy",)
    assert data.train.batch(slice(None)).unique().tolist() == [1.0]
    with pytest.raises(ValueError, match="already a data set 'digits'"):
        register_dataset("digits", read, values)


def test_unknown_name_unlike_any():
    with pytest.raises(ValueError, match="there is no data set 'zzz'") as caught:
        load_dataset("zzz")
    assert "did you mean" not in str(caught.value)
