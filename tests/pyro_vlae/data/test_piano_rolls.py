"""Piano rolls: padded batches, excerpts, transpositions, and the published files."""

import pytest
import torch

from pyro_vlae.data import PIANO_ROLLS, dataset_names, load_dataset
from pyro_vlae.data.piano_rolls import KEYS, PADDING, PianoRollSplit


def pieces(*lengths, **options):
    generator = torch.Generator().manual_seed(sum(lengths))
    frames = (torch.rand(sum(lengths), KEYS, generator=generator) < 0.05).to(torch.uint8)
    return PianoRollSplit(frames, torch.tensor(lengths), **options)


def test_a_batch_holds_whole_pieces_and_padding():
    split = pieces(3, 10, 6)
    x = split.batch(torch.tensor([2, 0]))
    assert x.shape == (2, 1, 6, KEYS) and x.dtype == torch.float32
    assert torch.equal(x[0, 0], split.frames[13:].float())
    assert torch.equal(x[1, 0, :3], split.frames[:3].float())
    assert (x[1, 0, 3:] == PADDING).all()
    assert torch.equal(split.take(torch.tensor([2, 0])).batch(slice(None)), x)
    assert split.image_shape == (1, 10, KEYS) and len(split) == 3


def test_excerpts_begin_at_multiples_of_eight_frames():
    split = pieces(50, 9, crop=16)
    starts = set()
    for _ in range(60):
        x = split.batch(torch.tensor([0, 1]))
        assert x.shape == (2, 1, 16, KEYS)
        assert torch.equal(x[1, 0, :9], split.piece(1).float()) and (x[1, 0, 9:] == PADDING).all()
        windows = split.piece(0).float().unfold(0, 16, 1).transpose(1, 2)
        (start,) = (windows == x[0, 0]).all(-1).all(-1).nonzero().flatten().tolist()
        starts.add(start)
    assert starts == {0, 8, 16, 24, 32}


def test_transpositions_keep_every_note():
    frames = torch.zeros(8, KEYS, dtype=torch.uint8)
    frames[:, 40:44] = frames[:4, 84] = 1  # 84 leaves room for 3 semitones upward
    split = PianoRollSplit(frames, torch.tensor([8]), transpose=True)
    shifts = set()
    for _ in range(100):
        x = split.batch(slice(None))[0, 0]
        shift = int(x[0].nonzero()[0]) - 40
        assert torch.equal(x, frames.roll(shift, 1).float()) and x.sum() == frames.sum()
        shifts.add(shift)
    assert shifts == set(range(-5, 4))
    silent = PianoRollSplit(torch.zeros_like(frames), torch.tensor([8]), transpose=True)
    assert silent.batch(slice(None)).sum() == 0


def test_the_generator_decides_excerpts_and_transpositions():
    split = pieces(100, 80, crop=8, transpose=True)

    def first(seed):
        return split.batch(slice(None), torch.Generator().manual_seed(seed))

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_bad_splits_are_refused():
    frames = torch.zeros(8, KEYS, dtype=torch.uint8)
    for frames_, lengths, options, message in (
        (frames.float(), [8], {}, "uint8"),
        (frames + 2, [8], {}, "0 or 1; got 2"),
        (frames, [4, 3], {}, "add up to 8"),
        (frames, [8, 0], {}, "positive"),
        (frames, [8], {"crop": 12}, "multiple of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            PianoRollSplit(frames_, torch.tensor(lengths), **options)
    with pytest.raises(ValueError, match="one-dimensional"):
        pieces(3).batch(torch.tensor(0))


def test_a_picture_has_pitch_upward_and_gray_padding():
    x = torch.zeros(1, 1, 3, KEYS)
    x[0, 0, 0, 0], x[0, 0, 2] = 1, PADDING
    picture = PIANO_ROLLS.to_unit_range(x)
    assert picture.shape == (1, 1, KEYS, 48)
    assert picture[0, 0, -1, 0] == 1 and picture[..., 0].sum() == 1
    assert (picture[..., 1] == 0).all()
    assert ((picture[..., 2:] > 0) & (picture[..., 2:] < 1)).all()
    assert PIANO_ROLLS.to_unit_range(x.expand(1, 1, 3, KEYS).repeat(1, 1, 99, 1)).shape[-1] == 128


# Sequences and test frames as published with the splits; mean number of keys held in the test set.
PUBLISHED = {
    "jsb-chorales": (229, 76, 77, 4_725),
    "nottingham": (694, 173, 170, 44_463),
    "piano-midi": (87, 12, 25, 19_036),
    "musedata": (524, 135, 124, 64_339),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name):
    assert name in dataset_names(PIANO_ROLLS)
    data = load_dataset(name)
    found = len(data.train), len(data.validation), len(data.test), len(data.test.frames)
    assert found == PUBLISHED[name] and name in data.description
    assert not (data.test.transpose or data.test.crop or data.train.transpose)
    both = data.augmented(True, 32).train_validation
    assert len(both) == found[0] + found[1] and both.transpose and both.crop == 32


@pytest.mark.real_data
def test_the_entropy_of_independent_keys_is_the_known_one():
    data = load_dataset("jsb-chorales")
    mean = data.train.frames.double().mean(0).clamp(1e-4, 1)
    test = data.test.frames.double()
    nats = -(test @ mean.log() + (1 - test) @ torch.log1p(-mean)).mean()
    assert nats.item() == pytest.approx(11.06, abs=0.02)
