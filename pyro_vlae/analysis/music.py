"""Labels of piano rolls, computed from the music itself: key, mode, and pitch class.

References:
    Krumhansl, "Cognitive Foundations of Musical Pitch", 1990 (key profiles).
"""

import torch
from torch import Tensor

_KEY_0 = 9  # pitch class of the lowest key of the piano, A, counted from C
# How well each pitch class fits a key, counted from its tonic (Krumhansl and Kessler).
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def pitch_class_counts(rolls: Tensor) -> Tensor:
    """How often each pitch class sounds in rolls ``(*batch, T, 88)``: ``(*batch, 12)``, C first."""
    counts = rolls.clamp(min=0).sum(-2)
    padded = torch.nn.functional.pad(counts, (_KEY_0, -(88 + _KEY_0) % 12))
    return padded.unflatten(-1, (-1, 12)).sum(-2)


def estimate_key(rolls: Tensor) -> Tensor:
    """The key whose profile correlates best with the pitch classes, ``(*batch)``.

    Args:
        rolls: ``(*batch, T, 88)``, negative after the end.

    Returns:
        0 to 11 for C major to B major, 12 to 23 for C minor to B minor.
    """
    counts = pitch_class_counts(rolls).double()
    profiles = torch.stack(
        [
            torch.tensor(profile, dtype=torch.float64).roll(tonic)
            for profile in (_MAJOR, _MINOR)
            for tonic in range(12)
        ]
    )
    profiles = profiles - profiles.mean(-1, keepdim=True)
    profiles = profiles / profiles.norm(dim=-1, keepdim=True)
    return ((counts - counts.mean(-1, keepdim=True)) @ profiles.T.to(counts.device)).argmax(-1)
