"""Launch code of kernels/cuda: kernels compiled by NVRTC when they are first launched."""

from ... import dispatch
from . import convolution, lstm, pointwise

#: Which sets of defines each module is compiled with: {"conv": [{"C": 16, "F": 16, "STRIDE": 1}, ...]}.
VARIANTS = convolution.VARIANTS | lstm.VARIANTS | pointwise.VARIANTS

for _module in (convolution, lstm, pointwise):
    _module.register()


def load() -> tuple[bool, str]:
    """The kernels are registered when this is imported; see `dispatch.add_loader`."""
    return True, f"{dispatch.precision}: {', '.join(sorted(dispatch.registered('cuda')))}"
