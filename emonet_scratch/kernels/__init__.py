"""The launch code of the kernels in the repository's folder kernels/: C on the CPU, CUDA on GPUs.

This package can be deleted: then the definitions run. It stands on layers, losses and optimizers, and nothing imports it but
the package's own `__init__`, which lets it hand its loaders to the registry. takes.py says for both devices what a kernel
takes, composed.py holds what both launch in the same way; cpu/ and cuda/ hold the rest, and are imported when a definition
is about to run on arrays that may be theirs.
"""

from .. import dispatch


def _load_cpu() -> tuple[bool, str]:
    from . import cpu
    return cpu.load()


def _load_cuda() -> tuple[bool, str]:
    from . import cuda
    return cuda.load()


dispatch.add_loader("cpu", _load_cpu)
dispatch.add_loader("cuda", _load_cuda)
