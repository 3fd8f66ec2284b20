"""The soak with a handful of clips: what it does is done, and it notices what is lost."""

from tests.soak import soak


def test_a_tiny_soak(real_data, tmp_path):
    sources = sorted((real_data / "java_sed").glob("*.mp4"))[:3]
    report = soak(sources, tmp_path, 14, 1)
    for name in ("doctor", "train", "predict"):
        assert report[name]["killed"] == 1 and report[name]["memory_MB"] < 1000 and report[name]["files"] < 64
