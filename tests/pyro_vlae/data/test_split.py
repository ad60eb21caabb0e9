"""Splits: how a batch is sampled, what is fixed by which seed, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vlae.data import BINARY, BYTES, INTENSITIES, ImageDataset, ImageSplit
from pyro_vlae.data.image_dataset import TEST_SEED, VALIDATION_SEED
from pyro_vlae.distributions.discretized_logistic import pixel_levels


def intensity_split(count=32, shape=(1, 6, 5), seed=3):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return ImageSplit(images, torch.arange(count), values=INTENSITIES)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_samples_have_the_mean_of_the_intensities():
    levels = torch.tensor([0, 1, 64, 127, 200, 254, 255], dtype=torch.uint8)
    repeats = 40_000
    split = ImageSplit(levels.expand(repeats, 1, 1, 7).contiguous(), values=INTENSITIES)
    samples = split.batch(slice(None), seeded(0))
    assert samples.dtype == torch.float32
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    mean, probability = samples.mean(0).flatten(), levels / 255
    error = (probability * (1 - probability) / repeats).sqrt()
    assert ((mean - probability).abs() <= 4.5 * error).all()
    assert mean[0] == 0
    assert mean[-1] == 1  # certain levels are certain


def test_samples_of_intensities_are_new_each_time_and_reproducible():
    split, index = intensity_split(), torch.tensor([4, 0, 4, 31])
    generator = seeded(7)
    first, second = split.batch(index, generator), split.batch(index, generator)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[2])  # the same image twice in one batch
    assert torch.equal(first, split.batch(index, seeded(7)))
    torch.manual_seed(1)
    unseeded = split.batch(index)
    torch.manual_seed(1)
    assert torch.equal(unseeded, split.batch(index))


@given(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6))
def test_binary_batches_are_the_images(count, channels, height, width):
    images = torch.randint(0, 2, (count, channels, height, width), dtype=torch.uint8)
    split = ImageSplit(images)
    index = torch.randperm(count)
    generator = seeded(0)
    before = generator.get_state()
    assert torch.equal(split.batch(index, generator), images[index].float())
    assert torch.equal(generator.get_state(), before)  # nothing random about them
    assert torch.equal(split.batch(slice(1, None)), images[1:].float())
    assert split.image_shape == (channels, height, width)
    assert len(split) == count
    assert split.binarize(0) is split


def test_samples_do_not_depend_on_the_default_dtype():
    split = intensity_split()
    expected = split.batch(slice(None), seeded(2))
    torch.set_default_dtype(torch.float64)
    try:
        batch = split.batch(slice(None), seeded(2))
        fixed = split.binarize(2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, expected)
    assert torch.equal(fixed.images, split.binarize(2).images)


def test_binarize_is_fixed_by_its_seed():
    split = intensity_split(count=400)
    fixed = split.binarize(5)
    assert fixed.values is BINARY
    assert torch.equal(fixed.labels, split.labels)
    assert torch.equal(fixed.images, split.binarize(5).images)
    assert not torch.equal(fixed.images, split.binarize(6).images)
    assert torch.equal(fixed.batch(slice(None)), fixed.batch(slice(None)))
    bits, levels = fixed.images.double(), split.images.double() / 255
    assert abs((bits - levels).mean()) < 4.5 * (0.25 / bits.numel()) ** 0.5
    assert torch.corrcoef(torch.stack([bits.flatten(), levels.flatten()]))[0, 1] > 0.5
    assert split.values is INTENSITIES  # the split itself is left as it was


def test_subset_is_a_seeded_sample_without_replacement():
    split = intensity_split()
    subset = split.subset(20, seed=1)
    assert len(subset) == 20
    assert subset.values is INTENSITIES
    assert len(set(subset.labels.tolist())) == 20
    assert subset.labels.tolist() != sorted(subset.labels.tolist())
    assert torch.equal(subset.images, split.images[subset.labels])  # labels count the images
    assert torch.equal(subset.labels, split.subset(20, seed=1).labels)
    assert not torch.equal(subset.labels, split.subset(20, seed=2).labels)
    for size in (0, 33):
        with pytest.raises(ValueError, match=f"1 to 32 images; got size={size}"):
            split.subset(size, seed=1)


def test_wrong_images_and_labels_are_refused():
    bits = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"must be uint8.*float32"):
        ImageSplit(bits.float())
    with pytest.raises(ValueError, match=r"shape \(N, C, H, W\).*\(4, 2, 2\)"):
        ImageSplit(bits[:, 0])
    with pytest.raises(ValueError, match=r"be 0 to 1; got a pixel of 9.*values=INTENSITIES"):
        ImageSplit(bits + 9)
    for labels in (torch.zeros(3, dtype=torch.int64), torch.zeros(4)):
        with pytest.raises(ValueError, match="labels must be int64"):
            ImageSplit(bits, labels)
    with pytest.raises(ValueError, match="one-dimensional"):
        ImageSplit(bits).batch(torch.tensor(0))


def test_train_validation_is_intensities_throughout():
    train, validation = intensity_split(), intensity_split(count=8, seed=4)
    data = ImageDataset.of_intensities("x", "", train, validation, validation)
    assert torch.equal(data.validation.images, validation.binarize(VALIDATION_SEED).images)
    assert torch.equal(data.test.images, validation.binarize(TEST_SEED).images)
    assert data.values is data.validation.values is data.test.values is BINARY
    assert "seeds 1 and 2" in data.description
    both = data.train_validation
    assert both.values is INTENSITIES
    assert torch.equal(both.images, torch.cat([train.images, validation.images]))
    assert torch.equal(both.labels, torch.cat([train.labels, validation.labels]))
    assert data.image_shape == (1, 6, 5)


def test_train_validation_of_a_binary_set():
    train = ImageSplit(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    validation = ImageSplit(torch.ones(2, 1, 2, 2, dtype=torch.uint8))
    both = ImageDataset("x", "", train, validation, train).train_validation
    assert both.images[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert both.labels is None
    assert both.values is BINARY


def byte_split(count=64, flip=False):
    images = torch.randint(0, 256, (count, 3, 4, 5), dtype=torch.uint8, generator=seeded(1))
    return ImageSplit(images, torch.arange(count), values=BYTES, flip=flip)


def test_bytes_are_levels_of_the_likelihood():
    split = ImageSplit(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), values=BYTES)
    batch = split.batch(slice(None))
    assert batch.dtype == torch.float32
    assert torch.equal(batch.flatten(), torch.arange(256) / 127.5 - 1)
    assert batch.min() == -1 and batch.max() == 1
    assert pixel_levels.check(batch).all()
    assert split.binarize(0) is split


def test_flips_mirror_half_of_the_images():
    split, generator = byte_split(flip=True), seeded(3)
    plain = byte_split().batch(slice(None))
    flipped = 0
    for _ in range(20):
        batch = split.batch(slice(None), generator)
        kept, mirrored = ((batch == image).all((1, 2, 3)) for image in (plain, plain.flip(-1)))
        assert (kept | mirrored).all()
        flipped += int(mirrored.sum())
    assert abs(flipped / (20 * 64) - 0.5) < 4.5 * 0.5 / (20 * 64) ** 0.5
    assert torch.equal(split.batch(slice(None), seeded(5)), split.batch(slice(None), seeded(5)))
    assert torch.equal(split.images, byte_split().images)


def test_flips_are_for_training_and_only_when_asked():
    data = ImageDataset("x", "", byte_split(), byte_split(8), byte_split(9))
    assert not data.train.flip
    asked = data.with_flips()
    assert asked.train.flip and asked.train_validation.flip
    assert asked.train.take(slice(2)).flip
    assert not asked.validation.flip and not asked.test.flip
    assert len(asked.train_validation) == 72 and asked.train_validation.values is BYTES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda():
    split = intensity_split()
    data = ImageDataset.of_intensities("x", "", split, split, split).to("cuda")
    assert data.train_validation.images.is_cuda
    assert torch.equal(data.train.binarize(1).images, data.validation.images)
    index = torch.tensor([1, 5])
    batch = data.train.batch(index, torch.Generator("cuda").manual_seed(0))
    again = data.train.batch(index.cuda(), torch.Generator("cuda").manual_seed(0))
    assert batch.is_cuda
    assert torch.equal(batch, again)
    with pytest.raises(ValueError, match="generator is on cpu"):
        data.train.batch(index, seeded(0))
