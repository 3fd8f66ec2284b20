"""Clips and sound as arrays: the ffmpeg program of imageio-ffmpeg, or of IMAGEIO_FFMPEG_EXE, run as a subprocess.

imageio_ffmpeg.read_frames is not used: it knows neither pixel aspect ratio nor the limits below, and waits for
ever on a decoder that stalls. A clip comes from strangers, so ffmpeg gets the `file` protocol and containers
that hold their own data (no playlists, no scripts, no image sequences), a largest picture, and a time limit.

What decodes is used: a truncated clip gives the frames that are there. A clip without any is a DataError.

One start reads all: the header from the log, pictures and sound from a pipe each. Every version from 4.2 on gives the same
picture at the same time, and sound that starts with the pictures: which silence of encoders a version leaves out, and where
its clock starts, differs; so the log tells when first picture and first sound came, and their distance is made good here.
"""

import functools
import math
import os
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import IO, NamedTuple

import imageio_ffmpeg
import numpy as np

from ...errors import DataError
from ...files import regular_file
from .cache import FrameCache

MAX_PIXELS = 2**25         # one coded picture: 8K (7680 x 4320) passes
MAX_BYTES = 2**31          # what pictures or sound may take in memory
MAX_SECONDS = 6 * 3600     # a time stamp that leaps by years must not become years of repeated frames
STALL_SECONDS = 60         # ffmpeg may take this long for the next block of output
BLOCK_BYTES = 2**20        # frames are fetched from the pipe in blocks of about this size
LOG_LINES = 10_000         # so many of ffmpeg's first messages are kept, and the last 50

#: Containers by ffmpeg's names, all of which hold their own data, and the suffixes of clips and of sounds in each.
FORMATS = {
    "avi": (".avi", ""), "mov": (".3g2 .3gp .m4v .mov .mp4", ".m4a"), "matroska": (".mkv .webm", ".mka"),
    "mpeg": (".mpeg .mpg .vob", ""), "mpegts": (".m2ts .mts .ts", ""), "flv": (".flv", ""), "asf": (".asf .wmv", ".wma"),
    "ogg": (".ogv", ".oga .ogg .opus"), "mp3": ("", ".mp2 .mp3"), "wav": ("", ".wav"), "w64": ("", ".w64"),
    "flac": ("", ".flac"), "aac": ("", ".aac"), "aiff": ("", ".aif .aifc .aiff"), "au": ("", ".au"), "caf": ("", ".caf"),
    "amr": ("", ".amr"),
}
CONTAINERS = ",".join(FORMATS)
VIDEO_SUFFIXES, SOUND_SUFFIXES = ({suffix for listed in FORMATS.values() for suffix in listed[k].split()} for k in (0, 1))
#: Samples that the usual encoder of a codec puts in front.
DELAYS = {"aac": 1024, "mp3": 1105, "ac3": 256, "wmav1": 2048, "wmav2": 2048}
GUARDS = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-max_pixels", str(MAX_PIXELS)]

#: A filter of times that also puts the first frame's into the log, plus a mark that tells it from all else there.
TELL_TIME = "{}='{}+if(eq(N,0),gt(print(T+{}),1e99))'"
PICTURE, SOUND = 3_000_000_000, 5_000_000_000
#: An output that only tells when the first picture comes; there is always something in it, if there is sound.
WITNESS = ["-map", "0:V:0?", "-map", "0:a:0", "-c:a", "copy", "-vf", TELL_TIME.format("setpts", "PTS", PICTURE),
           "-frames:v", "1", "-frames:a", "1", "-f", "null", "-"]

#: An output that writes the times of the sound's packets into the log.
TIMES = ["-vn", "-sn", "-dn", "-c:a", "copy", "-f", "framecrc", "pipe:2"]

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


@dataclass(frozen=True)
class Media:
    """What one reading of a file gives: its header, pictures (T, size, size, 3) uint8, sound (S,) float32 in [-1, 1].

    probe is None where there is no video and no pictures were asked for. frames and sound are None where they were not asked
    for; sound, too, where there is no track (fault "") or none of use (fault: why, in words). Sample 0 is of the moment of
    picture 0; in a file without pictures, the first one.
    """

    probe: Probe | None
    frames: np.ndarray | None
    sound: np.ndarray | None
    fault: str


class _Header(NamedTuple):
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
            raise DataError(f"{name!r}: the file holds no video stream")
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


class _Pictures(NamedTuple):
    """Checked arguments of `stream_frames`."""

    size: int
    most: int                 # frames to take
    limit: int                # more than so many are an error
    fps: str                  # the filters
    shape: str

    @classmethod
    def checked(cls, size: int, fps: float, max_frames: int | None, fit: str) -> "_Pictures":
        """ValueError: an argument."""
        if not 1 <= size <= 4096 or int(size) != size:
            raise ValueError(f"size must be a whole number from 1 to 4096, got {size!r}")
        if not 0 < fps <= 1000:
            raise ValueError(f"fps must lie above 0 and not above 1000, got {fps!r}")
        if max_frames is not None and (max_frames < 1 or int(max_frames) != max_frames):
            raise ValueError(f"max_frames must be None or a whole number from 1, got {max_frames!r}")
        if fit == "pad":              # dar: display width / display height of the (already rotated) picture
            shape = (f"scale=w='if(gte(dar,1),{size},max(1,round({size}*dar)))'"
                     f":h='if(gte(dar,1),max(1,round({size}/dar)),{size})':flags=area"
                     f",format=rgb24,pad={size}:{size}:(ow-iw)/2:(oh-ih)/2:black")
        elif fit == "crop":
            shape = f"crop=w='max(1,min(iw,ih/sar))':h='max(1,min(ih,iw*sar))',scale={size}:{size}:flags=area"
        else:
            raise ValueError(f'fit must be "pad" or "crop", got {fit!r}')
        limit = math.ceil(MAX_SECONDS * fps)
        return cls(int(size), max_frames or limit + 1, limit, f"fps={float(fps)!r}", f"{shape},setsar=1")

    def options(self, version: tuple[int, ...], short: bool) -> list[str]:
        """From the first frame's time on: a start between two ticks would make rounding repeat and drop frames.

        short: no more than the first picture; of less than half a tick, rounding would leave nothing.
        """
        chain = [TELL_TIME.format("setpts", "PTS-STARTPTS", PICTURE), *([] if short else [self.fps]), self.shape]
        if version < (4, 3) and not short:         # setpts leaves the end where it was: a frame marks it
            chain = ["tpad=stop=1:stop_mode=clone", chain[0], "concat=n=1:v=1:a=0", *chain[1:]]
        return ["-map", "0:V:0", "-vf", ",".join(chain), "-vsync" if version < (5, 1) else "-fps_mode", "passthrough",
                "-frames:v", "1" if short else str(self.most), "-pix_fmt", "rgb24", "-f", "rawvideo"]


@functools.cache
def _version(program: str) -> str:
    told = subprocess.run([program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=STALL_SECONDS)
    found = re.match(rb"ffmpeg version n?(\d+(?:\.\d+)+|\S+)", told.stdout)
    return found[1].decode("ascii", "replace") if found else "unknown"


def _no_start(program: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or f"no version in {STALL_SECONDS} seconds"
    return f"cannot start {program!r} ({reason}): reinstall imageio-ffmpeg, or correct IMAGEIO_FFMPEG_EXE"


def ffmpeg_version() -> str:
    """The version of the ffmpeg in use, as "7.0.2", or what it calls itself instead. DataError: it does not start."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    try:
        return _version(program)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(_no_start(program, error)) from None


class _Ffmpeg:
    """ffmpeg reading `path` once, pictures and sound (if there is a rate) into a pipe each. Closing it kills it.

    The caller takes the pictures, block by block; threads take sound and log, so that no full pipe stops ffmpeg. After
    `finish` there are sound, code (of the exit) and log.
    """

    def __init__(self, path: PathLike, pictures: _Pictures | None, rate: int | None, short: bool) -> None:
        self.name, self.file = os.fsdecode(path), regular_file(path)
        self.sound, self.code, self.stalled = bytearray(), 0, False
        self.first, self.last = [], deque(maxlen=50)
        program = imageio_ffmpeg.get_ffmpeg_exe()
        # "level" marks the lines that ffmpeg begins; `file:` makes every character of the name literal
        command = [program, "-nostdin", "-hide_banner", "-nostats", "-v", "level+info", *GUARDS, "-i", "file:" + self.file]
        second = os.pipe() if pictures and rate else ()
        try:
            numbers = re.match(r"(\d+)\.(\d+)", _version(program))
            version = tuple(map(int, numbers.groups())) if numbers else (99, 0)
            outputs = [[*pictures.options(version, short), "pipe:1"]] if pictures else [WITNESS] if rate else []
            if rate:
                outputs.append([*_sound_options(rate), f"pipe:{second[1] if second else 1}"])
                outputs += [TIMES] if version < (9, 0) else []
            for output in outputs:
                command += ["-max_error_rate", "1", "-map_metadata", "-1", "-map_chapters", "-1", *output]
            # GCONV_PATH: static builds would load the system's character sets for the names in an .mts, and crash
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, pass_fds=second[1:],
                                            env=os.environ | {"GCONV_PATH": os.devnull})
        except (OSError, subprocess.TimeoutExpired) as error:
            for end in second[:1]:
                os.close(end)
            raise DataError(f"{self.name!r}: {_no_start(program, error)}") from None
        finally:
            for end in second[1:]:
                os.close(end)
        self.waiting: float | None = time.monotonic()         # since when; None while the caller is busy
        self.done = threading.Event()
        self.readers = [threading.Thread(target=self._listen, daemon=True)]
        if rate:
            pipe = open(second[0], "rb", 0) if second else self.process.stdout
            self.readers.append(threading.Thread(target=self._hear, args=(pipe,), daemon=True))
        for thread in [*self.readers, threading.Thread(target=self._watch, daemon=True)]:
            thread.start()

    def _listen(self) -> None:
        with self.process.stderr as pipe:
            for line in pipe:
                (self.first if len(self.first) < LOG_LINES else self.last).append(line)

    def _hear(self, pipe: IO[bytes]) -> None:
        with pipe:
            while block := os.read(pipe.fileno(), 2**16):
                if len(self.sound) <= MAX_BYTES:                  # beyond, the rest is read and dropped
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
        """The last telling error of the log, without the module that reports it."""
        errors = re.findall(r"^(?:\[[^]]*] )*\[(?:error|fatal|panic)] (.*\S)", self.log, re.MULTILINE)
        telling = [line for line in errors if not re.match(
            "Error opening (input|output) file|Error parsing options|Conversion failed|Nothing was written|Task finished"
            "|Terminating thread|At least one output file",
            line)]
        return telling[-1].encode("ascii", "replace").decode()[:200] if telling else "ffmpeg gives no reason"

    def header(self) -> _Header:
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
        return _Header(found[1], start, 3600 * hours + 60 * minutes + seconds, streams)


def _sound_options(rate: int) -> list[str]:
    """The track that ffmpeg chooses, first of all one that is marked default; as floats, in which NaN stays NaN."""
    if not 100 <= rate <= 384000 or int(rate) != rate:
        raise ValueError(f"rate must be a whole number of samples a second from 100 to 384000, got {rate!r}")
    # rematrix_maxval: the channels are averaged; into floats ffmpeg would else add them and exceed 1
    chain = TELL_TIME.format("asetpts", "PTS", SOUND) + f",aresample={int(rate)}:rematrix_maxval=1"
    return ["-vn", "-sn", "-dn", "-af", chain, "-ac", "1", "-c:a", "pcm_f32le", "-f", "f32le"]


def _place(sound: np.ndarray, rate: int, log: str, header: _Header) -> tuple[int, np.ndarray]:
    """(samples by which the sound follows the first picture, the sound without what an encoder put behind it).

    Clocks of milliseconds blur the silence that encoders put in front: such a distance is taken for it.
    """
    told = [float(number) for number in re.findall(r"(?<!\d)\d{10}\.\d{6}$", log, re.MULTILINE)]
    first, start = (next((t - mark for t in told if abs(t - mark) < 1e9), None) for mark in (PICTURE, SOUND))
    track = re.search(r"Stream #0:(\d+) -> #\d:0 \((\w+).* -> pcm_f32le", log)
    if start is None or track is None:
        return 0, sound
    packets = re.findall(r"^0, +-?\d+, +(-?\d+), +(\d+), ", log, re.MULTILINE)
    tick = re.search(r"^#tb 0: (\d+)/(\d+)", log, re.MULTILINE)
    told_end = header.container == "ogg" or (header.container.startswith("mov") and track[2] in DELAYS)
    if told_end and packets and tick:             # newer versions see to it themselves
        most = round((sum(map(int, packets[-1])) * int(tick[1]) / int(tick[2]) - start) * rate)
        sound = sound[:most] if 0 < len(sound) - most < 0.05 * rate else sound
    if header.container == "avi":     # has no time stamps: all starts at once
        return 0, sound
    sampling = re.search(r", (\d+) Hz", header.streams[int(track[1])][0])
    delay = DELAYS.get(track[2], 0) / int(sampling[1]) if sampling else 0.0
    if first is None:                 # no pictures
        first = delay if header.container == "asf" else -header.start if -0.1 < header.start < 0 else start
    late = start - first
    nearest = min((-delay, 0.0, delay), key=lambda guess: abs(late - guess))
    return round((nearest if abs(late - nearest) < 0.001 else late) * rate), sound


def _heard(run: _Ffmpeg, header: _Header, rate: int) -> tuple[np.ndarray | None, str]:
    """(sound or None, fault) of a run that has ended."""
    if not header.has_sound:
        return None, ""
    sound = np.frombuffer(run.sound, "<f4", len(run.sound) // 4)
    if len(sound) == 0 or run.code:
        what = "decoding of the sound broke off" if len(sound) else "nothing of the sound could be decoded"
        return None, f"{what} ({run.reason()})"
    wrong = len(sound) - np.count_nonzero(np.isfinite(sound))
    if wrong:
        return None, f"{wrong} of {len(sound)} samples of the sound are no numbers"
    late, sound = _place(sound, rate, run.log, header)
    if 4 * (len(sound) + max(0, late)) > MAX_BYTES:
        return None, f"the sound takes more than {MAX_BYTES} bytes: cut the file"
    if late + len(sound) <= 0:
        return None, "the sound ends before the pictures begin"
    sound = np.concatenate([np.zeros(late, np.float32), sound]) if late > 0 else sound[-late:]
    sound *= 32768                                            # in place: an hour is 230 MB
    np.clip(np.rint(sound, out=sound), -32768, 32767, out=sound)
    sound /= 32768
    return sound, ""


def _decode(path: PathLike, pictures: _Pictures | None, rate: int | None) -> Generator[np.ndarray, None, _Ffmpeg]:
    """One reading: yields pictures, (n, size, size, 3) at a time, and gives back the run that has ended.

    DataError: a stall; pictures were asked for and none came, or they broke off.
    """
    for short in (False, True):
        count = 0
        with closing(_Ffmpeg(path, pictures, rate, short)) as run:
            if pictures is not None:
                frame_bytes = pictures.size**2 * 3
                for block in run.blocks(max(1, BLOCK_BYTES // frame_bytes) * frame_bytes):
                    frames = block[:len(block) // frame_bytes * frame_bytes].reshape(-1, pictures.size, pictures.size, 3)
                    count += len(frames)
                    if count > pictures.limit:
                        raise DataError(f"{run.name!r}: frames for more than {MAX_SECONDS} seconds")
                    yield frames
            run.finish()
        if pictures is None or (count and not run.code):
            return run
        if count or run.code:
            break
    if not count:
        run.header().probe(run.name)  # says it better where it can: no media file, no video, too large
    what = "decoding broke off" if count else "nothing in it could be decoded"
    raise DataError(f"{run.name!r}: {what} ({run.reason()})")


def _collect(path: PathLike, pictures: _Pictures | None, rate: int | None = None) -> tuple[_Ffmpeg, np.ndarray | None]:
    """(the run that has ended, pictures if they are asked for) of one reading; DataError, too: more than MAX_BYTES."""
    pixels = bytearray()              # grows in place: a list of frames would need twice the memory at the end
    with closing(_decode(path, pictures, rate)) as decoded:
        while True:
            try:
                frames = next(decoded)
            except StopIteration as end:
                run = end.value
                break
            if len(pixels) + frames.nbytes > MAX_BYTES:
                raise DataError(f"{os.fsdecode(path)!r}: the frames take more than {MAX_BYTES} bytes: "
                                "give max_frames or a smaller size")
            pixels += frames.data
    return run, pictures and np.frombuffer(pixels, np.uint8).reshape(-1, pictures.size, pictures.size, 3)


def _read(path: PathLike, pictures: _Pictures | None, rate: int | None = None) -> Media:
    """`read_media` in one start."""
    run, frames = _collect(path, pictures, rate)
    header = run.header()
    sound, fault = (None, "") if rate is None else _heard(run, header, rate)
    try:
        found = header.probe(run.name)
    except DataError:
        if rate is None:
            raise
        found = None
    return Media(found, frames, sound, fault)


def probe(path: PathLike) -> Probe:
    """Reads the header of a clip. DataError: not a media file, no video, pictures larger than MAX_PIXELS."""
    return _read(path, None).probe


def read_media(path: PathLike, size: int | None = None, fps: float = 25, max_frames: int | None = None, fit: str = "pad",
               rate: int | None = None) -> Media:
    """Header, pictures if there is a size, sound if there is a rate, in one start of ffmpeg; arguments as `stream_frames`.

    A clip without a sound track, or with one that stops ffmpeg, takes a second start. rate: samples a second, channels
    averaged, quantised to 16 bits, as nearly all sources are. ValueError: an argument. DataError: no media file;
    pictures as `read_clip`.
    """
    pictures = None if size is None else _Pictures.checked(size, fps, max_frames, fit)
    if rate is not None:
        _sound_options(rate)
    if pictures is None or rate is None:
        return _read(path, pictures, rate)
    if os.name == "posix":            # elsewhere a process inherits no second pipe
        with suppress(DataError):
            return _read(path, pictures, rate)
    media = _read(path, pictures)
    if not media.probe.has_sound:
        return media
    heard = _read(path, None, rate)
    return replace(media, sound=heard.sound, fault=heard.fault)


def stream_frames(path: PathLike, size: int, fps: float = 25, max_frames: int | None = None,
                  fit: str = "pad") -> Iterator[np.ndarray]:
    """Yields the frames of a clip, (size, size, 3) uint8 RGB, `fps` of them for each second, as they are decoded.

    fit "pad" shows the whole picture, centred on black; "crop" its centre square. Both respect the display
    aspect ratio (pixel aspect, rotation). Frames are repeated or left out to keep `fps`, whatever the source does.
    ValueError: an argument. DataError: no frame decodes, a stalled decoder, more than MAX_SECONDS of frames.
    """
    pictures = _Pictures.checked(size, fps, max_frames, fit)
    regular_file(path)
    return _one_by_one(_decode(path, pictures, None))


def _one_by_one(blocks: Generator[np.ndarray, None, _Ffmpeg]) -> Iterator[np.ndarray]:
    with closing(blocks):
        for block in blocks:
            yield from block


def read_clip(path: PathLike, size: int, fps: float = 25, max_frames: int | None = None, fit: str = "pad",
              cache: FrameCache | None = None) -> np.ndarray:
    """A whole clip, (T, size, size, 3) uint8 RGB, T >= 1; the arguments are those of stream_frames.

    With a cache the array is read-only and mapped from disk, and ffmpeg runs only for what the cache lacks.
    DataError as stream_frames, and where the frames would take more than MAX_BYTES.
    """
    pictures = _Pictures.checked(size, fps, max_frames, fit)
    if cache is None:
        return _collect(path, pictures)[1]
    key = cache.key(path, size=int(size), fps=float(fps), max_frames=max_frames, fit=fit)
    found = cache.load(key)
    return cache.keep(key, _collect(path, pictures)[1]) if found is None else found


def read_sound(path: PathLike, rate: int = 16000) -> np.ndarray | None:
    """The sound of a file, (S,) float32 in [-1, 1], as of `read_media`; None means that there is no sound track.

    DataError: not a media file, a track of which nothing decodes, samples that are no numbers, a stalled decoder, more than
    MAX_BYTES.
    """
    media = read_media(path, rate=rate)
    if media.fault:
        raise DataError(f"{os.fsdecode(path)!r}: {media.fault}")
    return media.sound
