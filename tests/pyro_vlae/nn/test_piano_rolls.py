"""Networks for piano rolls: exact windows in time and keys, and codes without padding."""

import pytest
import torch

from pyro_vlae.nn.piano_rolls import (
    BLOCK,
    FrameNet,
    PianoRollDecoder,
    PianoRollEncoder,
    PianoRollNet,
    block_mask,
    roll_lengths,
)
from pyro_vlae.testing import NetworkContract

FRAMES, KEYS = 14, 6


class TestPianoRollNet(NetworkContract):
    feature_shape = (2, 4, 5)
    values = (0.0, 1.0)

    def make(self):
        return PianoRollNet(2, 2, 6, keys=5)


class TestFrameNet(NetworkContract):
    feature_shape = (2, 5, 1)
    values = (0.0, 1.0)

    def make(self):
        return FrameNet(2, 2, 6, keys=3)


@pytest.fixture(autouse=True)
def double(request):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))


def disturbed(network):
    """The network with every parameter moved, so that no branch is closed by chance."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


def moved(network, x, place):
    """Which outputs move when the input at this place is flipped, as (channel, row, column)."""
    other = x.clone()
    other[place] = 1 - other[place]
    with torch.no_grad():
        return (network(x, None) != network(other, None))[0]


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_a_key_moves_exactly_the_keys_whose_window_holds_it(window):
    network = disturbed(PianoRollNet(window, 0, 8, keys=KEYS))
    x = (torch.rand(1, 1, FRAMES, KEYS) < 0.4).double()
    for frame, key in ((4, 2), (0, 0), (FRAMES - 1, KEYS - 2), (7, KEYS - 1)):
        expected = torch.zeros(1, FRAMES, KEYS, dtype=torch.bool)
        expected[0, frame, key + 1 :] = True  # higher keys of the same frame
        expected[0, frame + 1 : frame + 1 + window] = True  # all keys of the next frames
        assert torch.equal(moved(network, x, (0, 0, frame, key)), expected)
    rows = {row for row, _ in network.window()}
    assert rows == set(range(-window, 1))
    assert len(network.window()) == window * (2 * KEYS - 1) + KEYS - 1


@pytest.mark.parametrize("window", [1, 2, 4, 8])
def test_independent_keys_see_exactly_the_past_frames(window):
    network = disturbed(FrameNet(window, 0, 8, keys=KEYS))
    x = (torch.rand(1, KEYS, FRAMES, 1) < 0.4).double()
    for frame in (0, 3, FRAMES - 1):
        expected = torch.zeros(KEYS, FRAMES, 1, dtype=torch.bool)
        expected[:, frame + 1 : frame + 1 + window] = True
        assert torch.equal(moved(network, x, (0, 2, frame, 0)), expected)
    assert network.window() == {(-row, 0) for row in range(1, window + 1)}


def test_windows_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="power of two"):
        FrameNet(window=3)
    with pytest.raises(ValueError, match="at least 1"):
        PianoRollNet(window=0)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 20])
def test_a_piece_has_the_same_code_and_features_in_a_longer_batch(length):
    encoder = disturbed(PianoRollEncoder(3, 8, keys=KEYS))
    decoder = disturbed(PianoRollDecoder(3, 8, 2, keys=KEYS))
    longest = 45
    x = (torch.rand(2, 1, longest, KEYS) < 0.4).double()
    x[1, 0, length:] = -1
    lengths = roll_lengths(x)
    assert lengths.tolist() == [longest, length]
    blocks = -(-length // BLOCK)
    assert block_mask(lengths, 6).sum(-1).tolist() == [6, blocks]
    alone = x[1:, :, :length]
    together, single = encoder(x)[1, :, :blocks], encoder(alone)[0]
    torch.testing.assert_close(together, single)
    z = torch.randn(2, 3, 6)
    one = decoder(z[1:, :, :blocks].flatten(1), lengths[1:], length)[0]
    both = decoder(z.flatten(1), lengths, longest)
    torch.testing.assert_close(both[1, :, :length], one)
    particles = decoder(z.flatten(1).expand(4, 2, -1), lengths, longest)
    torch.testing.assert_close(particles[3], both)
