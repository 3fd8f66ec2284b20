"""What a training is told: the one place where settings are checked, written to config.json and read from it."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..choices import NATURAL, OPTIONAL_COUNT, SWITCH, Rule, check_choices, choice, one_of, optional
from ..data.clips import Collection, collect
from ..dispatch import PRECISIONS
from ..errors import DataError
from ..files import is_path, parse_json, read_whole, write_whole
from ..models import EmoNetConfig

#: Networks by name, and what each reads of a clip.
MODALITIES = {"audio": ("audio",), "video": ("video",), "fused": ("audio", "video")}

TEXT = Rule(lambda value: isinstance(value, str), "a text")
SOURCES = Rule(lambda value: isinstance(value, tuple) and value != () and all(map(PATH.holds, value)), "a list of paths")
PATH = Rule(lambda value: isinstance(value, str) and value != "" and is_path(value), "a path")
NETWORKS = Rule(lambda value: isinstance(value, tuple) and value != () and all(name in list(MODALITIES) for name in value),
                f"some of {', '.join(MODALITIES)}")
CONFIG = Rule(lambda value: isinstance(value, EmoNetConfig), "an EmoNetConfig")
DEVICE = Rule(lambda value: isinstance(value, str), "auto, cpu, cuda or cuda:K")


@dataclass(frozen=True)
class Settings:
    """A data set, the networks that are to be trained on it, and how. ValueError, with the field, for what cannot be."""

    data: tuple[str, ...] = field(metadata={"rule": SOURCES})   # tables of clips and folders, see data/clips.py
    config: EmoNetConfig = field(metadata={"rule": CONFIG})     # but for its modalities: the next field says which
    modalities: tuple[str, ...] = choice(tuple(MODALITIES), NETWORKS)       # networks, trained one after the other
    seed: int = choice(0, NATURAL)              # of parameters, order of clips, frames, jitter and dropout
    device: str = choice("auto", DEVICE)
    precision: str | None = choice(None, optional(one_of(*PRECISIONS)))     # None: as the environment says
    cache: str | None = choice(None, optional(PATH))        # folder for decoded frames and trunk features
    on_error: str = choice("skip", one_of("skip", "stop"))  # at clips and feature files that cannot be used
    save_every: int | None = choice(None, OPTIONAL_COUNT)   # steps between checkpoints inside an epoch
    labels: str = choice("", TEXT)              # which are renamed and dropped, see data/labels.py
    name: str | None = choice(None, optional(TEXT))         # a pattern of the names of clips, see data/corpora.py
    allow_shared_groups: bool = choice(False, SWITCH)       # the same people in training and validation

    def __post_init__(self) -> None:
        check_choices(self)

    def collection(self) -> Collection:
        """The clips that they name; DataError as `collect`."""
        return collect(self.data, self.labels, self.name, self.allow_shared_groups)

    def config_of(self, name: str) -> EmoNetConfig:
        """The configuration of the network `name` of MODALITIES."""
        return self.config.replace(modalities=MODALITIES[name])

    def as_json(self) -> dict[str, Any]:
        """All of them, as they are in config.json."""
        return dataclasses.asdict(self)

    def write(self, folder: Path, versions: dict[str, str]) -> None:
        """Put them into config.json in `folder`, together with the versions of what will run."""
        content = {"versions": versions} | self.as_json()
        write_whole(folder / "config.json", json.dumps(content, indent=2).encode())


def read_settings(folder: Path) -> Settings:
    """The settings of the run in `folder`. DataError, with the field, where config.json is not what `write` wrote."""
    file = folder / "config.json"
    try:
        content = parse_json(read_whole(file))
        return Settings(**{f.name: _from_json(content[f.name]) for f in dataclasses.fields(Settings)})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{str(file)!r} does not hold the settings of a run ({reason}): "
                        f"restore it, or train anew with another --out") from error


def _from_json(value: Any) -> Any:
    """The one object is `config`, and lists are tuples; anything of a wrong kind is left to the checks."""
    if isinstance(value, dict):
        value = {"shards": 1} | value                                         # of before there were any
        config = EmoNetConfig().replace(**value)
        if lacking := [f.name for f in dataclasses.fields(config) if f.name not in value]:
            raise KeyError(lacking[0])                                        # no default of another version
        return config
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
