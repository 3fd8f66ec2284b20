"""Audio vectors of many clips into one feature file: several processes, one clip at a time, and nothing is done twice."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..emotions import CLASSES
from ..errors import DataError
from ..files import write_whole
from .afew import class_of
from .left_out import attempt, usable
from .opensmile import write_arff, write_csv
from .sound import compact, is10
from .video import SOUND_SUFFIXES, VIDEO_SUFFIXES, read_sound

#: What makes a vector of a sound, by name and version.
EXTRACTORS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...]]] = {
    is10.EXTRACTOR: (is10.features, is10.FEATURE_NAMES),
    is10.EXTRACTOR + "-energy": (lambda sound: is10.features(sound, loudness="energy"), is10.FEATURE_NAMES),
    compact.EXTRACTOR: (compact.features, compact.FEATURE_NAMES),
}
DEFAULT = is10.EXTRACTOR
SUFFIXES = VIDEO_SUFFIXES | SOUND_SUFFIXES
FORMATS = (".arff", ".csv", ".npz")


def vector_of(path: str | os.PathLike, extractor: str = DEFAULT) -> np.ndarray:
    """The (D,) vector of a clip's sound; all NaN, "missing", where it has no sound track. DataError: it cannot be read."""
    compute, names = EXTRACTORS[extractor]
    sound = read_sound(path)
    return np.full(len(names), np.nan) if sound is None else compute(sound)


def find(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The files among `paths`, and all sounds and clips below the folders, sorted, each once."""
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def extract(paths: Sequence[str | os.PathLike], out: str | os.PathLike, extractor: str = DEFAULT, *, on_error: str = "skip",
            workers: int | None = None, log: Callable[[str], None] = print) -> tuple[int, int]:
    """Write the vectors of clips and of folders of clips to `out`, .arff, .csv or .npz; (written, failed).

    Rows are in the order of the clips and named after them, without suffix, or by their path where that is ambiguous. A
    clip without sound has missing values. While it works, `out` + ".partial" keeps what is done: the same call, after
    whatever happened, goes on from there; clips that changed meanwhile are done again. `out` appears, whole, at the end.

    on_error "skip": a clip that cannot be read is logged, counted and left out; "stop": DataError.
    """
    out = Path(out)
    if out.suffix.lower() not in FORMATS:
        raise DataError(f"{str(out)!r}: expected a name that ends in {', '.join(FORMATS)}")
    if out.exists():
        raise DataError(f"{str(out)!r} exists already: remove it, or give another --out")
    clips = {clip: _identity(clip) for clip in find(paths)}
    if not clips:
        raise DataError(f"{', '.join(map(repr, map(str, paths)))}: expected sounds or clips, got none "
                        f"({', '.join(sorted(SUFFIXES))})")
    with closing(_Journal(out.with_name(out.name + ".partial"), extractor)) as journal:
        todo = [clip for clip, identity in clips.items() if identity not in journal.vectors]
        if len(todo) < len(clips):
            log(f"{len(clips) - len(todo)} of {len(clips)} clips are done already")
        bar = tqdm(_work(todo, extractor, workers), "audio features", len(clips), initial=len(clips) - len(todo),
                   unit="clip", leave=False, disable=None)
        for clip, vector in usable(bar, on_error, log):
            journal.add(clips[clip], vector)
    done = {clip: journal.vectors[identity] for clip, identity in clips.items() if identity in journal.vectors}
    if not done:
        raise DataError(f"none of the {len(clips)} clips can be used")
    _write(out, extractor, list(done), list(done.values()))
    journal.path.unlink()
    return len(done), len(clips) - len(done)


def _work(clips: Sequence[Path], extractor: str, workers: int | None) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """(clip, vector or the reason why there is none), as they come."""
    workers = min(workers or os.cpu_count() or 1, max(1, len(clips)))
    if workers == 1:
        yield from ((clip, attempt(vector_of, clip, extractor)) for clip in clips)
        return
    # Started afresh: a copy of a process that has threads may wait for locks that nobody holds.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(attempt, vector_of, clip, extractor): clip for clip in clips}
        try:
            for job in as_completed(jobs):
                yield jobs.pop(job), job.result()            # popped, so that the vector is not kept
        finally:
            pool.shutdown(cancel_futures=True)


def _identity(clip: Path) -> str:
    """What a clip is known by: path, size and time of its last change."""
    try:
        status = clip.stat()
        return f"{clip} {status.st_size} {status.st_mtime_ns}"
    except OSError:
        return str(clip)


class _Journal:
    """Vectors that are done, one line of JSON each, flushed; a last line that was cut off does not count."""

    def __init__(self, path: Path, extractor: str) -> None:
        self.path, self.vectors = path, {}
        text = path.read_bytes() if path.exists() else b""
        lines = text[:text.rfind(b"\n") + 1].splitlines()
        head = json.dumps({"extractor": extractor}).encode()
        if lines and lines[0] != head:
            raise DataError(f"{str(path)!r} is of another extractor ({lines[0][:80].decode(errors='replace')}): "
                            f"remove it, or give another --out")
        for line in lines[1:]:
            identity, vector = json.loads(line)
            self.vectors[identity] = np.array(vector, float)          # None, a missing value, becomes NaN
        self.file = open(path, "ab")
        self.file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self.file.write(head + b"\n")

    def close(self) -> None:
        self.file.close()

    def add(self, identity: str, vector: np.ndarray) -> None:
        self.vectors[identity] = vector
        self.file.write(json.dumps([identity, [None if np.isnan(v) else float(v) for v in vector]]).encode() + b"\n")
        self.file.flush()


def _write(out: Path, extractor: str, clips: Sequence[Path], vectors: Sequence[np.ndarray]) -> None:
    """The file as a whole, in the format of its suffix: a row a clip, vectors (D,) in the order of the extractor's names."""
    feature_names = EXTRACTORS[extractor][1]
    stems = [clip.stem for clip in clips]
    names = stems if len(set(stems)) == len(stems) else [clip.as_posix() for clip in clips]
    if out.suffix.lower() == ".arff":
        labels = [class_of(clip.parts[:-1]) for clip in clips]
        write_arff(out, extractor, feature_names, zip(names, labels, vectors, strict=True), CLASSES)
    elif out.suffix.lower() == ".csv":
        write_csv(out, feature_names, zip(names, vectors, strict=True))
    else:
        content = BytesIO()
        np.savez(content, names=np.array(names), features=np.array(vectors), feature_names=np.array(feature_names),
                 extractor=np.array(extractor))
        write_whole(out, content.getvalue())
