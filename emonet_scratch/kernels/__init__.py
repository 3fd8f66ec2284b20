"""The launch code of the kernels in the repository's folder kernels/: C on the CPU, CUDA on GPUs.

This package can be deleted: then the definitions run. It stands on layers, losses and optimizers, and nothing imports it but
the package's own `__init__`, which lets it hand its loaders to the registry. takes.py says for both devices what a kernel
takes, composed.py holds what both launch in the same way; cpu/ and cuda/ hold the rest, and are imported when a definition
is about to run on arrays that may be theirs.
"""

import importlib

from .. import dispatch


def _load(device: str) -> tuple[bool, str]:
    return importlib.import_module(f".{device}", __name__).load()


for _device in dispatch.DEVICES:
    dispatch.add_loader(_device, lambda device=_device: _load(device))
