"""MIDI files: what is written is read back, and the bytes are those of the standard."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyro_vlae.data.errors import DatasetError
from pyro_vlae.data.midi import LOWEST, read_midi, write_midi


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 200).flatmap(lambda n: arrays(np.uint8, (n, 88), elements=st.integers(0, 1))))
def test_a_roll_is_read_back(tmp_path_factory, roll):
    path = tmp_path_factory.mktemp("midi") / "roll.mid"
    write_midi(path, roll)
    assert np.array_equal(read_midi(path), roll)


def test_long_silences_and_held_notes_are_read_back(tmp_path):
    roll = np.zeros((2000, 88), np.uint8)  # longer than two bytes of ticks
    roll[3:900, 40] = roll[1999, 87] = roll[0, 0] = 1
    write_midi(tmp_path / "roll.mid", roll)
    assert np.array_equal(read_midi(tmp_path / "roll.mid"), roll)


def test_the_bytes_of_one_note(tmp_path):
    roll = np.zeros((2, 88), np.uint8)
    roll[:, 60 - LOWEST] = 1  # middle C for two frames
    write_midi(tmp_path / "c.mid", roll, frames_per_minute=120)
    header = bytes.fromhex("4d546864 00000006 0000 0001 0018")
    events = bytes.fromhex("00ff5103 07a120  00903c50  30803c50  00ff2f00")
    track = b"MTrk" + len(events).to_bytes(4, "big") + events
    assert (tmp_path / "c.mid").read_bytes() == header + track


def test_bad_rolls_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="0 and 1"):
        write_midi(tmp_path / "a.mid", np.full((3, 88), -1))
    (tmp_path / "b.mid").write_bytes(b"RIFF")
    with pytest.raises(DatasetError, match="not a MIDI file"):
        read_midi(tmp_path / "b.mid")
    write_midi(tmp_path / "c.mid", np.ones((3, 88)))
    (tmp_path / "c.mid").write_bytes((tmp_path / "c.mid").read_bytes()[:-9])
    with pytest.raises(DatasetError, match="damaged"):
        read_midi(tmp_path / "c.mid")
    write_midi(tmp_path / "d.mid", np.ones((3, 88)))
    right = (tmp_path / "d.mid").read_bytes()
    first = right.index(b"\x90")  # the status of the first note
    for content in (
        right[:12] + bytes(2) + right[14:],  # frames of no ticks
        right[: first - 1] + b"\xff\xff\xff\xff\x7f" + right[first:],  # a rest of gigabytes
        right[: first + 1] + b"\x05" + right[first + 2 :],  # a note below the keyboard
    ):
        (tmp_path / "d.mid").write_bytes(content)
        with pytest.raises(DatasetError, match="damaged"):
            read_midi(tmp_path / "d.mid")
