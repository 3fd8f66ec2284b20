"""Reading clips, sound and feature files; knows nothing of layers."""

from ..errors import DataError
from . import afew, audio, batches, cifar10, is10, opensmile, prepare, synthetic, video

__all__ = ["DataError", "afew", "audio", "batches", "cifar10", "is10", "opensmile", "prepare", "synthetic", "video"]
