"""The ffmpeg program of imageio-ffmpeg, or of IMAGEIO_FFMPEG_EXE, as a subprocess: one start, header, pictures and sound.

imageio_ffmpeg.read_frames is not used: it knows neither pixel aspect ratio nor the limits below, and waits for
ever on a decoder that stalls. A clip comes from strangers, so ffmpeg gets the `file` protocol and containers
that hold their own data (no playlists, no scripts, no image sequences), a largest picture, and a time limit.
The header is read from the log, of every version from 4.2 on; there is no ffprobe.
"""

import errno
import functools
import os
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, NamedTuple

import imageio_ffmpeg
import numpy as np

from ...errors import DataError, NoPicturesError
from ...files import LACKS, regular_file

MAX_PIXELS = 2**25         # one coded picture: 8K (7680 x 4320) passes
STALL_SECONDS = 60         # ffmpeg may take this long for the next block of output
CURE = "reinstall imageio-ffmpeg, or correct IMAGEIO_FFMPEG_EXE"
LOG_LINES = 10_000         # so many of ffmpeg's first messages are kept, and the last 50,
LINE_BYTES = 4096          # a longer one counts as several
MAX_RATE = 768_000         # samples a second: for a header that says a billion the resampler alone takes half a minute
MEMORY = 2**31             # bytes that ffmpeg itself may have, where the system can limit it (Linux): 8K takes 1 GB

#: Containers by ffmpeg's names, all of which hold their own data, and the suffixes of clips and of sounds in each.
FORMATS = {
    "avi": (".avi", ""), "mov": (".3g2 .3gp .m4v .mov .mp4", ".m4a"), "matroska": (".mkv .webm", ".mka"),
    "mpeg": (".mpeg .mpg .vob", ""), "mpegts": (".m2ts .mts .ts", ""), "flv": (".flv", ""), "asf": (".asf .wmv", ".wma"),
    "ogg": (".ogv", ".oga .ogg .opus"), "mp3": ("", ".mp2 .mp3"), "wav": ("", ".wav"), "w64": ("", ".w64"),
    "flac": ("", ".flac"), "aac": ("", ".aac"), "aiff": ("", ".aif .aifc .aiff"), "au": ("", ".au"), "caf": ("", ".caf"),
    "amr": ("", ".amr"),
}
CONTAINERS = ",".join([*FORMATS, "png_pipe", "jpeg_pipe", "bmp_pipe"])
PICTURES = {".png", ".jpg", ".jpeg", ".bmp"}
VIDEO_SUFFIXES, SOUND_SUFFIXES = ({suffix for listed in FORMATS.values() for suffix in listed[k].split()} for k in (0, 1))
GUARDS = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-max_pixels", str(MAX_PIXELS)]

PathLike = str | os.PathLike


@dataclass(frozen=True)
class Probe:
    """What the header of a clip says.

    width, height: coded pixels. display_width, display_height: pixels as they are to be seen, after pixel aspect
    ratio and rotation. fps: frames a second, duration: seconds; both 0 where unknown.
    """

    width: int
    height: int
    display_width: int
    display_height: int
    fps: float
    duration: float
    has_sound: bool
    video_codec: str


class Header(NamedTuple):
    """ffmpeg's description of a file; streams: by number, the line of each and what follows it."""

    container: str
    start: float
    duration: float
    streams: dict[int, tuple[str, str]]

    @property
    def has_sound(self) -> bool:
        return any(line.startswith("Audio: ") for line, _ in self.streams.values())

    def probe(self, name: str) -> Probe:
        """DataError: no video, pictures larger than MAX_PIXELS."""
        videos = [(line, rest) for line, rest in self.streams.values()
                  if line.startswith("Video: ") and "(attached pic)" not in line]      # a cover picture is no video
        if not videos:
            raise NoPicturesError(f"{name!r}: the file holds no video stream")
        line, rest = videos[0]
        size = re.search(r", (\d+)x(\d+)\b", line)
        if size is None:
            raise DataError(f"{name!r}: the header gives no picture size, or one above {MAX_PIXELS} pixels")
        width, height = int(size[1]), int(size[2])
        if width * height > MAX_PIXELS:
            raise DataError(f"{name!r}: pictures of {width} x {height}, expected at most {MAX_PIXELS} pixels")
        shape = re.findall(r"\bSAR (\d+):(\d+)", line)                   # the container's comes last, and wins
        across, down = map(int, shape[-1]) if shape else (1, 1)
        shown = max(1, round(width * across / max(down, 1))), height
        turn = re.search(r"^\[info\] +display ?matrix: rotation of (-?[\d.]+) degrees", rest, re.MULTILINE | re.IGNORECASE)
        if turn and abs(abs(float(turn[1])) % 180 - 90) < 1:
            shown = shown[::-1]
        rate = re.search(r" ([\d.]+)(k?) fps", line) or re.search(r" ([\d.]+)(k?) tbr", line)
        return Probe(width, height, *shown, fps=float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0,
                     duration=self.duration, has_sound=self.has_sound, video_codec=re.match(r"Video: (\w*)", line)[1])


@functools.cache
def _version(program: str) -> str:
    told = subprocess.run([program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=STALL_SECONDS)
    found = re.match(rb"ffmpeg version n?(\d+\.\d+[\d.]*|\S+)", told.stdout)
    return found[1].decode("ascii", "replace") if found else "unknown"


def ffmpeg_version() -> str:
    """The version of the ffmpeg in use, as "7.0.2", or what it calls itself instead. DataError: it does not start."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    try:
        return _version(program)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_start(program, error) from None


def _no_start(program: str, error: OSError | subprocess.TimeoutExpired, shown: str = "") -> Exception:
    """What is wrong with the program; or what the machine lacks to start any."""
    if isinstance(error, OSError) and error.errno in LACKS - {errno.EACCES, errno.EPERM}:
        return OSError(error.errno, error.strerror, program)
    reason = getattr(error, "strerror", None) or f"no version in {STALL_SECONDS} seconds"
    return DataError(f"{shown}cannot start {program!r} ({reason}): {CURE}")


def version_for(path: PathLike) -> tuple[int, int]:
    """Its first two numbers, or larger ones than any has. DataError, for `path`: it does not start."""
    try:
        numbers = re.match(r"(\d+)\.(\d+)", ffmpeg_version())
    except DataError as error:
        raise DataError(f"{os.fsdecode(path)!r}: {error}") from None
    return (int(numbers[1]), int(numbers[2])) if numbers else (99, 0)


class Ffmpeg:
    """ffmpeg reading `path` once: options of an output for pictures, of one for sound, each into a pipe, and of others.

    The caller takes the pictures, block by block; threads take log and sound, so that no full pipe stops
    ffmpeg. After `finish` there are sound, code (of the exit) and log. Closing kills ffmpeg.
    """

    def __init__(self, path: PathLike, pictures: Sequence[str] = (), sound: Sequence[str] = (),
                 others: Sequence[Sequence[str]] = ()) -> None:
        self.name, self.file = os.fsdecode(path), regular_file(path)
        self.sound, self.code, self.stalled, self.hears, self.wrong = bytearray(), 0, False, bool(sound), ""
        self.first, self.last = [], deque(maxlen=50)
        # "level" marks the lines that ffmpeg begins; `file:` makes every character of the name literal
        # Clips are read many at once, for networks: threads in each cost more than they gain. Of sound alone, the witness
        # of the first picture needs one of its own, or it may come too late.
        alone = ["-threads", "1", "-filter_threads", "1"] if sound and pictures else []
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-nostats", "-v", "level+info", *GUARDS,
                   *alone, "-i", "file:" + self.file]
        second = os.pipe() if pictures and sound else ()
        outputs = [[*pictures, "pipe:1"]] if pictures else []
        outputs += [[*sound, f"pipe:{second[1] if second else 1}"]] if sound else []
        for output in [*outputs, *others]:
            command += ["-max_error_rate", "1", "-map_metadata", "-1", "-map_chapters", "-1", *output]
        try:
            # GCONV_PATH: static builds would load the system's character sets for the names in an .mts, and crash
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, pass_fds=second[1:],
                                            env=os.environ | {"GCONV_PATH": os.devnull})
        except OSError as error:
            for end in second[:1]:
                os.close(end)
            raise _no_start(command[0], error, f"{self.name!r}: ") from None
        finally:
            for end in second[1:]:
                os.close(end)
        with suppress(ImportError, AttributeError, OSError):
            import resource
            resource.prlimit(self.process.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
        self.waiting: float | None = time.monotonic()         # since when; None while the caller is busy
        self.done = threading.Event()
        self.lacking: MemoryError | None = None
        takes = [(self._listen, self.process.stderr)]
        if sound:
            pipe = open(second[0], "rb", 0) if second else self.process.stdout
            takes.append((self._hear, pipe))
        self.readers = [threading.Thread(target=self._take, args=take, daemon=True) for take in takes]
        self._start()

    def _start(self) -> None:
        """Start the threads. OSError: there are too many already."""
        try:
            for thread in [*self.readers, threading.Thread(target=self._watch, daemon=True)]:
                thread.start()
        except RuntimeError as error:
            self.readers = [thread for thread in self.readers if thread.is_alive()]
            self.close()
            raise OSError(errno.EAGAIN, str(error)) from None

    def _take(self, take: Callable[[IO[bytes]], None], pipe: IO[bytes]) -> None:
        try:
            with pipe:
                take(pipe)
        except MemoryError as error:                                          # ffmpeg ends, too: nobody reads what it says
            self.lacking = error

    def _listen(self, pipe: IO[bytes]) -> None:
        while line := pipe.readline(LINE_BYTES):
            (self.first if len(self.first) < LOG_LINES else self.last).append(line)
            if self.hears and (rate := re.search(rb"Audio: .* (\d+) Hz", line)) and int(rate[1]) > MAX_RATE:
                self.wrong = f"sound of {int(rate[1])} samples a second, expected at most {MAX_RATE}"
                self.process.kill()

    def _hear(self, pipe: IO[bytes]) -> None:
        while block := os.read(pipe.fileno(), 2**16):
            self.sound += block
            if self.waiting:
                self.waiting = time.monotonic()

    def _watch(self) -> None:
        while not self.done.wait(STALL_SECONDS / 4):
            if (since := self.waiting) and time.monotonic() - since > STALL_SECONDS:
                self.stalled = True
                self.process.kill()

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """The bytes of the pictures, `size` of them at a time, at the end fewer."""
        got = size
        while got == size:
            block = np.empty(size, np.uint8)
            self.waiting = time.monotonic()
            got = self.process.stdout.readinto(block)
            self.waiting = None
            if got:
                yield block[:got]

    def finish(self) -> None:
        """Wait for the end. DataError: ffmpeg stalled."""
        self.waiting = time.monotonic()
        for thread in self.readers:
            thread.join()
        self.code = self.process.wait()
        self.done.set()
        if self.lacking:
            raise self.lacking
        if self.stalled:
            raise DataError(f"{self.name!r}: ffmpeg stalled for {STALL_SECONDS} seconds and was stopped")

    def close(self) -> None:
        """Kill it, if it still runs, and give everything back."""
        self.done.set()
        self.process.kill()
        self.process.wait()
        for thread in self.readers:
            thread.join()
        self.process.stdout.close()

    @property
    def log(self) -> str:
        """What is kept of the log, without the file's name, which may hold newlines and imitate anything."""
        return os.fsdecode(b"".join([*self.first, *self.last])).replace(self.file, "")

    def reason(self) -> str:
        """Why it was stopped, or the last telling error of the log, without the module that reports it."""
        if self.wrong:
            return self.wrong
        errors = re.findall(r"^(?:\[[^]\n]*] )*\[(?:error|fatal|panic)] (.*\S)", self.log, re.MULTILINE)
        telling = [line for line in errors if not re.match(
            "Error opening (input|output) file|Error parsing options|Conversion failed|Nothing was written|Task finished"
            "|Terminating thread|At least one output file",
            line)]
        return telling[-1].encode("ascii", "replace").decode()[:200] if telling else "ffmpeg gives no reason"

    def header(self) -> Header:
        """DataError: no media file.

        Texts in the file cannot imitate what is looked for: ffmpeg indents their names further than a stream, and what
        follows a newline in them has no level in front.
        """
        text = re.split(r"^\[info\] (?:Stream mapping:|Output #0)", self.log, flags=re.MULTILINE)[0]
        head, *parts = re.split(r"^\[info\] (?:  |    )Stream #0:(\d+)(?:\[\w+\])?(?:\([^)]*\))?: ", text,
                                flags=re.MULTILINE)
        found = re.search(r"^\[info\] Input #0, (.*?), from '.*^\[info\]   Duration: (?:(\d+):(\d+):([\d.]+)|N/A)"
                          r"(?:, start: (-?[\d.]+))?", head, re.MULTILINE | re.DOTALL)
        if found is None:
            raise DataError(f"{self.name!r}: no media file that can be read ({self.reason()}); "
                            f"expected one of {CONTAINERS}; playlists and scripts are not followed")
        hours, minutes, seconds, start = (float(number or 0) for number in found.groups()[1:])
        streams = {int(k): part.partition("\n")[::2] for k, part in zip(parts[::2], parts[1::2], strict=True)}
        return Header(found[1], start, 3600 * hours + 60 * minutes + seconds, streams)
