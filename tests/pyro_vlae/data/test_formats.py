"""The decoders read what was written, and refuse matrices and intensities of another form."""

import io

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from pyro_vlae.data import DatasetError
from pyro_vlae.data.formats import (
    decode_amat,
    decode_cifar,
    decode_idx,
    decode_mat,
    to_bytes,
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
    assert np.array_equal(decode_idx(idx(images)), images)
    labels = images[:, 0, 0]
    assert np.array_equal(decode_idx(idx(labels)), labels)


@given(sizes, sizes, sizes, st.integers(0, 2**32 - 1))
def test_amat_round_trip(count, height, width, seed):
    bits = np.random.default_rng(seed).integers(0, 2, (count, height, width), dtype=np.uint8)
    assert np.array_equal(decode_amat(amat(bits), height, width), bits)


def test_mat_round_trip():
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = decode_mat(mat(data=data, other=[[1]]), {"data": (2, 3)})
    assert list(found) == ["data"]
    assert np.array_equal(found["data"], data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mat(images=np.ones((2, 3))), r"'data' of the MATLAB file is missing; expected \(2, 3\)"),
        (mat(data=np.ones((3, 2))), r"'data' .* has shape \(3, 2\); expected \(2, 3\)"),
    ],
)
def test_other_matrices(content, message):
    with pytest.raises(DatasetError, match=message):
        decode_mat(content, {"data": (2, 3)})


@given(sizes, sizes, sizes)
def test_upright_undoes_column_major(count, height, width):
    images = np.arange(count * height * width).reshape(count, height, width)
    rows = np.stack([image.ravel(order="F") for image in images])
    assert np.array_equal(upright(rows, height, width), images)


def test_intensities_are_rounded_and_other_ranges_refused():
    assert to_bytes(np.array([0.0, 0.2, 0.4999, 1.0])).tolist() == [0, 51, 127, 255]
    for wrong in ([0.0, 255.0], [-1.0, 1.0]):
        with pytest.raises(DatasetError, match="expected 0 to 1"):
            to_bytes(np.array(wrong))


@given(sizes, st.integers(0, 2**32 - 1))
def test_cifar_round_trip(count, seed):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = random.integers(0, 10, count, dtype=np.uint8)
    content = b"".join(
        bytes([k]) + image.tobytes() for k, image in zip(labels, images, strict=True)
    )
    found_images, found_labels = decode_cifar(content)
    assert np.array_equal(found_images, images)
    assert np.array_equal(found_labels, labels)
