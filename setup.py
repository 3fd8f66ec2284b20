"""The kernels, which pyproject.toml has no words for; everything else about the package stands there.

Those for the CPU are built where there is a C compiler, and left out with one line where there is none; those for GPUs
travel as sources and are compiled where they run.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

CPU, CUDA = Path("kernels/cpu"), Path("kernels/cuda")


class OptionalKernels(build_ext):
    """Compile kernels/cpu; what fails costs speed, not the installation."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            print(f"emonet_scratch: the CPU kernels are left out, the NumPy definitions run instead ({error})")


class WithSources(build_py):
    """Put kernels/cuda beside the launch code that reads it; in an editable installation it is read where it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "emonet_scratch/kernels/cuda/sources")
            self.mkpath(str(target))
            for path in sorted(CUDA.glob("*.cu*")):
                self.copy_file(str(path), str(target / path.name))


# Not a Python module: a shared library that emonet_scratch/kernels/cpu/library.py loads with ctypes.
library = Extension("emonet_scratch.kernels.cpu._cpu", sorted(str(p) for p in CPU.glob("*.c")),
                    depends=sorted(str(p) for p in CPU.glob("*.h")),
                    extra_compile_args=["-std=gnu11", "-O3", "-pthread"], extra_link_args=["-pthread"], optional=True)

setup(ext_modules=[library], cmdclass={"build_ext": OptionalKernels, "build_py": WithSources})
