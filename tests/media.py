"""Real clips for tests, encoded by the ffmpeg that the package decodes with; and pictures to put in them."""

import os
import struct
import subprocess
import tempfile
import wave
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from emonet_scratch.data.video import ffmpeg_version

VIDEO = {
    "mpeg2": ["-c:v", "mpeg2video", "-q:v", "2"],
    "mjpeg": ["-c:v", "mjpeg", "-q:v", "2"],
    "h264": ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "10", "-pix_fmt", "yuv420p"],
    "h264_444": ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "10", "-pix_fmt", "yuv444p"],   # odd sizes
    "png": ["-c:v", "png"],
    "ffv1": ["-c:v", "ffv1"],
    "flv": ["-c:v", "flv", "-q:v", "2"],
}
AUDIO = {
    "mp3": ["-c:a", "libmp3lame", "-b:a", "96k"],
    "pcm": ["-c:a", "pcm_s16le"],
    "aac": ["-c:a", "aac", "-b:a", "96k"],
    "flac": ["-c:a", "flac"],
}


def ffmpeg(*arguments, input=None):
    """Runs ffmpeg; CalledProcessError, with its messages in `stderr`, when it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-v", "error", "-y", *map(str, arguments)]
    stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    environment = os.environ | {"GCONV_PATH": os.devnull}          # as in decoding.py
    return subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment, **stdin)


def version():
    """(major, minor) of that ffmpeg; (99, 0) where it calls itself otherwise."""
    numbers = ffmpeg_version().split(".")
    return tuple(map(int, numbers[:2])) if numbers[0].isdigit() else (99, 0)


def as_they_come():
    """Options with which frames are encoded at their own times."""
    return ["-vsync" if version() < (5, 1) else "-fps_mode", "passthrough"]


def turn(source, target, angle):
    """A copy of `source` with a display matrix that turns it counterclockwise."""
    if version() < (6, 0):
        ffmpeg("-i", source, "-c", "copy", "-metadata:s:v:0", f"rotate={angle % 360}", target)
    else:
        ffmpeg("-display_rotation", angle, "-i", source, "-c", "copy", target)


def write_wav(path, sound, rate=44100):
    """(S,) or (S, channels) floats in [-1, 1] as 16-bit WAV."""
    sound = np.asarray(sound)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if sound.ndim == 1 else sound.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def encode(path, frames=None, fps=25, sound=None, rate=44100, video=(), audio=(), extra=()):
    """Encodes frames (T, H, W, 3) uint8 RGB and / or sound (S,) or (S, channels) in [-1, 1] into `path`.

    The container follows from the suffix; `video`, `audio`, `extra` are options. Returns Path(path).
    """
    path = Path(path)
    target = "file:" + os.path.abspath(path)
    inputs, pixels = [], None
    with tempfile.TemporaryDirectory() as folder:
        if frames is not None:
            height, width = frames.shape[1:3]
            inputs += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps, "-i", "pipe:0"]
            pixels = np.ascontiguousarray(frames).tobytes()
        if sound is not None:
            write_wav(os.path.join(folder, "sound.wav"), sound, rate)
            inputs += ["-i", os.path.join(folder, "sound.wav")]
        ffmpeg(*inputs, *video, *audio, *extra, "-threads", 1, target, input=pixels)
    return path


def write_clip(path, frames=None, codec="mpeg2", sound=None, sound_codec="mp3", fps=25, rate=44100, sar=None,
               extra=()):
    """A clip in one line: a coloured pattern of 12 frames unless told, a codec of VIDEO, a sound codec of AUDIO.

    sar: pixel aspect ratio as "64/45". AFEW's own kind: codec "mpeg2", 720x576, a sound, suffix .avi.
    """
    frames = quadrants(12, 64, 96) if frames is None else frames
    filters = ["-vf", f"setsar={sar}"] if sar else []
    return encode(path, frames, fps, sound, rate, VIDEO[codec], AUDIO[sound_codec] if sound is not None else (),
                  [*filters, *extra])


RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (235, 235, 235)


def quadrants(count, height, width):
    """Red, green over blue, white: shows orientation and colour."""
    frames = np.empty((count, height, width, 3), np.uint8)
    y, x = height // 2, width // 2
    frames[:, :y, :x], frames[:, :y, x:], frames[:, y:, :x], frames[:, y:, x:] = RED, GREEN, BLUE, WHITE
    return frames


def counter(count, height, width):
    """Frame k is all of grey 20 + 8 k (count <= 28): `frame_numbers` reads k back."""
    grey = np.arange(20, 20 + 8 * count, 8, dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(grey[:, None, None, None], (count, height, width, 3)))


def frame_numbers(clip):
    """k of each frame of `counter`, from the middle of the picture."""
    size = clip.shape[1]
    return np.rint((clip[:, size // 2, size // 2].mean(axis=-1) - 20) / 8).astype(int)


def disc(count, height, width, sar=1.0):
    """A white disc, 80 % of the height across, on black; round when pixels are `sar` times as wide as high."""
    y, x = np.mgrid[:height, :width]
    inside = (y + 0.5 - height / 2) ** 2 + ((x + 0.5 - width / 2) * sar) ** 2 < (0.4 * height) ** 2
    return np.repeat((inside[None, :, :, None] * np.uint8(255)).astype(np.uint8), 3, axis=3).repeat(count, axis=0)


def tone(seconds, rate=44100, hz=440.0, level=0.5):
    """A sine, (S,) float64."""
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def pretend_size(path, width, height, header):
    """Makes the pictures of an .avi of codec "png" claim another size; with `header` the container does, too."""
    data = path.read_bytes()
    at = data.index(b"IHDR")
    old = data[at:at + 17]
    new = b"IHDR" + struct.pack(">II", width, height) + old[12:]
    data = data.replace(old + struct.pack(">I", zlib.crc32(old)), new + struct.pack(">I", zlib.crc32(new)))
    if header:
        true = struct.pack("<II", *struct.unpack(">II", old[4:12]))
        data = data.replace(true, struct.pack("<II", width, height))
    path.write_bytes(data)


def external_mov(folder):
    """A .mov whose frames lie in another file, frames.bin, which it names by an `alis` data reference."""
    path = write_clip(folder / "external.mov", counter(5, 48, 64), "mjpeg")
    data = path.read_bytes()
    (folder / "frames.bin").write_bytes(data)                # the same bytes, so all offsets hold there
    name = b"frames.bin"
    alias = bytes(10) + b"\x03vol" + bytes(36) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    alias += struct.pack(">hh", 1, 1) + bytes(16)            # directory levels up and down
    alias += struct.pack(">hh", 2, len(name)) + name
    alias += struct.pack(">hh", 18, len(name) + 4) + b"/at/" + name + struct.pack(">hh", -1, 0)
    old = struct.pack(">I4sI", 12, b"url ", 1)               # 1: in this file
    data = data.replace(old, struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = data.index(box) - 4
        data = data[:at] + struct.pack(">I", struct.unpack_from(">I", data, at)[0] + len(alias)) + data[at + 4:]
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    return path


def one_line(error, path):
    """The message of a caught error, which has to be one line that names `path`."""
    message = str(error.value)
    assert "\n" not in message and repr(str(path)) in message, message
    return message
