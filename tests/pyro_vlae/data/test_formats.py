"""The decoders read what was written, and say what is wrong with anything else."""

import io

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from pyro_vlae.data.formats import (
    FormatError,
    decode_amat,
    decode_cifar,
    decode_idx,
    decode_mat,
    to_bits,
    to_levels,
    upright,
)

sizes = st.integers(1, 6)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def amat(bits):
    return b"".join(
        b" ".join(b"%d" % bit for bit in image.ravel()) + b"\n" for image in np.asarray(bits)
    )


def mat(**variables):
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables)
    return stream.getvalue()


@given(sizes, sizes, sizes, st.integers(0, 2**32 - 1))
def test_idx_round_trip(count, height, width, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    assert np.array_equal(decode_idx(idx(images), images.shape), images)
    labels = images[:, 0, 0]
    assert np.array_equal(decode_idx(idx(labels), labels.shape), labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros(20)), "IDX file of labels .magic number 2049.*images .magic number 2051"),
        (b"<!DOCTYPE html><html>", "first bytes are b'<!DOCTYPE ht"),
        (b"", "first bytes are b''"),
        (idx(np.zeros((3, 5, 5))), r"shape \(3, 5, 5\); expected \(2, 4, 5\)"),
        (idx(np.zeros((2, 4, 5)))[:10], "ends within its header .10 of 16 bytes"),
        (idx(np.zeros((2, 4, 5)))[:-1], "39 values; its header promises 40"),
        (idx(np.zeros((2, 4, 5))) + b"\0", "41 values; its header promises 40"),
    ],
    ids=["labels", "html", "empty", "shape", "no-header", "short", "long"],
)
def test_idx_errors(content, message):
    with pytest.raises(FormatError, match=message):
        decode_idx(content, (2, 4, 5))


def test_idx_images_for_labels():
    with pytest.raises(FormatError, match=r"IDX file of images .*labels .magic number 2049"):
        decode_idx(idx(np.zeros((2, 4, 5))), (2,))


@given(sizes, sizes, sizes, st.integers(0, 2**32 - 1))
def test_amat_round_trip(count, height, width, seed):
    bits = np.random.default_rng(seed).integers(0, 2, (count, height, width), dtype=np.uint8)
    assert np.array_equal(decode_amat(amat(bits), bits.shape), bits)


@pytest.mark.parametrize("character", [b"2", b"/", b" ", b"\xff"])
def test_amat_pixels_other_than_bits(character):
    content = bytearray(amat(np.zeros((3, 2, 2))))
    content[8 + 4 : 8 + 5] = character  # second line, third pixel
    with pytest.raises(FormatError, match="line 2 is not 4 values 0 or 1"):
        decode_amat(bytes(content), (3, 2, 2))


@pytest.mark.parametrize("content", [b"", amat(np.zeros((2, 2, 2))), amat(np.zeros((3, 2, 3)))])
def test_amat_size(content):
    with pytest.raises(FormatError, match=rf"holds {len(content)} bytes; 3 images of 2x2"):
        decode_amat(content, (3, 2, 2))


def test_mat_round_trip():
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = decode_mat(mat(data=data, other=[[1]]), {"data": (2, 3)})
    assert list(found) == ["data"]
    assert np.array_equal(found["data"], data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a MATLAB file" * 20, "cannot be read as a MATLAB file"),
        (b"", "cannot be read as a MATLAB file"),
        (mat(data=np.ones((20, 30)))[:-50], "cannot be read as a MATLAB file"),
        (mat(images=np.ones((2, 3))), "no variable 'data'"),
        (mat(data=np.ones((3, 2))), r"'data' has shape \(3, 2\); expected \(2, 3\)"),
        (mat(data=np.full((2, 3), np.nan)), "not all finite"),
        (mat(data=np.full((2, 3), "ab", dtype=object)), "not all finite numbers"),
    ],
    ids=["text", "empty", "truncated", "missing", "shape", "nan", "cells"],
)
def test_mat_errors(content, message):
    with pytest.raises(FormatError, match=message):
        decode_mat(content, {"data": (2, 3)})


@given(sizes, sizes, sizes)
def test_upright_undoes_column_major(count, height, width):
    images = np.arange(count * height * width).reshape(count, height, width)
    rows = np.stack([image.ravel(order="F") for image in images])
    assert np.array_equal(upright(rows, height, width), images)


def test_levels_round_and_refuse_other_ranges():
    assert to_levels(np.array([0.0, 0.2, 0.4999, 1.0])).tolist() == [0, 51, 127, 255]
    for wrong in ([0.0, 255.0], [-1.0, 1.0]):
        with pytest.raises(FormatError, match="expected 0 to 1"):
            to_levels(np.array(wrong))


def test_bits_refuse_other_values():
    assert to_bits(np.array([0.0, 1.0])).dtype == np.uint8
    for wrong in ([0, 2], [0.0, 0.5], [-1, 0]):
        with pytest.raises(FormatError, match="other than 0 and 1"):
            to_bits(np.array(wrong))


@given(sizes, st.integers(0, 2**32 - 1))
def test_cifar_round_trip(count, seed):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = random.integers(0, 10, count, dtype=np.uint8)
    content = b"".join(
        bytes([k]) + image.tobytes() for k, image in zip(labels, images, strict=True)
    )
    found_images, found_labels = decode_cifar(content, count)
    assert np.array_equal(found_images, images)
    assert np.array_equal(found_labels, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(3073), "holds 3073 bytes; 2 images with labels take 6146"),
        (bytes(3073) + b"\x0a" + bytes(3072), "record 2 has label 10 > 9"),
    ],
)
def test_other_content_than_cifar(content, message):
    with pytest.raises(FormatError, match=message):
        decode_cifar(content, 2)
