"""What a training keeps: checkpoints, safetensors with one JSON object beside the arrays and never a pickle; metrics."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..choices import COUNT, NUMBER, one_of, optional
from ..errors import CheckpointError, DataError
from ..files import check_finite, parse_json, read_tensors, read_whole, write_tensors, write_whole

FORMAT = 1


def write_checkpoint(path: str | os.PathLike, groups: dict[str, dict[str, np.ndarray]], meta: dict[str, Any]) -> None:
    """Write arrays as "GROUP/NAME" and `meta` as JSON; the previous file at `path` stays until the new one is whole.

    The bytes depend on the arguments alone, so equal training states make equal files.
    """
    arrays = {f"{group}/{name}": a for group, members in groups.items() for name, a in members.items()}
    # One key: safetensors orders several at random, and equal states would make different bytes.
    write_tensors(path, arrays, {"emonet": json.dumps(meta | {"format": FORMAT}, sort_keys=True)})


def read_checkpoint(path: str | os.PathLike, wanted: Callable[[str], bool] = lambda name: True,
                    ) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """(groups, meta) as `write_checkpoint` got them; wanted: which arrays, by "GROUP/NAME".

    CheckpointError where the file is cut short or not ours, or what is no state of an optimizer holds a NaN or infinity.
    """
    name = repr(str(path))
    try:
        arrays, metadata = read_tensors(path, wanted=wanted)
    except DataError as error:
        raise CheckpointError(f"checkpoint {error}") from error
    except ValueError as error:
        raise CheckpointError(f"checkpoint {name} is {error}: use another one, such as best.safetensors or last.safetensors "
                              f"beside it") from error
    try:
        meta = dict(parse_json(metadata["emonet"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {name} is a safetensors file, but not of emonet_scratch") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {name} has format {meta.get('format')}, this version reads {FORMAT}")
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        group, _, member = key.partition("/")
        groups.setdefault(group, {})[member] = array
    with expected_of(path):
        check_finite({key: array for key, array in arrays.items() if not key.startswith("optimizer/")})
    return groups, meta


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Put the rows of all epochs so far into metrics.jsonl in `folder`, a JSON object a line."""
    write_whole(folder / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())


#: What a line of metrics.jsonl holds. grad_norm is that of training only; images have none.
ROW = {"epoch": COUNT, "split": one_of("train", "val", "test"), "loss": NUMBER, "accuracy": NUMBER, "lr": NUMBER,
       "seconds": NUMBER, "grad_norm": optional(NUMBER)}


def check_rows(rows: Any) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, as restored; ValueError where they are not two an epoch, in order, from the first on."""
    for k, row in enumerate(rows):
        for name, rule in ROW.items():
            if not rule.holds(row[name] if name != "grad_norm" else row.get(name)):
                raise ValueError(f"row {k + 1}: {name} must be {rule.words}")
        if (row["epoch"], row["split"] == "train") != (k // 2 + 1, k % 2 == 0):
            raise ValueError(f"row {k + 1} is of epoch {row['epoch']}, {row['split']}")
    return rows


def read_metrics(folder: Path, epochs: int | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, those of all epochs or of the first ones. DataError or ValueError: there are none such."""
    lines = read_whole(folder / "metrics.jsonl").splitlines()
    return check_rows([parse_json(line) for line in lines[:None if epochs is None else 2 * epochs]])


@contextmanager
def expected_of(path: str | os.PathLike) -> Iterator[None]:
    """What the body finds missing or wrong in the checkpoint that it read from `path` is raised as a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {str(path)!r} does not hold a network of this version "
                              f"({type(error).__name__}: {error})") from error
