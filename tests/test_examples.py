"""The examples as they stand, in a small size. Two others have files of their own: test_images.py and test_why.py."""

import json
import subprocess
import sys
from pathlib import Path

from emonet_scratch.cli import main
from tests.tiny import QUICK

ROOT = Path(__file__).parents[1]


def test_synthesize_and_the_whole_example_in_a_small_size(tmp_path, capsys):
    """examples/train_afew.py without a data set: writes one, trains three networks, reports."""
    command = [sys.executable, str(ROOT / "examples" / "train_afew.py"), "--clips-per-class", "3", "2", "1", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run, = (p for p in (tmp_path / "runs").iterdir() if (p / "config.json").exists())
    results = json.loads((run / "results.json").read_text())
    assert list(results) == ["audio", "video", "fused"] and results["fused"]["clips"] == 14
    assert "macro F1" in done.stdout and "\r" not in done.stdout + done.stderr    # plain lines: no terminal
    root = tmp_path / "runs" / "synthetic-3-2-1-seed0"
    assert main(["doctor", str(root)]) == 0
    assert main(["synthesize", str(tmp_path / "again"), "--clips-per-class", "1", "1", "1"]) == 0
    assert main(["synthesize", str(root)]) == 1


def test_the_ablation_example_in_a_small_size(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "ablation.py"), "--clips-per-class", "3", "2", "1", "--epochs", "1",
               "--seeds", "1", "--out", "runs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["change", "accuracy", "from", "to", "loss"]
    assert [len(row.split()) for row in rows] == [5] * 9 + [2, 3]             # chance and the majority class have no loss
    configs = [json.loads(file.read_text())["config"] for file in (tmp_path / "runs").glob("*/config.json")]
    assert len(configs) == len(set(map(str, configs))) == 9
