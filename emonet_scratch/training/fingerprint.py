"""What identifies the data of a run, so that a resumed run goes on with the same."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.batches import Split
from ..errors import CheckpointError


def sha256(parts: Iterable[np.ndarray | bytes]) -> str:
    """One hash of all parts; of an array, its type and shape count, too."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str} {part.shape} ".encode())
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()


def fingerprint(train: Split, val: Split, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each split the number of clips and a hash of their names, labels, classes and what the modalities read of them.

    The frames are those of the files with the hashes `keys`; without keys they are hashed themselves.
    """
    data = {}
    for name, split in (("train", train), ("val", val)):
        parts = {"names": [json.dumps(split.ids).encode()], "labels": [split.labels],
                 "classes": [json.dumps(split.classes).encode()]}
        if "video" in modalities:
            parts["clips"] = map(np.asarray, split.frames) if split.keys is None else [json.dumps(split.keys).encode()]
        if "audio" in modalities:
            parts["audio vectors"] = [split.audio]
        data[name] = {"number": len(split)} | {what: sha256(content) for what, content in parts.items()}
    return data


def check_data(path: Path, saved: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> None:
    """CheckpointError unless the data are those with which the checkpoint at `path` was written; it says what changed."""
    for split, parts in now.items():
        for what, value in parts.items():
            if saved[split][what] != value:
                change = f"has {value} clips, had {saved[split][what]}" if what == "number" else f"has other {what}"
                raise CheckpointError(f"checkpoint {str(path)!r} was trained on other data: the {split} split {change}: "
                                      f"restore the data to resume, or train anew with another --out")
