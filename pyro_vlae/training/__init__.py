"""Training: seeded, logged, checkpointed, and continued exactly where it stopped."""

from pyro_vlae.training.checkpoint import CheckpointError, load_weights, save_weights
from pyro_vlae.training.fit import fit
from pyro_vlae.training.schedules import DecaySchedule
from pyro_vlae.training.settings import (
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingResult,
    TrainingSettings,
)

__all__ = [
    "CheckpointError",
    "DecaySchedule",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "TrainingResult",
    "TrainingSettings",
    "fit",
    "load_weights",
    "save_weights",
]
