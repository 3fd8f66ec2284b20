"""Reading clips, sound and feature files; knows nothing of layers."""

from ..errors import DataError
from . import afew, batches, cifar10, opensmile, prepare, sound, synthetic, video

__all__ = ["DataError", "afew", "batches", "cifar10", "opensmile", "prepare", "sound", "synthetic", "video"]
