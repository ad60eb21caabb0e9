"""Keys and pitch classes of rolls whose key is known."""

import pytest
import torch

from pyro_vlae.analysis.music import estimate_key, pitch_class_counts

C4 = 60 - 21
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11, 0, 4, 7, 0), "minor": (0, 2, 3, 5, 7, 8, 11, 0, 3, 7, 0)}


def roll(keys):
    frames = torch.zeros(len(keys) + 2, 88)
    frames[torch.arange(len(keys)), torch.tensor(keys)] = 1
    frames[-2:] = -1  # after the end
    return frames


@pytest.mark.parametrize("tonic", range(12))
@pytest.mark.parametrize("mode", SCALES)
def test_the_key_of_a_scale_with_its_triad(mode, tonic):
    piece = roll([C4 + tonic + step for step in SCALES[mode]])
    assert estimate_key(piece) == tonic + 12 * (mode == "minor")


def test_pitch_classes_are_counted_over_all_octaves():
    counts = pitch_class_counts(torch.stack([roll([0, 12, 87]), roll([C4, C4 - 12, C4 + 1])]))
    expected = torch.zeros(2, 12)
    expected[0, 9], expected[0, 0] = 2, 1  # A0, A1, C8
    expected[1, 0], expected[1, 1] = 2, 1
    assert torch.equal(counts, expected)
