"""How the learning rate falls: factors as functions of a run's progress."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DecaySchedule:
    """Constant at first, then a cosine down to a small fraction of the learning rate.

    Args:
        start: progress in ``[0, 1]`` at which the decay begins; 1 means never.
        floor: factor that is reached at the end, in ``[0, 1]``.

    Example::

        DecaySchedule(start=0.5)(0.25)  # 1.0
        DecaySchedule(start=0.5, floor=0.01)(1.0)  # 0.01
    """

    start: float = 0.5
    floor: float = 0.01

    def __post_init__(self) -> None:
        for name in ("start", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    def __call__(self, progress: float) -> float:
        """The factor on the learning rate when ``progress`` of the budget is used up."""
        if progress <= self.start or self.start == 1:
            return 1.0
        fraction = min(1.0, (progress - self.start) / (1 - self.start))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * fraction)) / 2
