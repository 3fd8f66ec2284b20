"""Emotion recognition from clips, with every layer, gradient and optimizer written by hand.

    from emonet_scratch import layers, losses, models, optim, data, LDA, gradcheck

The core (backend, layers, losses, optim, lda, gradcheck, models) needs NumPy and SciPy; a submodule is imported when
it is first used, so that `import emonet_scratch` costs little.
"""

import importlib
import pkgutil
from typing import Any

from .gradcheck import GradientError, gradcheck  # at once: the function has the name of its module
from .version import __version__  # noqa: F401

__all__ = ["LDA", "GradientError", "data", "gradcheck", "layers", "losses", "models", "optim", "training"]

if any(module.name == "kernels" for module in pkgutil.iter_modules(__path__)):    # that package can be deleted
    importlib.import_module(".kernels", __name__)       # it hands its loaders to dispatch, and loads nothing yet


def __getattr__(name: str) -> Any:
    if name == "LDA":
        value = importlib.import_module(f"{__name__}.lda").LDA
    elif name in __all__ or name in ("backend", "cli", "dispatch", "studies"):
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
