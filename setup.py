"""Package metadata, and the kernels.

Those for the CPU are built where there is a C compiler, and left out with one line where there is none; those for GPUs
travel as sources and are compiled where they run.
"""

from pathlib import Path

from setuptools import Extension, find_packages, setup
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


setup(
    name="emonet_scratch",
    version="0.1.0",
    description="Emotion recognition from clips with every layer, gradient and optimizer written by hand",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["emonet_scratch", "emonet_scratch.*"]),
    package_data={"emonet_scratch.models": ["*.safetensors", "*.md"]},
    # Not a Python module: a shared library that emonet_scratch/kernels/cpu/library.py loads with ctypes.
    ext_modules=[Extension("emonet_scratch.kernels.cpu._cpu", sorted(str(p) for p in CPU.glob("*.c")),
                           depends=sorted(str(p) for p in CPU.glob("*.h")),
                           extra_compile_args=["-std=gnu11", "-O3", "-pthread"], extra_link_args=["-pthread"],
                           optional=True)],
    cmdclass={"build_ext": OptionalKernels, "build_py": WithSources},
    install_requires=["numpy", "scipy", "imageio", "imageio-ffmpeg", "pillow", "tqdm", "safetensors", "matplotlib"],
    extras_require={
        "test": ["pytest", "hypothesis", "ruff", "scikit-learn", "optuna>=4.2", "opencv-python-headless<5",
                 "nvidia-cuda-nvrtc~=13.5.0; sys_platform == 'linux' and platform_machine in 'x86_64 aarch64'"],
        "faces": ["opencv-python-headless<5"],          # 5 has no Haar cascades
        "search": ["optuna>=4.2"],
        "cuda12": ["cupy-cuda12x[ctk]"],
        "cuda13": ["cupy-cuda13x[ctk]"],
    },
    entry_points={"console_scripts": ["emonet = emonet_scratch.cli:main"]},
)
