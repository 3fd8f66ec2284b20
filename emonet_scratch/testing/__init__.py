"""What tests of layers of one's own need: values, gradient checks and contracts (extra `testing`: pytest, hypothesis).

docs/gradient_checks.md is a test file of a repository that uses it. Nothing else of the package imports this.
"""

from .contracts import contract, contract_of_optimizer
from .drawn import CHECKED, arrays, check, seeds, shapes, sizes, values

__all__ = ["CHECKED", "arrays", "check", "contract", "contract_of_optimizer", "seeds", "shapes", "sizes", "values"]
