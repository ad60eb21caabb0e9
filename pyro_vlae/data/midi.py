"""Writing piano rolls as MIDI files, and reading such files.

A key that stays down is one long note: a roll does not tell a held note from a repeated one.
"""

import os
from pathlib import Path

import numpy as np

from pyro_vlae.data.errors import DatasetError
from pyro_vlae.data.formats import Array

LOWEST = 21
"""MIDI number of key 0, the lowest A of the piano."""

_TICKS = 24  # per frame
_VELOCITY = 80
_LONGEST = 1_000_000  # frames


def write_midi(path: str | os.PathLike[str], roll: Array, frames_per_minute: float = 120.0) -> None:
    """Write a roll as a MIDI file of one track (format 0).

    Args:
        path: the file.
        roll: ``(frames, 88)``, keys 0 and 1.
        frames_per_minute: how fast the frames are played.

    Raises:
        ValueError: the roll has the wrong shape or other values.
    """
    roll = np.asarray(roll)
    if roll.ndim != 2 or roll.shape[1] != 88 or not np.isin(roll, (0, 1)).all():
        raise ValueError(f"expected a roll (frames, 88) of 0 and 1, got shape {roll.shape}")
    silence = np.zeros((1, 88), np.int8)
    changes = np.diff(np.concatenate([silence, roll.astype(np.int8), silence]), axis=0)
    tempo = round(60e6 / frames_per_minute)  # microseconds per frame
    track = b"\x00\xff\x51\x03" + tempo.to_bytes(3, "big")
    last = 0
    for frame, change in enumerate(changes):
        # Notes end before others begin.
        for status, sign in ((0x80, -1), (0x90, 1)):
            for key in np.flatnonzero(change == sign):
                track += _variable_length((frame - last) * _TICKS)
                track += bytes((status, LOWEST + int(key), _VELOCITY))
                last = frame
    # The track ends with the roll, also if that ends in silence.
    track += _variable_length((len(roll) - last) * _TICKS) + b"\xff\x2f\x00"
    header = b"MThd" + bytes((0, 0, 0, 6, 0, 0, 0, 1, 0, _TICKS))
    Path(path).write_bytes(header + b"MTrk" + len(track).to_bytes(4, "big") + track)


def read_midi(path: str | os.PathLike[str]) -> Array:
    """Read a file that `write_midi` wrote.

    Returns:
        The roll, ``uint8`` of shape ``(frames, 88)``.

    Raises:
        DatasetError: the file is damaged, or of another kind than `write_midi` writes.
    """
    content = Path(path).read_bytes()
    if content[:4] != b"MThd" or content[14:18] != b"MTrk" or content[8:10] != b"\x00\x00":
        raise DatasetError(f"{path} is not a MIDI file of one track, as written by write_midi")
    ticks = int.from_bytes(content[12:14], "big")
    track = content[22 : 22 + int.from_bytes(content[18:22], "big")]
    frames: list[Array] = []
    keys, place = np.zeros(88, np.uint8), 0
    try:
        while True:
            delta, place = _read_variable_length(track, place)
            if len(frames) + delta // ticks > _LONGEST:
                raise ValueError(f"more than {_LONGEST:,} frames")
            frames += [keys.copy() for _ in range(delta // ticks)]
            status, first, second = track[place : place + 3]
            place += 3
            if status in (0x80, 0x90):
                if not 0 <= first - LOWEST < len(keys):
                    raise ValueError(f"note {first}")
                keys[first - LOWEST] = status == 0x90
            elif (status, first) == (0xFF, 0x2F):
                return np.array(frames, np.uint8).reshape(-1, 88)
            elif status == 0xFF:
                place += second
            else:
                raise ValueError(f"event {status:#x}")
    except (ArithmeticError, IndexError, ValueError) as error:
        raise DatasetError(f"{path} is damaged, or not written by write_midi ({error})") from error


def _variable_length(number: int) -> bytes:
    """Seven bits per byte, all but the last byte with the highest bit set."""
    parts = [number & 0x7F]
    while number := number >> 7:
        parts.append(0x80 | number & 0x7F)
    return bytes(reversed(parts))


def _read_variable_length(track: bytes, place: int) -> tuple[int, int]:
    number = 0
    while True:
        byte, place = track[place], place + 1
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, place
