"""Reading clips, sound and feature files; knows nothing of layers."""

from . import afew, audio, batches, cifar10, is10, opensmile, prepare, synthetic, video
from .errors import DataError

__all__ = ["DataError", "afew", "audio", "batches", "cifar10", "is10", "opensmile", "prepare", "synthetic", "video"]
