"""Clips and sound as arrays: the ffmpeg program of imageio-ffmpeg, run as a subprocess.

imageio_ffmpeg.read_frames is not used: it knows neither pixel aspect ratio nor the limits below, and waits for
ever on a decoder that stalls. A clip comes from strangers, so ffmpeg gets the `file` protocol and containers
that hold their own data (no playlists, no scripts, no image sequences), a largest picture, and a time limit.

What decodes is used: a truncated clip gives the frames that are there. A clip without any is a DataError.
"""

import math
import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import imageio_ffmpeg
import numpy as np

from ...errors import DataError
from ...files import regular_file
from .cache import FrameCache

MAX_PIXELS = 2**25         # one coded picture: 8K (7680 x 4320) passes
MAX_BYTES = 2**31          # what read_clip or read_sound may keep in memory
MAX_SECONDS = 6 * 3600     # a time stamp that leaps by years must not become years of repeated frames
STALL_SECONDS = 60         # ffmpeg may take this long for the next block of output
BLOCK_BYTES = 2**20        # frames are fetched from the pipe in blocks of about this size

CONTAINERS = "avi,mov,matroska,mpeg,mpegts,flv,asf,ogg,mp3,wav,flac"
VIDEO_SUFFIXES = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
SOUND_SUFFIXES = {".aac", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma"}
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


def _start(path: PathLike, level: str, options: list[str]) -> subprocess.Popen:
    """ffmpeg reading `path`; `file:` makes every character of the name literal, a leading dash or colon too."""
    name = regular_file(path)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-nostats", "-v", level]
    command += [*GUARDS, "-i", "file:" + name, *options]
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise DataError(f"{os.fsdecode(path)!r}: cannot start {command[0]!r} ({error.strerror}): "
                        "reinstall imageio-ffmpeg, or correct IMAGEIO_FFMPEG_EXE") from None


def _reason(path: PathLike, log: bytes) -> str:
    """The last telling line of ffmpeg's log, without the name (which may hold newlines) and the module prefix."""
    text = os.fsdecode(log).replace(os.path.abspath(os.fsdecode(path)), "")
    lines = [re.sub(r"^(\[[^]]*] )+", "", line).strip() for line in text.splitlines()]
    telling = [line for line in lines if line and not re.match(
        "Error opening (input|output) file|Error parsing options|Conversion failed|Last message repeated|To ignore"
        "|Nothing was written|Task finished|Terminating thread",
        line)]
    return telling[-1].encode("ascii", "replace").decode()[:200] if telling else "ffmpeg gives no reason"


def _header(path: PathLike) -> tuple[str, list[str]]:
    """What `ffmpeg -i` prints about a file: the text from `Duration:` on, and that of each stream."""
    process = _start(path, "info", [])
    try:
        log = process.communicate(timeout=STALL_SECONDS)[1]
    except subprocess.TimeoutExpired:
        raise DataError(f"{os.fsdecode(path)!r}: ffmpeg read no header in {STALL_SECONDS} seconds") from None
    finally:
        process.kill()
        process.wait()
    # The printed name may hold newlines and imitate a stream: look only at what follows it. Metadata cannot:
    # ffmpeg indents it by four columns and more, where a stream has two.
    text = os.fsdecode(log).rpartition(f"from 'file:{os.path.abspath(os.fsdecode(path))}':\n")[2]
    header = re.search(r"^  Duration: .*", text, re.MULTILINE | re.DOTALL)
    if header is None:
        raise DataError(f"{os.fsdecode(path)!r}: no media file that can be read ({_reason(path, log)}); "
                        f"expected one of {CONTAINERS}; playlists and scripts are not followed")
    duration, *streams = re.split(r"^  Stream #", header[0], flags=re.MULTILINE)
    return duration, streams


def _has_sound(streams: list[str]) -> bool:
    return any(" Audio: " in stream.partition("\n")[0] for stream in streams)


def probe(path: PathLike) -> Probe:
    """Reads the header of a clip. DataError: not a media file, no video, pictures larger than MAX_PIXELS."""
    name = os.fsdecode(path)
    duration, streams = _header(path)
    for stream in streams:
        line = stream.partition("\n")[0]
        if " Video: " in line and "(attached pic)" not in line:      # a cover picture is no video
            break
    else:
        raise DataError(f"{name!r}: the file holds no video stream")
    video = line.partition(" Video: ")[2]
    size = re.search(r", (\d+)x(\d+)\b", video)
    if size is None:
        raise DataError(f"{name!r}: the header gives no picture size, or one above {MAX_PIXELS} pixels")
    width, height = int(size[1]), int(size[2])
    if width * height > MAX_PIXELS:
        raise DataError(f"{name!r}: pictures of {width} x {height}, expected at most {MAX_PIXELS} pixels")
    shape = re.findall(r"\bSAR (\d+):(\d+)", video)                  # the container's comes last, and wins
    across, down = map(int, shape[-1]) if shape else (1, 1)
    shown = max(1, round(width * across / max(down, 1))), height
    turn = re.search(r"^ +display ?matrix: rotation of (-?[\d.]+) degrees", stream, re.MULTILINE | re.IGNORECASE)
    if turn and abs(abs(float(turn[1])) % 180 - 90) < 1:
        shown = shown[::-1]
    rate = re.search(r" ([\d.]+)(k?) fps", video) or re.search(r" ([\d.]+)(k?) tbr", video)
    clock = re.search(r"Duration: (\d+):(\d+):([\d.]+)", duration)
    return Probe(width, height, *shown,
                 fps=float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0,
                 duration=int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]) if clock else 0.0,
                 has_sound=_has_sound(streams),
                 video_codec=re.match(r"\w*", video)[0])


def _blocks(path: PathLike, options: list[str], size: int) -> Iterator[np.ndarray]:
    """ffmpeg's raw output in uint8 blocks of `size` bytes, the last one shorter. Closing it kills ffmpeg.

    DataError: nothing came out, ffmpeg failed, or it stalled. Damaged data alone is no failure.
    """
    process = _start(path, "error", ["-max_error_rate", "1", *options, "pipe:1"])
    log = deque(maxlen=20)
    stalled = threading.Event()

    def drain() -> None:              # a full pipe of messages would stop ffmpeg
        with process.stderr:
            log.extend(process.stderr)

    def stop() -> None:
        stalled.set()
        process.kill()

    drainer = threading.Thread(target=drain, daemon=True)
    drainer.start()
    nothing = True
    try:
        got = size
        while got == size:
            block = np.empty(size, np.uint8)
            timer = threading.Timer(STALL_SECONDS, stop)      # only while we wait: the caller may take its time
            timer.daemon = True
            timer.start()
            try:
                got = process.stdout.readinto(block)
                if got < size:
                    process.wait()
            finally:
                timer.cancel()
            if got:
                nothing = False
                yield block[:got]
        drainer.join(1)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    name = os.fsdecode(path)
    if stalled.is_set():
        raise DataError(f"{name!r}: ffmpeg stalled for {STALL_SECONDS} seconds and was stopped")
    if nothing or process.returncode:
        what = "nothing in it could be decoded" if nothing else "decoding broke off"
        raise DataError(f"{name!r}: {what} ({_reason(path, b''.join(log))})")


def stream_frames(path: PathLike, size: int, fps: float = 25, max_frames: int | None = None,
                  fit: str = "pad") -> Iterator[np.ndarray]:
    """Yields the frames of a clip, (size, size, 3) uint8 RGB, `fps` of them for each second, as they are decoded.

    fit "pad" shows the whole picture, centred on black; "crop" its centre square. Both respect the display
    aspect ratio (pixel aspect, rotation). Frames are repeated or left out to keep `fps`, whatever the source does.
    ValueError: an argument. DataError: no frame decodes, a stalled decoder, more than MAX_SECONDS of frames.
    """
    filters = video_filters(size, fps, fit)
    if max_frames is not None and (max_frames < 1 or int(max_frames) != max_frames):
        raise ValueError(f"max_frames must be None or a whole number from 1, got {max_frames!r}")
    regular_file(path)
    return _frames(path, size, filters, max_frames, math.ceil(MAX_SECONDS * fps))


def video_filters(size: int, fps: float = 25, fit: str = "pad") -> str:
    """The chain of ffmpeg's filters that makes such frames; ValueError for an argument, all as in `stream_frames`."""
    if not 1 <= size <= 4096 or int(size) != size:
        raise ValueError(f"size must be a whole number from 1 to 4096, got {size!r}")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps must lie above 0 and not above 1000, got {fps!r}")
    if fit == "pad":                  # dar: display width / display height of the (already rotated) picture
        shape = (f"scale=w='if(gte(dar,1),{size},max(1,round({size}*dar)))'"
                 f":h='if(gte(dar,1),max(1,round({size}/dar)),{size})':flags=area"
                 f",format=rgb24,pad={size}:{size}:(ow-iw)/2:(oh-ih)/2:black")
    elif fit == "crop":
        shape = f"crop=w='max(1,min(iw,ih/sar))':h='max(1,min(ih,iw*sar))',scale={size}:{size}:flags=area"
    else:
        raise ValueError(f'fit must be "pad" or "crop", got {fit!r}')
    # From the first frame's time on: a start between two ticks would make rounding repeat and drop frames.
    return f"setpts=PTS-STARTPTS,fps={float(fps)!r},{shape},setsar=1"


def _frames(path: PathLike, size: int, filters: str, max_frames: int | None, limit: int) -> Iterator[np.ndarray]:
    """As `stream_frames`, of checked arguments; DataError, too, after `limit` frames where no max_frames ends them."""
    wanted = limit + 1 if max_frames is None else max_frames
    options = ["-map", "0:V:0", "-vf", filters, "-fps_mode", "passthrough", "-frames:v", str(wanted),
               "-pix_fmt", "rgb24", "-f", "rawvideo"]
    frame_bytes = size * size * 3
    count = 0
    blocks = _blocks(path, options, max(1, BLOCK_BYTES // frame_bytes) * frame_bytes)
    try:
        with closing(blocks):
            for block in blocks:
                for frame in block[:len(block) // frame_bytes * frame_bytes].reshape(-1, size, size, 3):
                    count += 1
                    if count > limit:
                        raise DataError(f"{os.fsdecode(path)!r}: frames for more than {MAX_SECONDS} seconds")
                    yield frame
    except DataError:
        if count == 0:
            probe(path)               # says it better where it can: no media file, no video, too large
        raise


def read_clip(path: PathLike, size: int, fps: float = 25, max_frames: int | None = None, fit: str = "pad",
              cache: FrameCache | None = None) -> np.ndarray:
    """A whole clip, (T, size, size, 3) uint8 RGB, T >= 1; the arguments are those of stream_frames.

    With a cache the array is read-only and mapped from disk, and ffmpeg runs only for what the cache lacks.
    DataError as stream_frames, and where the frames would take more than MAX_BYTES.
    """
    frames = stream_frames(path, size, fps, max_frames, fit)
    key = ""
    if cache is not None:
        key = cache.key(path, size=int(size), fps=float(fps), max_frames=max_frames, fit=fit)
        found = cache.load(key)
        if found is not None:
            return found
    pixels = bytearray()              # grows in place: a list of frames would need twice the memory at the end
    with closing(frames):
        for frame in frames:
            if len(pixels) + frame.nbytes > MAX_BYTES:
                raise DataError(f"{os.fsdecode(path)!r}: the frames take more than {MAX_BYTES} bytes: "
                                "give max_frames or a smaller size")
            pixels += frame.data
    clip = np.frombuffer(pixels, np.uint8).reshape(-1, size, size, 3)
    return clip if cache is None else cache.keep(key, clip)


def read_sound(path: PathLike, rate: int = 16000) -> np.ndarray | None:
    """The sound of a file, (S,) float32 in [-1, 1], `rate` samples a second, channels averaged; or None.

    None means that there is no sound track. Samples are quantised to 16 bits, as nearly all sources are.
    DataError: not a media file, a track of which nothing decodes, a stalled decoder, more than MAX_BYTES.
    """
    if not 100 <= rate <= 384000 or int(rate) != rate:
        raise ValueError(f"rate must be a whole number of samples a second from 100 to 384000, got {rate!r}")
    if not _has_sound(_header(path)[1]):
        return None
    # 16-bit output makes ffmpeg average the channels; into floats it would add them and exceed 1.
    options = ["-map", "0:a:0", "-ac", "1", "-ar", str(int(rate)), "-c:a", "pcm_s16le", "-f", "s16le"]
    sound = bytearray()
    for block in _blocks(path, options, BLOCK_BYTES):
        sound += block.data
        if 2 * len(sound) > MAX_BYTES:                   # as float32
            raise DataError(f"{os.fsdecode(path)!r}: the sound takes more than {MAX_BYTES} bytes: cut the file")
    samples = np.frombuffer(sound, "<i2").astype(np.float32)
    samples /= 32768                                     # in place: an hour is 230 MB
    return samples
