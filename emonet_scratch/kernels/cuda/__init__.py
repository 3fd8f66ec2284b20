"""Launch code of kernels/cuda: kernels compiled by NVRTC when they are first launched."""

from ... import dispatch
from . import convolution, lstm, pointwise

for _module in (convolution, lstm, pointwise):
    _module.register()


def load() -> tuple[bool, str]:
    """The kernels are registered when this is imported; see `dispatch.add_loader`."""
    return True, f"{dispatch.precision}: {', '.join(sorted(dispatch.registered('cuda')))}"
