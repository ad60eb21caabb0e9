"""Training: seeded, logged, checkpointed, and exactly resumable."""

from pyro_vlae.training.acceleration import HalfPrecision, compiled, resolve_precision
from pyro_vlae.training.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_averaged_weights,
    load_best_weights,
    load_checkpoint,
    read_checkpoint,
    read_state,
)
from pyro_vlae.training.fit import fit
from pyro_vlae.training.memory import keep_freed_memory
from pyro_vlae.training.metrics import read_metrics
from pyro_vlae.training.run_folder import own_folder
from pyro_vlae.training.settings import (
    DecaySchedule,
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingResult,
    TrainingSettings,
)
from pyro_vlae.training.validation import validate
from pyro_vlae.training.weights import CheckpointError, load_weights, save_weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "DecaySchedule",
    "HalfPrecision",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "TrainingResult",
    "TrainingSettings",
    "compiled",
    "fit",
    "has_checkpoint",
    "keep_freed_memory",
    "load_averaged_weights",
    "load_best_weights",
    "load_checkpoint",
    "load_weights",
    "own_folder",
    "read_checkpoint",
    "read_metrics",
    "read_state",
    "resolve_precision",
    "save_weights",
    "validate",
]
