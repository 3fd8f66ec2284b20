"""Package metadata, and the CPU kernels: built where there is a C compiler, left out with one line where there is none."""

from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

CPU = Path("kernels/cpu")


class OptionalKernels(build_ext):
    """Compile kernels/cpu; what fails costs speed, not the installation."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            print(f"emonet_scratch: the CPU kernels are left out, the NumPy definitions run instead ({error})")


setup(
    name="emonet_scratch",
    version="0.1.0",
    description="Emotion recognition from clips with every layer, gradient and optimizer written by hand",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["emonet_scratch", "emonet_scratch.*"]),
    # Not a Python module: a shared library that emonet_scratch/kernels.py loads with ctypes.
    ext_modules=[Extension("emonet_scratch._cpu", sorted(str(p) for p in CPU.glob("*.c")),
                           depends=sorted(str(p) for p in CPU.glob("*.h")),
                           extra_compile_args=["-std=gnu11", "-O3", "-pthread"], extra_link_args=["-pthread"])],
    cmdclass={"build_ext": OptionalKernels},
    install_requires=["numpy", "scipy", "imageio", "imageio-ffmpeg", "tqdm", "safetensors", "matplotlib"],
    extras_require={
        "test": ["pytest", "hypothesis", "ruff", "scikit-learn"],
        "cuda12": ["cupy-cuda12x[ctk]"],
        "cuda13": ["cupy-cuda13x[ctk]"],
    },
    entry_points={"console_scripts": ["emonet = emonet_scratch.cli:main"]},
)
