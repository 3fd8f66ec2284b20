"""Descriptors of sounds: the 1582 of INTERSPEECH 2010 (`is10`) and 75 of this project (`compact`)."""

from . import compact, is10

__all__ = ["compact", "is10"]
