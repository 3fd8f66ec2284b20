"""Package metadata; `pip install .` needs nothing but a wheel of NumPy and friends."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="emonet_scratch",
    version="0.1.0",
    description="Emotion recognition from clips with every layer, gradient and optimizer written by hand",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["emonet_scratch", "emonet_scratch.*"]),
    install_requires=["numpy", "scipy", "imageio", "imageio-ffmpeg", "tqdm", "safetensors", "matplotlib"],
    extras_require={
        "test": ["pytest", "hypothesis", "ruff", "scikit-learn"],
        "cuda12": ["cupy-cuda12x[ctk]"],
        "cuda13": ["cupy-cuda13x[ctk]"],
    },
    entry_points={"console_scripts": ["emonet = emonet_scratch.cli:main"]},
)
