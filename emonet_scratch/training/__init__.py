"""Training around the core: trainer, checkpoints, metrics, reports."""

from .checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from .experiment import load_model, run
from .non_finite import NonFiniteError
from .trainer import Trainer

__all__ = ["CheckpointError", "NonFiniteError", "Trainer", "load_model", "read_checkpoint", "run", "write_checkpoint"]
