"""Honest files of every kind that the package reads, from which the cases are made."""

import json
import os
from pathlib import Path

import numpy as np

from emonet_scratch.cli import main as emonet
from emonet_scratch.data.extract import made_by
from emonet_scratch.data.sound.compact import EXTRACTOR, FEATURE_NAMES
from emonet_scratch.files import read_tensors, write_tensors
from emonet_scratch.models import ResNet
from tests.media import tone, write_clip, write_wav
from tests.tiny import build

SEARCH = "search --data data --modalities audio --trials 1 --out search --runs . --preset small --set epochs=1".split()


def make_base(folder: Path) -> None:
    """Honest files, from which the cases are made; in a process of its own, so that no thread is copied into theirs."""
    os.chdir(folder)
    build(folder / "data")
    settings = ["--preset", "small", "--device", "cpu", "--runs", "."]
    emonet(["train", "--data", "data", "--modalities", "audio", "--out", "run", *settings, "--set", "epochs=2"])
    (folder / "run/results.json").unlink()
    emonet([*SEARCH, "--device", "cpu"])
    for name, codec, sound in (("a.avi", "mjpeg", "pcm"), ("a.mp4", "h264", "aac"), ("a.mkv", "mjpeg", "flac")):
        write_clip(folder / name, None, codec, tone(0.3), sound)
    write_wav(folder / "a.wav", tone(0.3, 16000), 16000)
    emonet(["features", "a.wav", "--out", "whole.csv", "--extractor", "emonet-1", "--workers", "1"])
    net = ResNet(depth=8, num_classes=10, width=2, rng=np.random.default_rng(0))
    write_tensors(folder / "trunk.safetensors", net.state_dict(), {})


def load_base(folder: Path) -> dict[str, bytes]:
    """Those files by name, and what is inside of two of them."""
    base = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".lock" not in p.name}
    arrays, metadata = read_tensors(folder / "run/audio/last.safetensors")
    lines = [{"extractor": made_by(EXTRACTOR)}, ["a.wav 1 2", [0.5] * len(FEATURE_NAMES)]]
    return base | {"arrays": arrays, "meta": metadata["emonet"].encode(),
                   "partial": "".join(f"{json.dumps(line)}\n" for line in lines).encode()}
