"""What a trained model plays: samples, continuations, and melodies with other codes."""

from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vlae.data.midi import write_midi
from pyro_vlae.data.piano_rolls import PIANO_ROLLS, PianoRollSplit
from pyro_vlae.distributions.piano_roll import PianoRoll
from pyro_vlae.plots import plot_groups, save_figure

GIVEN = 16
"""Frames of the given beginning of a continuation."""

_FRAMES = 48


def decode_roll(model: Any, z: Tensor | None, lengths: Tensor, frames: int) -> PianoRoll:
    """The distribution of rolls with these codes (None for a model without a code)."""
    codes = () if z is None else (z,)
    return model.likelihood(model.decoder(*codes, lengths, frames), lengths)


def melody_mask(rolls: Tensor) -> Tensor:
    """The highest key that sounds in each frame and all keys above it, ``(N, 1, T, 88)`` bool."""
    above = rolls.clamp(min=0).flip(-1).cumsum(-1).flip(-1)
    highest = (rolls > 0) & (above == 1)
    return (above == 0) & (rolls > 0).any(-1, keepdim=True) | highest


@torch.no_grad()
def play(
    model: Any, guide: Any, split: PianoRollSplit, out: Path, seed: int = 0, pieces: int = 4
) -> dict[str, Any]:
    """Write pictures and MIDI files of what a model plays.

    ``continuations.png`` has test pieces and continuations of their first frames, with the piece's
    own code and with one from the prior; ``melodies.png`` has test pieces, and their melodies with
    new lower voices, with their own code and with that of another piece (`PianoRoll.resample`).
    ``midi/`` has all of them, and samples.

    Args:
        model: a trained model.
        guide: its guide.
        split: the pieces, without augmentation.
        out: folder to write to.
        seed: seed of the samples.
        pieces: number of pieces and of samples.

    Returns:
        The smallest effective sample size of the particle filter of each melody, by column title.
    """
    pyro.set_rng_seed(seed)
    long = (split.lengths >= _FRAMES).nonzero().flatten()[:pieces]
    x = split.batch(long)[:, :, :_FRAMES]
    lengths = torch.full((len(x),), _FRAMES, device=x.device)
    known = torch.arange(_FRAMES, device=x.device) < GIVEN
    codes: dict[str, Tensor | None] = {"without a code": None}
    other_codes = codes
    if model.prior is not None:
        own = guide.posterior(x).sample()
        codes = {"own code": own, "prior code": model.prior(lengths, _FRAMES).sample()}
        other_codes = {"own code": own, "other code": own.roll(1, 0)}
    continued, melodies, sizes = {"original": x}, {"original": x}, {}
    for name, z in codes.items():
        continued[name] = decode_roll(model, z, lengths, _FRAMES).complete(x, known)
    for name, z in other_codes.items():
        distribution = decode_roll(model, z, lengths, _FRAMES)
        melodies[name], size = distribution.resample(x, melody_mask(x))
        sizes[name] = size.tolist()
    samples = {"sample": model(batch_size=pieces, frames=_FRAMES)}
    (out / "midi").mkdir(exist_ok=True)
    for kind, rolls in (("continuation", continued), ("melody", melodies), ("new", samples)):
        for name, versions in rolls.items():
            for number, roll in enumerate(versions[:, 0].cpu().numpy()):
                write_midi(out / "midi" / f"{kind}-{number}-{name.replace(' ', '-')}.mid", roll)
    show = PIANO_ROLLS.to_unit_range
    title = f"Continuations of {GIVEN} frames"
    pictures = {name: show(rolls) for name, rolls in continued.items()}
    save_figure(plot_groups(pictures, title, 2), out / "continuations.png")
    title = "Melodies with new lower voices"
    pictures = {name: show(rolls) for name, rolls in melodies.items()}
    save_figure(plot_groups(pictures, title, 2), out / "melodies.png")
    return {"smallest_effective_sample_sizes": sizes}
