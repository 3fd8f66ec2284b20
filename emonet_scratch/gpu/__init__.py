"""The twins for GPUs: launch code for the kernels in kernels/cuda/. Imported by kernels.py where CuPy is in use.

Importing this package registers the twins of every file of launch code in it; never run on a GPU so far.
"""

from __future__ import annotations

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f".{_file.name}", __name__)
