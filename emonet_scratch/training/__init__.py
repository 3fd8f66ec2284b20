"""Training around the core: trainer, checkpoints, metrics, reports."""

from ..errors import CheckpointError, NonFiniteError
from .checkpoint import read_checkpoint, write_checkpoint
from .inference import load_model
from .run import run
from .settings import Settings
from .trainer import Trainer

__all__ = ["CheckpointError", "NonFiniteError", "Settings", "Trainer", "load_model", "read_checkpoint", "run",
           "write_checkpoint"]
