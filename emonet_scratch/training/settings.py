"""What a training is told: the one place where settings are checked, written to config.json and read from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dispatch import PRECISIONS
from ..errors import DataError
from ..files import write_whole
from ..models import EmoNetConfig

#: Networks by name, and what each reads of a clip.
MODALITIES = {"audio": ("audio",), "video": ("video",), "fused": ("audio", "video")}


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# for each field what must hold, and the same in words
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data": (_text, "a path"),
    "config": (lambda v: isinstance(v, EmoNetConfig), "an EmoNetConfig"),
    "modalities": (lambda v: isinstance(v, tuple) and v != () and all(name in list(MODALITIES) for name in v),
                   f"some of {', '.join(MODALITIES)}"),
    "seed": (lambda v: _integer(v, 0), "an integer from 0"),
    "device": (_text, "auto, cpu, cuda or cuda:K"),
    "precision": (lambda v: v is None or v in list(PRECISIONS), f"null or one of {', '.join(PRECISIONS)}"),
    "cache": (lambda v: v is None or _text(v), "null or a path"),
    "on_error": (lambda v: v in ["skip", "stop"], "skip or stop"),
    "save_every": (lambda v: v is None or _integer(v, 1), "null or a positive integer"),
}


@dataclass(frozen=True)
class Settings:
    """A data set, the networks that are to be trained on it, and how. ValueError, with the field, for what cannot be."""

    data: str                       # folder of a data set in AFEW's layout
    config: EmoNetConfig            # but for its modalities: those are said by the next field
    modalities: tuple[str, ...] = tuple(MODALITIES)  # names of networks, trained one after the other
    seed: int = 0                   # of parameters, order of clips, frames, jitter and dropout
    device: str = "auto"            # as `backend.choose_device` takes it
    precision: str | None = None    # of products in a GPU's kernels; None: as the environment says
    cache: str | None = None        # folder for decoded frames and trunk features
    on_error: str = "skip"          # "skip" or "stop" at clips and feature files that cannot be used
    save_every: int | None = None   # steps between checkpoints inside an epoch; None: at the end of each epoch only

    def __post_init__(self) -> None:
        for name, (holds, expected) in _RULES.items():
            if not holds(value := getattr(self, name)):
                raise ValueError(f"{name} must be {expected}, got {value!r}")

    def config_of(self, name: str) -> EmoNetConfig:
        """The configuration of the network `name` of MODALITIES."""
        return self.config.replace(modalities=MODALITIES[name])

    def write(self, folder: Path, versions: dict[str, str]) -> None:
        """Put them into config.json in `folder`, together with the versions of what will run."""
        content = {"versions": versions} | dataclasses.asdict(self)
        write_whole(folder / "config.json", json.dumps(content, indent=2).encode())


def read_settings(folder: Path) -> Settings:
    """The settings of the run in `folder`. DataError, with the field, where config.json is not what `write` wrote."""
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Settings(**{f.name: _from_json(content[f.name]) for f in dataclasses.fields(Settings)})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{str(file)!r} does not hold the settings of a run ({reason}): "
                        f"restore it, or train anew with another --out") from error


def _from_json(value: Any) -> Any:
    """The one object is `config`, and lists are tuples; anything of a wrong kind is left to the checks."""
    if isinstance(value, dict):
        return EmoNetConfig().replace(**value)
    return tuple(value) if isinstance(value, list) else value


def find_run(path: str, runs: Path) -> Path:
    """The folder of the run to resume: `path`, or with "auto" the newest one below `runs` that is not finished."""
    if path != "auto":
        if not (Path(path) / "config.json").exists():
            raise DataError(f"{path!r} is no folder of a run: expected config.json in it")
        return Path(path)
    open_runs = [c.parent for c in runs.glob("*/config.json") if not (c.parent / "results.json").exists()]
    if not open_runs:
        raise DataError(f"no unfinished run below {str(runs)!r}: name one, or train without --resume")
    return max(open_runs, key=lambda p: (p / "config.json").stat().st_mtime)
