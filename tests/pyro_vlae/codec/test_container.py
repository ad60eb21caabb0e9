import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vlae.codec import CodecError
from pyro_vlae.codec.container import Container, fingerprint, images_digest
from pyro_vlae.models import FlowPrior

FILE = Container("lossless", b"weights_", b"images__", (1, 28, 300), ("torch 2", "µ"), np.arange(9))


@given(
    st.lists(st.integers(0, 2**40)),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), min_size=1),
    st.lists(st.integers(0, 2**32 - 1)),
)
def test_what_is_packed_is_unpacked(numbers, texts, words):
    words = np.array(words, np.uint32)
    file = Container("lossy", b"12345678", b"abcdefgh", tuple(numbers), tuple(texts), words)
    back = Container.unpack(file.pack())
    assert (back.method, back.weights, back.images) == ("lossy", b"12345678", b"abcdefgh")
    assert (back.numbers, back.texts) == (tuple(numbers), tuple(texts))
    assert np.array_equal(back.words, words)


def test_every_altered_byte_and_every_truncation_is_noticed():
    data = FILE.pack()
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        with pytest.raises(CodecError):
            Container.unpack(bytes(altered))
        with pytest.raises(CodecError):
            Container.unpack(data[:position])
    with pytest.raises(CodecError, match="truncated or altered"):
        Container.unpack(data + b"\0")


def test_files_of_other_programs_are_named():
    with pytest.raises(CodecError, match="starts with b'\\\\x89PNG'"):
        Container.unpack(b"\x89PNG\r\n")


def test_the_fingerprint_knows_weights_and_orders():
    prior = FlowPrior(4, layers=2, hidden_dims=(8,))
    before = fingerprint(prior)
    assert before == fingerprint(prior) and before != fingerprint(prior, prior)
    turned = FlowPrior(4, layers=2, hidden_dims=(8,), transforms=list(prior.transforms)[::-1])
    assert fingerprint(turned) != before
    with torch.no_grad():
        next(prior.parameters()).view(-1)[3] += 1e-7
    assert fingerprint(prior) != before


def test_the_fingerprint_takes_scalar_parameters():
    scale = torch.nn.Module()
    scale.log_scale = torch.nn.Parameter(torch.tensor(0.5))
    before = fingerprint(scale)
    with torch.no_grad():
        scale.log_scale.add_(1e-7)
    assert fingerprint(scale) != before


def test_the_digest_knows_values_and_shape():
    x = torch.zeros(2, 1, 3, 5)
    x[0, 0, 1, 1] = 1
    assert images_digest(x) == images_digest(x.clone())
    assert len({images_digest(y) for y in (x, x.flip(0), x.mT, x[:1])}) == 4
