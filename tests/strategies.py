"""What the property tests draw: that of emonet_scratch.testing, which other repositories use."""

from emonet_scratch.testing import CHECKED, check, seeds, sizes, values

__all__ = ["CHECKED", "check", "seeds", "sizes", "values"]
