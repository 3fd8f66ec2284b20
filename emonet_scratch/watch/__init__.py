"""Watching a network run: what each layer gave, what it cost, where it went wrong."""

from .summary import summary
from .trace import trace

__all__ = ["summary", "trace"]
