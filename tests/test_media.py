"""One reading of header, pictures and sound: what it starts, where the sound lies, which track, what cannot be used."""

import os
import struct
import subprocess

import numpy as np
import pytest

from emonet_scratch.data.extract import SUFFIXES
from emonet_scratch.data.video import (
    FrameCache,
    decoding,
    ffmpeg_version,
    probe,
    read_clip,
    read_media,
    read_sound,
    stream_frames,
)
from emonet_scratch.data.video import ffmpeg as process
from emonet_scratch.errors import DataError
from tests.media import AUDIO, VIDEO, counter, encode, ffmpeg, frame_numbers, one_line, tone, version, write_clip, write_wav

FLASH = 0.4                   # seconds


@pytest.fixture
def starts(monkeypatch):
    """The commands of ffmpeg that were started, but for questions about its version."""
    found, popen = [], subprocess.Popen

    def start(command, *arguments, **options):
        found.extend([command] if "-version" not in command else [])
        return popen(command, *arguments, **options)
    monkeypatch.setattr(process.subprocess, "Popen", start)
    return found


def click(rate=44100, seconds=1.0, at=FLASH):
    """A pulse of about a millisecond."""
    return 0.8 * np.exp(-(((np.arange(round(seconds * rate)) / rate - at) / 0.0006) ** 2))


def flash():
    frames = np.zeros((25, 48, 64, 3), np.uint8)
    frames[round(25 * FLASH)] = 255
    return frames


def moment(sound, rate=16000):
    """Seconds at which a sound's pulse has its centre."""
    peak = int(np.abs(sound).argmax())
    part = np.arange(max(0, peak - 30), min(len(sound), peak + 30))
    return (part * sound[part] ** 2).sum() / (sound[part] ** 2).sum() / rate


def test_one_start_gives_what_the_single_readings_give(tmp_path, starts):
    path = write_clip(tmp_path / "a.mp4", counter(24, 48, 64), "h264", tone(0.96, hz=1000), "aac")
    starts.clear()
    media = read_media(path, 32, rate=16000)
    assert len(starts) == 1 and media.fault == ""
    assert media.probe == probe(path)
    np.testing.assert_array_equal(media.frames, read_clip(path, 32))
    np.testing.assert_array_equal(media.frames, list(stream_frames(path, 32)))
    np.testing.assert_array_equal(media.sound, read_sound(path))
    assert media.sound.dtype == np.float32 and media.frames.flags.writeable and media.sound.flags.writeable
    few = read_media(path, 16, fps=10, max_frames=3, fit="crop", rate=8000)
    np.testing.assert_array_equal(few.frames, read_clip(path, 16, 10, 3, "crop"))
    np.testing.assert_array_equal(few.sound, read_sound(path, 8000))       # max_frames does not shorten the sound
    assert read_media(path).frames is None and read_media(path).sound is None


def test_a_clip_without_sound_is_no_fault_and_a_sound_without_pictures_no_clip(tmp_path, starts):
    path = write_clip(tmp_path / "a.avi", counter(5, 48, 64))
    starts.clear()
    media = read_media(path, 32, rate=16000)
    assert (media.sound, media.fault, len(media.frames), len(starts)) == (None, "", 5, 2)
    write_wav(tmp_path / "a.wav", tone(0.5))
    media = read_media(tmp_path / "a.wav", rate=16000)
    assert (media.probe, media.frames, media.sound.shape) == (None, None, (8000,))
    with pytest.raises(DataError, match="no video"):
        read_media(tmp_path / "a.wav", 32, rate=16000)
    with pytest.raises(ValueError, match="rate must be"):
        read_media(path, 32, rate=0)


def silent_track(path):
    """A track that holds no packet."""
    return encode(path, counter(5, 48, 64), video=VIDEO["h264"], sound=tone(1), audio=AUDIO["aac"], extra=[
        "-af", "atrim=end_sample=0"])


def unknown_codec(path):
    data = write_clip(path, counter(5, 48, 64), "ffv1", tone(0.2), "pcm").read_bytes()
    assert data.count(b"A_PCM/INT/LIT") == 1
    path.write_bytes(data.replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    return path


@pytest.mark.parametrize("make", [silent_track, unknown_codec])
def test_pictures_are_kept_where_the_sound_cannot_be_decoded(tmp_path, make):
    path = make(tmp_path / "a.mkv")
    media = read_media(path, 32, rate=16000)
    np.testing.assert_array_equal(frame_numbers(media.frames), np.arange(5))
    assert media.probe.has_sound and media.sound is None and media.fault.startswith("nothing of the sound could be decoded")
    with pytest.raises(DataError, match="nothing of the sound") as error:
        read_sound(path)
    one_line(error, path)


def test_sound_is_read_where_the_pictures_cannot_be_decoded(tmp_path):
    data = write_clip(tmp_path / "a.mkv", counter(5, 48, 64), "ffv1", tone(0.2), "pcm").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data.replace(b"V_FFV1", b"V_XYZ1"))
    assert len(read_sound(tmp_path / "a.mkv")) == 3200


# Sound begins with the pictures, by every version of ffmpeg

CLICKS = [("mp4", "h264", "aac"), ("mp4", "h264", "libmp3lame"), ("mp4", "h264", "alac"), ("3gp", "h264", "aac"),
          ("mov", "h264", "pcm_s16le"), ("mkv", "h264", "aac"), ("mkv", "h264", "libmp3lame"), ("mkv", "h264", "libopus"),
          ("mkv", "h264", "libvorbis"), ("mkv", "h264", "flac"), ("mkv", "h264", "ac3"), ("avi", "mpeg2", "pcm_s16le"),
          ("ts", "h264", "aac"), ("mts", "mpeg2", "mp2"), ("mpg", "mpeg2", "mp2"), ("flv", "flv", "libmp3lame"),
          ("flv", "flv", "aac"), ("wmv", "wmv2", "wmav2")]


OLD = pytest.mark.skipif(version() < (6, 0), reason="versions before 6 write this file wrong")
CLICKS = [pytest.param(*case, marks=OLD) if case[2] in ("alac", "libopus") else case for case in CLICKS]


@pytest.mark.parametrize(("suffix", "codec", "sound_codec"), CLICKS)
def test_a_click_comes_with_its_flash(tmp_path, suffix, codec, sound_codec):
    rate = 48000 if sound_codec == "libopus" else 44100
    path = encode(tmp_path / f"a.{suffix}", flash(), 25, click(rate), rate, VIDEO.get(codec, ["-c:v", codec]),
                  ["-c:a", sound_codec, "-b:a", "128k", "-strict", "-2"])
    media = read_media(path, 16, rate=16000)
    assert len(media.frames) == 25 and media.frames[:, 8, 8, 0].argmax() == 25 * FLASH
    assert moment(media.sound) == pytest.approx(FLASH, abs=2 / 16000)
    assert len(media.sound) == pytest.approx(16000, abs=0.025 * 16000)


@pytest.mark.parametrize(("suffix", "codec"), [
    ("mp3", "libmp3lame"), ("m4a", "aac"), pytest.param("mka", "aac", marks=OLD),
    ("opus", "libopus"), ("ogg", "libvorbis"), ("wma", "wmav2"),
    ("flac", "flac"), ("wav", "pcm_s16le")])
def test_a_click_in_a_file_of_sound(tmp_path, suffix, codec):
    rate = 48000 if codec == "libopus" else 44100
    encode(tmp_path / f"a.{suffix}", sound=click(rate), rate=rate, audio=["-c:a", codec, "-b:a", "128k"])
    sound = read_sound(tmp_path / f"a.{suffix}")
    assert moment(sound) == pytest.approx(FLASH, abs=2 / 16000)
    if suffix in ("m4a", "mp3", "ogg", "opus", "flac", "wav"):             # nothing of what encoders put behind
        assert len(sound) == pytest.approx(16000, abs=50)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("late", [0.3, -0.3])
def test_sound_that_starts_later_or_earlier_than_the_pictures(tmp_path, suffix, late):
    source = encode(tmp_path / "source.mkv", flash(), 25, click(), 44100, VIDEO["h264"], AUDIO["mp3"])
    offsets = [["-itsoffset", 0.3], []] if late < 0 else [[], ["-itsoffset", 0.3]]
    path = tmp_path / f"a.{suffix}"
    ffmpeg(*offsets[0], "-i", source, *offsets[1], "-i", source, "-map", "0:v", "-map", "1:a", "-c", "copy", path)
    media = read_media(path, 16, rate=16000)
    assert media.frames[:, 8, 8, 0].argmax() == 25 * FLASH
    assert moment(media.sound) == pytest.approx(FLASH + late, abs=0.0015)        # a clock of milliseconds, twice
    assert len(media.sound) == pytest.approx(16000 * (1 + late), abs=600)
    assert late < 0 or np.abs(media.sound[:4700]).max() == 0
    np.testing.assert_array_equal(media.sound, read_sound(path))


def test_the_default_track_is_heard(tmp_path):
    for name, hz in (("a", 300), ("b", 1000)):
        write_wav(tmp_path / f"{name}.wav", tone(1, 16000, hz), 16000)
    write_clip(tmp_path / "mute.mkv", counter(5, 48, 64), "ffv1")
    for default, hz in ((0, 300), (1, 1000)):
        ffmpeg("-i", tmp_path / "mute.mkv", "-i", tmp_path / "a.wav", "-i", tmp_path / "b.wav", "-map", 0, "-map", 1,
               "-map", 2, "-c", "copy", f"-disposition:a:{default}", "default", f"-disposition:a:{1 - default}", 0,
               tmp_path / "a.mkv")
        sounds = [read_sound(tmp_path / "a.mkv"), read_media(tmp_path / "a.mkv", 16, rate=16000).sound]
        for sound in sounds:
            assert np.abs(np.fft.rfft(sound)).argmax() == hz


# Whatever decodes gives a picture

@pytest.mark.parametrize(("fps", "count"), [(30, 1), (60, 1), (120, 2), (240, 4), (1000, 1)])
@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "h264"), ("avi", "mjpeg"), ("mkv", "ffv1")])
def test_a_clip_shorter_than_half_a_tick_is_its_first_picture(tmp_path, fps, count, suffix, codec):
    path = write_clip(tmp_path / f"a.{suffix}", counter(count, 48, 64), codec, fps=fps)
    np.testing.assert_array_equal(frame_numbers(read_clip(path, 16)), [0])
    np.testing.assert_array_equal(frame_numbers(np.array(list(stream_frames(path, 16, fps=0.01)))), [0])
    assert read_media(path, 16, rate=16000).frames.shape == (1, 16, 16, 3)


# Samples that are no numbers

@pytest.mark.parametrize("kind", ["<f4", "<f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", ["wav", "mkv", "mov", "avi"])
def test_samples_that_are_no_numbers_are_a_fault(tmp_path, kind, value, suffix):
    sound = (0.1 * np.sin(np.arange(16000) * 0.1)).astype(kind)
    sound[5000:5010] = value
    write_float(tmp_path / "a.wav", sound)
    path = tmp_path / f"a.{suffix}"
    if suffix != "wav":
        ffmpeg("-i", tmp_path / "a.wav", "-c", "copy", path)
    media = read_media(path, rate=16000)
    assert media.sound is None and media.fault == "10 of 16000 samples of the sound are no numbers"
    with pytest.raises(DataError, match="10 of 16000 samples") as error:
        read_sound(path)
    one_line(error, path)


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_floats_are_rounded_to_16_bits_and_end_at_full_scale(tmp_path, kind):
    sound = np.array([0, 0.5, -0.5, 1, -1, 3, -3e30, 0.25 + 2**-17] * 100)
    write_float(tmp_path / "a.wav", sound.astype(kind))
    high = 32767 / 32768
    np.testing.assert_array_equal(read_sound(tmp_path / "a.wav"), [0, 0.5, -0.5, high, -1, high, -1, 0.25] * 100)


def write_float(path, sound, rate=16000):
    """(S,) floats as .wav of its type."""
    data, size = sound.tobytes(), sound.dtype.itemsize
    path.write_bytes(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 3, 1, rate, rate * size, size, 8 * size) + b"data" + struct.pack("<I", len(data)) + data)


# Names of files, texts in files, versions

ENCODERS = {".aac": "aac", ".m4a": "aac", ".mka": "aac", ".mp2": "mp2", ".mp3": "libmp3lame", ".oga": "libvorbis",
            ".ogg": "libvorbis", ".opus": "libopus", ".wma": "wmav2", ".flac": "flac", ".aif": "pcm_s16be",
            ".aifc": "pcm_s16be", ".aiff": "pcm_s16be", ".au": "pcm_s16be", ".caf": "pcm_s16be", ".w64": "pcm_s16le",
            ".wav": "pcm_s16le"}
OF_SUFFIX = {".3g2": ("h264", "aac"), ".3gp": ("h264", "aac"), ".asf": ("mpeg2", "mp3"), ".wmv": ("mpeg2", "mp3"),
             ".flv": ("flv", "mp3"), ".m4v": ("h264", "aac"), ".mp4": ("h264", "aac"), ".ogv": ("theora", "vorbis"),
             ".webm": ("vp8", "vorbis")}
VP8_AND_THEORA = {"vp8": ["-c:v", "libvpx"], "theora": ["-c:v", "libtheora"], "vorbis": ["-c:a", "libvorbis"]}


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_that_is_taken_can_be_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".amr":                                      # of which ffmpeg has no encoder: 25 frames of 20 ms, mode 0
        path.write_bytes(b"#!AMR\n" + (b"\x04" + bytes(12)) * 25)
    elif suffix in ENCODERS:
        encode(path, sound=tone(0.5), audio=["-c:a", ENCODERS[suffix], "-f", "aiff"] if suffix == ".aifc" else [
            "-c:a", ENCODERS[suffix]])
    else:
        codecs = OF_SUFFIX.get(suffix, ("mpeg2", "mp3"))
        options = [(VIDEO | AUDIO | VP8_AND_THEORA)[codec] for codec in codecs]
        encode(path, counter(12, 48, 64), sound=tone(0.48), video=options[0], audio=options[1],
               extra=["-f", "mp4"] if suffix == ".m4v" else [])
        assert len(read_clip(path, 16)) >= 12
    assert len(read_sound(path)) == pytest.approx(8000, abs=1200)


def test_names_of_texts_cannot_imitate_a_stream_either(tmp_path):
    fake = "Stream #0:7: Video: h264, 9x9, 1 fps"
    write_clip(tmp_path / "a.mkv", extra=["-metadata", f"{fake}=x", "-metadata:s:v", f"{fake}=y",
                                          "-metadata:s:v", f"title=3000000005.000000\r\n[info]   {fake}"])
    found = probe(tmp_path / "a.mkv")
    assert (found.width, found.video_codec, found.has_sound) == (96, "mpeg2video", False)


def test_the_version_is_read_once_and_is_part_of_the_cache_key(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.avi", counter(5, 48, 64))
    told = subprocess.run([os.environ.get("IMAGEIO_FFMPEG_EXE") or process.imageio_ffmpeg.get_ffmpeg_exe(), "-version"],
                          capture_output=True, text=True).stdout
    assert told.startswith(("ffmpeg version " + ffmpeg_version(), "ffmpeg version n" + ffmpeg_version()))
    keys = set()
    for name, text in (("7.0.2", "7.0.2-static"), ("4.4", "4.4"), ("9.0.2", "n9.0.2-17-gabc"), ("N-123-gabc", "N-123-gabc"),
                       ("5.1.9", "5.1.9-0+deb12u1")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\necho ffmpeg version {text} Copyright\n")
        program.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
        assert (ffmpeg_version(), ffmpeg_version()) == (name, name)
        keys.add(FrameCache(tmp_path / "cache").key(path, size=32))
    assert (tmp_path / "asked").read_text().count("x") == 5
    assert len(keys) == 5


def test_times_are_found_where_threads_of_ffmpeg_write_into_each_others_lines():
    log = "[Eval @ 0x7f] [info] 5000000000.000000\n[info]     encoder         : Lavf63.1.1023000000000.325000\n[info] \n"
    assert decoding._times(log) == (pytest.approx(0.325), 0.0, None)
