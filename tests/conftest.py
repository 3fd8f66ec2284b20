"""One Hypothesis profile for everybody: the same examples every time, no deadline on a shared machine."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, max_examples=30)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings named by EMONET_TEST_DATA."""
    folder = os.environ.get("EMONET_TEST_DATA")
    if not folder:
        pytest.skip("EMONET_TEST_DATA is unset: no real recordings to test on")
    return Path(folder)


@pytest.fixture(scope="session")
def person(real_data: Path) -> Path:
    """A clip of one who speaks."""
    return sorted((real_data / "java_sed").rglob("*.mp4"))[0]


@pytest.fixture(scope="session")
def answerer():
    """The weights that come along, with OpenCV."""
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    from emonet_scratch.training.answer import Answerer
    return Answerer()


@pytest.fixture
def shim(request, monkeypatch):
    """The stand-in for CuPy, with kernels that run on the CPU; with EMONET_TEST_DEVICE=cuda, CuPy itself and the GPU."""
    from tests.cuda.shim import install  # not above: the kernels can be deleted
    return install(request, monkeypatch)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nobody stopped."""
    from tests.tiny import make
    folder = tmp_path_factory.mktemp("uninterrupted")
    make(folder, seed=3).fit()
    return folder
