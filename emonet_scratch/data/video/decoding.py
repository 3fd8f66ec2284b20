"""Clips and sound as arrays.

What decodes is used: a truncated clip gives the frames that are there. A clip without any is a DataError.

Every version of ffmpeg gives the same picture at the same time, and sound that starts with the pictures. Versions differ in
how much they leave out of the silence that encoders put around sound, and where their clocks start: so the log tells when
the first picture and the first sound come, and their distance is made good here.
"""

import math
import os
import re
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ...files import regular_file
from .cache import MAX_BYTES, FrameCache
from .ffmpeg import Ffmpeg, Header, PathLike, Probe, version_for

MAX_SOUND = 2**26          # samples of sound that are taken: 70 minutes at 16,000 a second
MAX_SECONDS = 2 * 3600     # a time stamp that leaps by years must not become years of repeated frames
BLOCK_BYTES = 2**20        # frames are fetched from the pipe in blocks of about this size

#: Samples that the usual encoder of a codec puts in front.
DELAYS = {"aac": 1024, "mp3": 1105, "ac3": 256, "wmav1": 2048, "wmav2": 2048}

#: A filter of times that also puts the first frame's into the log, plus a mark that tells it from all else there.
TELL_TIME = "{}='{}+if(eq(N,0),gt(print(T+{}),1e99))'"
PICTURE, SOUND = 3_000_000_000, 5_000_000_000
#: An output that only tells when the first picture comes; there is always something in it, if there is sound.
WITNESS = ["-map", "0:V:0?", "-map", "0:a:0", "-c:a", "copy", "-vf", TELL_TIME.format("setpts", "PTS", PICTURE),
           "-frames:v", "1", "-frames:a", "1", "-f", "null", "-"]

#: An output that writes the times of the sound's packets into the log.
TIMES = ["-vn", "-sn", "-dn", "-c:a", "copy", "-t", str(MAX_SECONDS), "-f", "framecrc", "pipe:2"]


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
        most = min(max_frames or limit + 1, limit + 1)
        # fps fills a leap of the time stamps at once: of small pictures, and no more than trim lets pass
        return cls(int(size), most, limit, f"fps={float(fps)!r},trim=end_frame={most}", f"{shape},setsar=1")

    def options(self, version: tuple[int, int], plain: bool) -> list[str]:
        """From the first frame's time on: a start between two ticks would make rounding repeat and drop frames.

        plain: no more than the first picture; of less than half a tick, rounding would leave nothing.
        """
        chain = [TELL_TIME.format("setpts", "PTS-STARTPTS", PICTURE), self.shape, *([] if plain else [self.fps])]
        if version < (4, 3) and not plain:         # setpts leaves the end where it was: a frame marks it
            chain = ["tpad=stop=1:stop_mode=clone", chain[0], "concat=n=1:v=1:a=0", *chain[1:]]
        return ["-map", "0:V:0", "-vf", ",".join(chain), "-vsync" if version < (5, 1) else "-fps_mode", "passthrough",
                "-frames:v", "1" if plain else str(self.most), "-pix_fmt", "rgb24", "-f", "rawvideo"]


def _sound_options(rate: int) -> list[str]:
    """The track that ffmpeg chooses, first of all one that is marked default; as floats, in which NaN stays NaN."""
    if not 100 <= rate <= 384000 or int(rate) != rate:
        raise ValueError(f"rate must be a whole number of samples a second from 100 to 384000, got {rate!r}")
    # rematrix_maxval: the channels are averaged; into floats ffmpeg would else add them and exceed 1
    chain = [TELL_TIME.format("asetpts", "PTS", SOUND), f"aresample={int(rate)}:rematrix_maxval=1",
             f"atrim=end_sample={MAX_SOUND + 1}"]
    return ["-vn", "-sn", "-dn", "-af", ",".join(chain), "-ac", "1", "-c:a", "pcm_f32le", "-f", "f32le"]


def _times(log: str) -> tuple[float | None, float | None, float | None]:
    """Seconds by ffmpeg's clock, None where unknown: of the first picture, the first sound, and the end of the sound."""
    told = [float(number) for number in re.findall(r"\d{10}\.\d{6}(?!\d)", log)]      # perhaps behind half of another line
    first, start = (next((t - mark for t in told if abs(t - mark) < 1e9), None) for mark in (PICTURE, SOUND))
    packets = re.findall(r"^0, +-?\d+, +(-?\d+), +(\d+), ", log, re.MULTILINE)
    tick = re.search(r"^#tb 0: (\d+)/(\d+)", log, re.MULTILINE)
    return first, start, sum(map(int, packets[-1])) * int(tick[1]) / int(tick[2]) if packets and tick else None


def _place(sound: np.ndarray, rate: int, log: str, header: Header) -> tuple[int, np.ndarray]:
    """(samples by which the sound follows the first picture, the sound without what an encoder put behind it).

    Clocks of milliseconds blur the silence that encoders put in front: such a distance is taken for it.
    """
    first, start, end = _times(log)
    track = re.search(r"Stream #0:(\d+) -> #\d:0 \((\w+).* -> pcm_f32le", log)
    if start is None or track is None:
        return 0, sound
    told_end = header.container == "ogg" or (header.container.startswith("mov") and track[2] in DELAYS)
    if told_end and end is not None:              # newer versions see to it themselves
        most = round((end - start) * rate)
        sound = sound[:most] if 0 < len(sound) - most < 0.05 * rate else sound
    if header.container == "avi":     # has no time stamps: all starts at once
        return 0, sound
    sampling = re.search(r", (\d+) Hz", header.streams.get(int(track[1]), ("",))[0])
    delay = DELAYS.get(track[2], 0) / int(sampling[1]) if sampling else 0.0
    if first is None:                 # no pictures
        first = delay if header.container == "asf" else -header.start if -0.1 < header.start < 0 else start
    late = start - first
    nearest = min((-delay, 0.0, delay), key=lambda guess: abs(late - guess))
    return round((nearest if abs(late - nearest) < 0.001 else late) * rate), sound


def _heard(run: Ffmpeg, header: Header, rate: int) -> tuple[np.ndarray | None, str]:
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
    if len(sound) + max(0, late) > MAX_SOUND:
        return None, f"the sound has more than {MAX_SOUND} samples at {rate} a second: cut the file"
    if late + len(sound) <= 0:
        return None, "the sound ends before the pictures begin"
    sound = np.concatenate([np.zeros(late, np.float32), sound]) if late > 0 else sound[-late:]
    with np.errstate(over="ignore"):
        sound *= 32768                                        # in place: an hour is 230 MB
    np.clip(np.rint(sound, out=sound), -32768, 32767, out=sound)
    sound /= 32768
    return sound, ""


def _start(path: PathLike, pictures: _Pictures | None, rate: int | None, plain: bool) -> Ffmpeg:
    """plain: as in `_Pictures.options`; of sound alone, without looking at the pictures."""
    if not pictures and not rate:
        return Ffmpeg(path)
    version = version_for(path)
    if not rate:
        return Ffmpeg(path, pictures.options(version, plain))
    others = [*([] if pictures or plain else [WITNESS]), *([TIMES] if version < (9, 0) else [])]
    return Ffmpeg(path, pictures.options(version, plain) if pictures else (), _sound_options(rate), others)


def _decode(path: PathLike, pictures: _Pictures | None, rate: int | None) -> Generator[np.ndarray, None, Ffmpeg]:
    """One reading: yields pictures, (n, size, size, 3) at a time, and gives back the run that has ended.

    DataError: a stall; pictures were asked for and none came, or they broke off.
    """
    for plain in (False, True):       # the second try is for what the first has missed
        count = 0
        with closing(_start(path, pictures, rate, plain)) as run:
            if pictures:
                frame_bytes = pictures.size**2 * 3
                for block in run.blocks(max(1, BLOCK_BYTES // frame_bytes) * frame_bytes):
                    frames = block[:len(block) // frame_bytes * frame_bytes].reshape(-1, pictures.size, pictures.size, 3)
                    count += len(frames)
                    if count > pictures.limit:
                        raise DataError(f"{run.name!r}: frames for more than {MAX_SECONDS} seconds")
                    yield frames
            run.finish()
        if pictures and (count or run.code):
            break
        if not pictures and ((run.sound and not run.code) or not rate or not run.header().has_sound):
            break
    if pictures:
        _check(run, count)
    return run


def _check(run: Ffmpeg, count: int) -> None:
    """DataError where no picture came, or not all."""
    if not count:
        run.header().probe(run.name)  # says it better where it can: no media file, no video, too large
    if run.code or not count:
        what = "decoding broke off" if count else "nothing in it could be decoded"
        raise DataError(f"{run.name!r}: {what} ({run.reason()})")


def _collect(path: PathLike, pictures: _Pictures | None, rate: int | None = None) -> tuple[Ffmpeg, np.ndarray | None]:
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


def _one_by_one(blocks: Generator[np.ndarray, None, Ffmpeg]) -> Iterator[np.ndarray]:
    with closing(blocks):
        for block in blocks:
            yield from block


def read_clip(path: PathLike, size: int, fps: float = 25, max_frames: int | None = None, fit: str = "pad",
              cache: FrameCache | None = None) -> np.ndarray:
    """A whole clip, (T, size, size, 3) uint8 RGB, T >= 1; the arguments are those of stream_frames.

    With a cache ffmpeg runs only for what the cache lacks.
    DataError as stream_frames, and where the frames would take more than MAX_BYTES.
    """
    pictures = _Pictures.checked(size, fps, max_frames, fit)
    if cache is None:
        return _collect(path, pictures)[1]
    key = cache.key(path, size=int(size), fps=float(fps), max_frames=max_frames, fit=fit)
    found = cache.load(key, (pictures.size, pictures.size, 3), most=pictures.most)
    if found is not None:
        return np.asarray(found)
    clip = _collect(path, pictures)[1]
    cache.store(key, clip)
    return clip


def read_sound(path: PathLike, rate: int = 16000) -> np.ndarray | None:
    """The sound of a file, (S,) float32 in [-1, 1], as of `read_media`; None means that there is no sound track.

    DataError: not a media file, a track of which nothing decodes, samples that are no numbers, a stalled decoder, more than
    MAX_SOUND samples.
    """
    media = read_media(path, rate=rate)
    if media.fault:
        raise DataError(f"{os.fsdecode(path)!r}: {media.fault}")
    return media.sound
