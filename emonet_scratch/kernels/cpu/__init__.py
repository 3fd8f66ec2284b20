"""Launch code of kernels/cpu: one function call of the shared library for each piece of work."""

from ... import dispatch
from . import convolution, library, lstm, pointwise


def load() -> tuple[bool, str]:
    """Register the kernels if the library is there; see `dispatch.add_loader`."""
    found, reason = library.find()
    if found is None:
        return False, reason
    dispatch.cpu_precisions = ("fp32", "bf16") if found.can_round else ("fp32",)
    for module in (convolution, lstm, pointwise):
        module.register()
    return True, f"{reason}: {', '.join(sorted(dispatch.registered('cpu')))}"
