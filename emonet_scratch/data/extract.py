"""Audio vectors of many clips into one feature file: several processes, one clip at a time, and nothing is done twice."""

import json
import math
import os
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from ..emotions import CLASSES
from ..errors import DataError
from ..files import owned_file, parse_json, print_anything, regular, write_whole
from ..shards import ALONE, Alone
from .afew import class_of, same_name
from .blas import one_blas_thread
from .left_out import attempt, usable
from .opensmile import write_arff, write_csv
from .progress import progress
from .sound import compact, is10
from .video import SOUND_SUFFIXES, VIDEO_SUFFIXES, ffmpeg_version, read_media

#: What makes a vector of a sound, by name and version.
EXTRACTORS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...]]] = {
    is10.EXTRACTOR: (is10.features, is10.FEATURE_NAMES),
    is10.EXTRACTOR + "-energy": (lambda sound: is10.features(sound, loudness="energy"), is10.FEATURE_NAMES),
    compact.EXTRACTOR: (compact.features, compact.FEATURE_NAMES),
}
DEFAULT = is10.EXTRACTOR
SUFFIXES = VIDEO_SUFFIXES | SOUND_SUFFIXES
FORMATS = (".arff", ".csv", ".npz")
HEAD, LONGEST = b'{"extractor": ', 2**20      # what a journal begins with, and the longest line of one


class Unheard(DataError):
    """The sound of a clip with pictures cannot be decoded: as good as none."""


def made_by(extractor: str) -> str:
    """What vectors of an extractor hang on: its name and the version of ffmpeg, "is10-2+ffmpeg-7.0.2"."""
    return f"{extractor}+ffmpeg-{ffmpeg_version()}"


def base_of(made: str) -> str:
    """The extractor alone of what `made_by` gives, or of what older versions wrote, which is its name only."""
    return made.partition("+")[0]


def vector_of(path: str | os.PathLike, extractor: str = DEFAULT) -> np.ndarray:
    """The (D,) vector of a clip's sound; all NaN, "missing", where it has no sound track. DataError: it cannot be read.

    Unheard where there are pictures and only the sound cannot be decoded.
    """
    compute, names = EXTRACTORS[extractor]
    media = read_media(path, rate=is10.RATE)
    if media.fault:
        raise (Unheard if media.probe else DataError)(f"{os.fsdecode(path)!r}: {media.fault}")
    with one_blas_thread():                                               # the same bits, however many processes there are
        return np.full(len(names), np.nan) if media.sound is None else compute(media.sound)


def find(paths: Iterable[str | os.PathLike], suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """The files among `paths`, and all with these suffixes, sounds and clips, below the folders, sorted, each once."""
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def extract(paths: Sequence[str | os.PathLike], out: str | os.PathLike, extractor: str = DEFAULT, *, on_error: str = "skip",
            workers: int | None = None, log: Callable[[str], None] = print, ranks: Alone = ALONE) -> tuple[int, int]:
    """Write the vectors of clips and of folders of clips to `out`, .arff, .csv or .npz; (written, failed).

    Rows are in the order of the clips and named after them, without suffix, or by their path where that is ambiguous. A
    clip without sound has missing values. While it works, `out` + ".partial" keeps what is done: the same call, after
    whatever happened, goes on from there; clips that changed meanwhile are done again. `out` appears, whole, at the end.

    on_error "skip": a clip that cannot be read is logged, counted and left out; "stop": DataError. ranks: who computes
    them together; rank 0 writes.
    """
    out = Path(out)
    if out.suffix.lower() not in FORMATS:
        raise DataError(f"{str(out)!r}: expected a name that ends in {', '.join(FORMATS)}")
    if ranks.rank:
        for _ in _shared(json.loads(ranks.told("")), extractor, workers, ranks):
            pass
        return tuple(json.loads(ranks.told("")))
    with owned_file(out):
        found = _extract(paths, out, extractor, on_error, workers, log, ranks)
    ranks.told(json.dumps(found))
    return found


def _extract(paths: Sequence[str | os.PathLike], out: Path, extractor: str, on_error: str, workers: int | None,
             log: Callable[[str], None], ranks: Alone) -> tuple[int, int]:
    partial = out.with_name(out.name + ".partial")
    if out.exists():
        with suppress(OSError), open(partial, "rb", opener=regular) as file:
            if file.read(len(HEAD)) in (HEAD, b""):
                partial.unlink()                                              # killed when all was done
        raise DataError(f"{str(out)!r} exists already: remove it, or give another --out")
    clips = {clip: _identity(clip) for clip in find(paths)}
    if not clips:
        raise DataError(f"{', '.join(map(repr, map(str, paths)))}: expected sounds or clips, got none "
                        f"({', '.join(sorted(SUFFIXES))})")
    with closing(_Journal(partial, made_by(extractor), log)) as journal:
        todo = [clip for clip, identity in clips.items() if identity not in journal.vectors]
        if len(todo) < len(clips):
            log(f"{len(clips) - len(todo)} of {len(clips)} clips are done already")
        work = _work(todo, extractor, workers)
        if ranks.size > 1:
            work = _shared(json.loads(ranks.told(json.dumps(list(map(str, todo))))), extractor, workers, ranks)
        bar = progress(work, "audio features", len(clips), initial=len(clips) - len(todo))
        for clip, vector in usable(_heard(bar, extractor, log), on_error, log):
            journal.add(clips[clip], vector)
    done = {clip: journal.vectors[identity] for clip, identity in clips.items() if identity in journal.vectors}
    if not done:
        raise DataError(f"none of the {len(clips)} clips can be used")
    _write(out, extractor, list(done), list(done.values()))
    partial.unlink()
    return len(done), len(clips) - len(done)


def _heard(results: Iterable[tuple[Path, np.ndarray | DataError]], extractor: str,
           log: Callable[[str], None]) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """The same with missing vectors for clips whose sound cannot be decoded; they are named and counted."""
    faulty = 0
    for clip, result in results:
        if isinstance(result, Unheard):
            log(f"without sound: {result}")
            faulty, result = faulty + 1, np.full(len(EXTRACTORS[extractor][1]), np.nan)
        yield clip, result
    if faulty:
        log(f"{faulty} clips have no sound that can be read: their vectors are missing")


def _work(clips: Sequence[Path], extractor: str, workers: int | None) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """(clip, vector or the reason why there is none), as they come."""
    workers = min(workers or os.cpu_count() or 1, max(1, len(clips)))
    if workers == 1:
        yield from ((clip, attempt(vector_of, clip, extractor)) for clip in clips)
        return
    # Started afresh: a copy of a process that has threads may wait for locks that nobody holds.
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        jobs = {pool.submit(attempt, vector_of, clip, extractor): clip for clip in clips}
        try:
            for job in as_completed(jobs):
                yield jobs.pop(job), job.result()            # popped, so that the vector is not kept
        finally:
            pool.shutdown(cancel_futures=True)


def _shared(clips: Sequence[str], extractor: str, workers: int | None,
            ranks: Alone) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """The same by all ranks."""
    def work(mine: list[str]) -> list[Any]:
        found = dict(_work(list(map(Path, mine)), extractor, workers or 1))
        every = [found[Path(clip)] for clip in mine]
        return [[type(x).__name__, str(x) if isinstance(x, DataError) else x.tolist()] for x in every]
    for clip, (kind, what) in ranks.rounds(work, clips):
        yield Path(clip), {"Unheard": Unheard, "ndarray": np.array}.get(kind, DataError)(what)


def _end_with_parent() -> None:
    """In a worker: end with the process that began it, however that ends, and not with a traceback of its own."""
    print_anything()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):                              # a terminal's Ctrl-C is for the parent
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _identity(clip: Path) -> str:
    """What a clip is known by: path, size and time of its last change."""
    try:
        status = clip.stat()
        return f"{clip} {status.st_size} {status.st_mtime_ns}"
    except OSError:
        return str(clip)


class _Journal:
    """Vectors that are done, one line of JSON each, flushed. Damaged lines do not count: those clips are done again."""

    def __init__(self, path: Path, extractor: str, log: Callable[[str], None]) -> None:
        self.path, head = path, HEAD + json.dumps(extractor).encode() + b"}"
        with self._named(), open(path, "rb") if path.is_file() else BytesIO() as file:
            lines = iter(lambda: file.readline(LONGEST), b"")
            first = next(lines, b"")
            begun = first.rstrip(b"\0\r\n")                                  # a power cut leaves zeros, or half a line
            if begun != head and (any(line != b"\n" for line in lines) or not head.startswith(begun)):
                what = "of another extractor" if first.startswith(HEAD) else "no record of vectors that are done"
                raise DataError(f"{str(path)!r} is {what} ({first[:80].decode(errors='replace')!r}): move it elsewhere, or "
                                f"give another --out")
            self.vectors, damaged = _entries(lines, len(EXTRACTORS[base_of(extractor)][1]))
        if damaged:
            log(f"{str(path)!r}: damaged lines, {damaged} in all, are left out: what they held is done again")
        with self._named():
            if damaged or first != head + b"\n":
                write_whole(path, head + b"\n", *(_line(*entry) for entry in self.vectors.items()))
            self.file = open(path, "ab")

    def close(self) -> None:
        with suppress(OSError):                                               # of a full disk, on which `add` has failed
            self.file.close()

    def add(self, identity: str, vector: np.ndarray) -> None:
        self.vectors[identity] = vector
        with self._named():
            self.file.write(_line(identity, vector))
            self.file.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{str(self.path)!r} cannot be written ({error.strerror}): make room there and give the same "
                            f"call again, which goes on from here, or give another --out") from None


def _line(identity: str, vector: np.ndarray) -> bytes:
    return json.dumps([identity, [None if np.isnan(v) else float(v) for v in vector]]).encode() + b"\n"


def _entries(lines: Iterable[bytes], D: int) -> tuple[dict[str, np.ndarray], int]:
    """({identity: vector (D,)}, how many lines are damaged); of two vectors of one clip, one is."""
    entries = [_entry(line, D) for line in lines]
    times = Counter(entry[0] for entry in entries if entry)
    vectors = {identity: vector for identity, vector in filter(None, entries) if times[identity] == 1}
    return vectors, len(entries) - len(vectors)


def _entry(line: bytes, D: int) -> tuple[str, np.ndarray] | None:
    """(identity, vector (D,)) of a line of the journal; None where it is damaged."""
    try:
        identity, values = parse_json(line)
        whole = line.endswith(b"\n") and isinstance(identity, str) and len(values) == D and all(
            value is None or (type(value) in (int, float) and math.isfinite(value)) for value in values)
        return (identity, np.array(values, float)) if whole else None         # None, a missing value, becomes NaN
    except (ValueError, TypeError, OverflowError):
        return None


def _write(out: Path, extractor: str, clips: Sequence[Path], vectors: Sequence[np.ndarray]) -> None:
    """The file as a whole, in the format of its suffix: a row a clip, vectors (D,) in the order of the extractor's names."""
    feature_names = EXTRACTORS[extractor][1]
    stems = [clip.stem for clip in clips]
    names = stems if len(set(map(same_name, stems))) == len(stems) else [clip.as_posix() for clip in clips]
    if out.suffix.lower() == ".arff":
        labels = [class_of(clip.parts[:-1]) for clip in clips]
        write_arff(out, made_by(extractor), feature_names, zip(names, labels, vectors, strict=True), CLASSES)
    elif out.suffix.lower() == ".csv":
        write_csv(out, feature_names, zip(names, vectors, strict=True))
    else:
        content = BytesIO()
        np.savez(content, names=np.array(names), features=np.array(vectors), feature_names=np.array(feature_names),
                 extractor=np.array(made_by(extractor)))
        write_whole(out, content.getvalue())
