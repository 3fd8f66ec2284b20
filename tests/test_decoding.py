"""Decoding of real encoded files: geometry, colour, timing, sound, and what strangers may send."""

import os
import re
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch.data.video import FrameCache, decoding, probe, read_clip, read_sound, stream_frames
from emonet_scratch.data.video import ffmpeg as ffmpeg_process
from emonet_scratch.errors import DataError
from tests.media import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    as_they_come,
    counter,
    disc,
    encode,
    external_mov,
    ffmpeg,
    frame_numbers,
    one_line,
    pretend_size,
    quadrants,
    tone,
    turn,
    write_clip,
    write_wav,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """An AFEW-like clip: 24 numbered MPEG-2 frames with 1 s of MP3."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.avi", counter(24, 48, 64), sound=tone(0.96))
    return folder


@pytest.fixture
def no_ffmpeg(monkeypatch):
    """Call it, and every later start of ffmpeg fails the test."""
    def refuse():
        monkeypatch.setattr(ffmpeg_process.subprocess, "Popen", lambda *a, **k: pytest.fail("ffmpeg was started"))
    return refuse


def box(picture):
    """Top, bottom, left, right (exclusive) of what is not black."""
    bright = picture.max(axis=2) > 100
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def near(pixel, colour, tolerance=25):
    return np.abs(pixel.astype(int) - colour).max() <= tolerance


def corners(picture):
    """The middle pixels of the four quadrants, row by row."""
    size = len(picture)
    return [picture[y, x] for y in (size // 3, 2 * size // 3) for x in (size // 3, 2 * size // 3)]


def pitch(sound, rate):
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return spectrum.argmax() * rate / len(sound)


# What is in the clip comes out

@pytest.mark.parametrize(("suffix", "codec", "sound_codec", "name"), [
    (".avi", "mpeg2", "mp3", "mpeg2video"), (".avi", "mjpeg", "pcm", "mjpeg"), (".mp4", "h264", "aac", "h264"),
    (".mkv", "ffv1", "flac", "ffv1"), (".mpg", "mpeg2", "mp3", "mpeg2video"), (".ts", "mpeg2", "mp3", "mpeg2video"),
])
def test_frames_colours_and_sound_of_each_container(tmp_path, suffix, codec, sound_codec, name):
    path = write_clip(tmp_path / f"clip{suffix}", counter(24, 48, 64), codec, tone(0.96, 44100, 1000), sound_codec)
    found = probe(path)
    assert (found.width, found.height, found.fps, found.has_sound, found.video_codec) == (64, 48, 25, True, name)
    assert found.duration == pytest.approx(0.96, abs=0.15)
    numbers = frame_numbers(read_clip(path, 32))
    if suffix == ".mpg":              # several such small frames share one time stamp there, and ffmpeg guesses
        assert len(numbers) <= 25
        numbers = np.unique(numbers)
    np.testing.assert_array_equal(numbers, np.arange(24))
    sound = read_sound(path, 16000)
    assert sound.dtype == np.float32 and len(sound) == pytest.approx(0.96 * 16000, abs=0.1 * 16000)
    assert pitch(sound[2000:-2000], 16000) == pytest.approx(1000, abs=3)
    assert np.abs(sound[4000:-4000]).max() == pytest.approx(0.5, abs=0.03)
    path = write_clip(tmp_path / f"colours{suffix}", quadrants(12, 64, 64), codec)
    assert all(map(near, corners(read_clip(path, 32)[1]), (RED, GREEN, BLUE, WHITE)))


@pytest.mark.parametrize(("sar", "shape"), [("64/45", (1024, 576)), ("16/15", (768, 576)), ("1/2", (360, 576))])
def test_anamorphic_pictures_are_shown_in_their_display_shape(tmp_path, sar, shape):
    across, down = map(int, sar.split("/"))
    frames = disc(3, 576, 720, across / down)
    frames[:, :8], frames[:, -8:], frames[:, :, :8], frames[:, :, -8:] = 255, 255, 255, 255      # a frame: the borders
    path = write_clip(tmp_path / "a.avi", frames, sound=tone(0.12), extra=["-aspect", f"{720 * across}/{576 * down}"])
    found = probe(path)
    assert (found.width, found.height) == (720, 576)
    assert (found.display_width, found.display_height) == pytest.approx(shape, abs=1)
    picture = read_clip(path, 256)[1]
    expected = np.array(shape) * 256 / max(shape)
    top, bottom, left, right = box(picture)
    assert (right - left, bottom - top) == pytest.approx(expected, abs=2)
    assert (top + bottom) / 2 == pytest.approx(128, abs=1.5) and (left + right) / 2 == pytest.approx(128, abs=1.5)
    # inside the border lies a disc, as wide as high
    cut = picture[128, left + 6:right - 6, 0] > 128, picture[top + 6:bottom - 6, 128, 0] > 128
    if sar != "1/2":                       # there the disc is wider than the picture
        assert cut[0].sum() == pytest.approx(cut[1].sum(), abs=2)
        assert cut[1].sum() == pytest.approx(0.8 * expected[1], abs=2)
        square = read_clip(path, 128, fit="crop")[1]
        # the crop's sides: the middle of the picture, and no border left and right
        disc_across, disc_down = (square[64, 4:-4, 0] > 128).sum(), (square[4:-4, 64, 0] > 128).sum()
        assert (disc_across, disc_down) == pytest.approx((0.8 * 128, 0.8 * 128), abs=2)
        assert square[20:40, :3].max() < 60


@pytest.mark.parametrize(("width", "height"), [(175, 99), (99, 175), (17, 1), (1, 3)])
def test_odd_sizes(tmp_path, width, height):
    path = write_clip(tmp_path / "a.mp4", quadrants(5, height, width) | 128, "h264_444")
    found = probe(path)
    assert (found.width, found.height, found.display_width, found.display_height) == (width, height, width, height)
    for size in (64, 33):
        clip = read_clip(path, size)
        assert clip.shape == (5, size, size, 3) and clip.dtype == np.uint8
        top, bottom, left, right = box(clip[2])
        scale = size / max(width, height)
        assert (right - left, bottom - top) == pytest.approx((max(1, width * scale), max(1, height * scale)), abs=1.1)
        assert read_clip(path, size, fit="crop").min() > 60       # no black borders


@pytest.mark.parametrize(("angle", "expected"), [
    (90, (GREEN, WHITE, RED, BLUE)), (180, (WHITE, BLUE, GREEN, RED)), (-90, (BLUE, RED, WHITE, GREEN))])
def test_rotated_by_the_display_matrix(tmp_path, angle, expected):
    write_clip(tmp_path / "a.mp4", quadrants(4, 64, 96), "h264", sar="2/1")
    turn(tmp_path / "a.mp4", tmp_path / "turned.mp4", angle)
    found = probe(tmp_path / "turned.mp4")
    assert (found.width, found.height) == (96, 64)
    assert (found.display_width, found.display_height) == ((192, 64) if angle == 180 else (64, 192))
    picture = read_clip(tmp_path / "turned.mp4", 96)[1]
    top, bottom, left, right = box(picture)
    assert (right - left, bottom - top) == pytest.approx((96, 32) if angle == 180 else (32, 96), abs=1)
    y, x = (bottom - top) // 4, (right - left) // 4
    for (row, column), colour in zip([(top + y, left + x), (top + y, right - x), (bottom - y, left + x),
                                      (bottom - y, right - x)], expected, strict=True):
        assert near(picture[row, column], colour)


def test_variable_frame_rate_becomes_constant(tmp_path):
    # frames 0..4 at 25 a second, each later one lasts three times as long
    path = write_clip(tmp_path / "a.mp4", counter(10, 48, 64), "h264", extra=[
        "-vf", "setpts='if(lt(N,5),N,5+(N-5)*3)/25/TB'", *as_they_come(), "-bf", "0"])
    numbers = frame_numbers(read_clip(path, 32))
    expected = [0, 1, 2, 3, 4, *np.repeat(np.arange(5, 10), 3)]
    np.testing.assert_array_equal(numbers[:17], expected[:17])        # how long the last one lasts is not stored
    assert 17 <= len(numbers) <= 20 and set(numbers[17:]) <= {9}


def test_a_start_between_two_ticks_neither_repeats_nor_drops_frames(tmp_path):
    # frame k at k + 1/2 ticks, a little earlier and later by turns; the sound starts at 0
    path = write_clip(tmp_path / "a.mkv", counter(24, 48, 64), "h264", tone(1), "flac", extra=[
        "-vf", "settb=1/1000,setpts='(N+0.5+0.05*(2*mod(N,2)-1))*40'", *as_they_come(), "-bf", "0",
        "-enc_time_base", "1:1000"])
    np.testing.assert_array_equal(frame_numbers(read_clip(path, 32)), np.arange(24))


@pytest.mark.parametrize(("source", "fps", "expected"), [
    (50, 25, 12), (12.5, 25, 48), (25, 10, 10), ("30000/1001", 25, 20), (25, 12.5, 12)])
def test_frame_rates(tmp_path, source, fps, expected):
    numbers = frame_numbers(read_clip(write_clip(tmp_path / "a.mp4", counter(24, 48, 64), "h264", fps=source), 32, fps))
    assert abs(len(numbers) - expected) <= 1
    rate = 30000 / 1001 if isinstance(source, str) else source
    times = np.minimum(np.arange(len(numbers)) / fps * rate, 23)
    assert np.abs(numbers - times).max() <= 1       # the frame shown is the one of that moment


def test_max_frames_and_streaming(clips):
    np.testing.assert_array_equal(frame_numbers(read_clip(clips / "a.avi", 32, max_frames=7)), np.arange(7))
    assert len(read_clip(clips / "a.avi", 32, max_frames=100)) == 24
    streamed = np.stack(list(stream_frames(clips / "a.avi", 32)))
    np.testing.assert_array_equal(streamed, read_clip(clips / "a.avi", 32))
    assert read_clip(clips / "a.avi", 32).flags.writeable


@pytest.mark.parametrize("arguments", [
    {"size": 0}, {"size": 1.5}, {"size": 32, "fps": 0}, {"size": 32, "fps": float("nan")},
    {"size": 32, "max_frames": 0}, {"size": 32, "fit": "stretch"}])
def test_arguments_are_checked_before_anything_is_decoded(clips, no_ffmpeg, arguments):
    no_ffmpeg()
    with pytest.raises(ValueError, match=f"{list(arguments)[-1]} must"):
        stream_frames(clips / "a.avi", **arguments)
    with pytest.raises(ValueError, match="rate must be"):
        read_sound(clips / "a.avi", 0)


def test_closing_early_ends_ffmpeg(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.avi", counter(28, 64, 64), codec="mjpeg")
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(ffmpeg_process.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    monkeypatch.setattr(decoding, "BLOCK_BYTES", 1)             # frame by frame
    frames = stream_frames(path, 512)
    next(frames)
    assert started[0].poll() is None                         # 28 frames do not fit in the pipe
    frames.close()
    assert started[0].returncode is not None


def test_sound_is_averaged_over_channels_and_resampled(tmp_path):
    left, right = tone(1, 48000, 300, 0.8), tone(1, 48000, 300, 0.8)
    encode(tmp_path / "same.avi", quadrants(25, 32, 32), sound=np.stack([left, right], 1), rate=48000)
    write_wav(tmp_path / "opposite.wav", np.stack([left, -right], 1), 48000)
    write_wav(tmp_path / "one.wav", np.stack([left, 0 * left], 1), 48000)
    for rate in (8000, 16000, 48000):
        sound = read_sound(tmp_path / "same.avi", rate)
        assert len(sound) == pytest.approx(rate, rel=0.1) and pitch(sound, rate) == pytest.approx(300, abs=3)
        assert np.abs(sound[rate // 4:rate // 2]).max() == pytest.approx(0.8, abs=0.05)
    assert np.abs(read_sound(tmp_path / "opposite.wav")).max() < 1e-3
    assert np.abs(read_sound(tmp_path / "one.wav")).max() == pytest.approx(0.4, abs=0.01)
    assert read_sound(tmp_path / "one.wav").shape == (16000,)


def test_no_sound_and_no_video(tmp_path):
    path = write_clip(tmp_path / "mute.avi")
    assert read_sound(path) is None and not probe(path).has_sound
    assert read_clip(path, 32).shape == (12, 32, 32, 3)
    encode(tmp_path / "voice.mp3", sound=tone(0.5))
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:d=0.04", "-i", tmp_path / "voice.mp3", "-map", "1", "-map", "0",
           "-disposition:v", "attached_pic", "-c:a", "copy", "-c:v", "mjpeg", tmp_path / "cover.mp3")
    for name in ("voice.mp3", "cover.mp3"):                    # a cover picture is no video
        assert len(read_sound(tmp_path / name)) == pytest.approx(8000, abs=1200)
        for reader in (probe, lambda path: read_clip(path, 32)):
            with pytest.raises(DataError) as error:
                reader(tmp_path / name)
            assert "no video" in one_line(error, tmp_path / name)


def test_real_recordings(real_data, tmp_path, no_ffmpeg):
    paths = sorted((real_data / "crema_d").glob("*.flv"))
    assert len(paths) == 6
    cache = FrameCache(tmp_path / "cache")
    first = []
    for path in paths:
        found = probe(path)
        assert (found.width, found.height, found.display_width, found.fps) == (480, 360, 480, 29.97)
        assert found.has_sound and found.video_codec == "vp6f"
        clip = read_clip(path, 64, cache=cache)
        assert len(clip) == pytest.approx(found.duration * 25, abs=2)
        assert clip[:, :7].max() == 0 and clip[:, -7:].max() == 0 and clip[:, 9:-9].std() > 20     # 4:3 letterbox
        assert np.abs(np.diff(clip[:, 9:-9].astype(int), axis=0)).mean() > 0.2                     # it moves
        sound = read_sound(path)
        assert len(sound) / 16000 == pytest.approx(found.duration, abs=0.1) and 0.05 < np.abs(sound).max() <= 1
        first.append(np.array(clip))
    no_ffmpeg()
    for path, clip in zip(paths, first, strict=True):
        np.testing.assert_array_equal(read_clip(path, 64, cache=cache), clip)


# Bad input: one line that names the file

def readers(path):
    return [lambda: probe(path), lambda: read_clip(path, 32), lambda: list(stream_frames(path, 32)),
            lambda: read_sound(path)]


def bad_files(folder):
    (folder / "text.avi").write_text("This is not a film.\n" * 50)
    (folder / "noise.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "empty.avi").touch()
    (folder / "directory.avi").mkdir()
    os.mkfifo(folder / "fifo.avi")
    (folder / "loop.avi").symlink_to("loop.avi")
    return [folder / name for name in ("text.avi", "noise.avi", "empty.avi", "directory.avi", "fifo.avi", "loop.avi",
                                       "missing.avi", "missing\nline.avi", "nul\0.avi")] + ["/dev/zero"]


def test_what_is_no_clip(tmp_path):
    start = time.monotonic()
    words = ["no media file", "no media file", "empty", "directory", "pipe", "opened", "no such file", "no such file",
             "null", "device"]
    for path, word in zip(bad_files(tmp_path), words, strict=True):
        for read in readers(path):
            with pytest.raises(DataError) as error:
                read()
            assert word in one_line(error, path)
    assert time.monotonic() - start < 20


def test_truncated_clips_give_the_frames_that_are_there(clips, tmp_path):
    data = (clips / "a.avi").read_bytes()
    path, counts = tmp_path / "cut.avi", []
    start = data.index(b"movi")
    for part in (0.15, 0.4, 0.7, 0.95):
        path.write_bytes(data[:start + int((len(data) - start) * part)])
        numbers = frame_numbers(read_clip(path, 32))
        counts.append(len(numbers))
        np.testing.assert_array_equal(numbers[:-1], np.arange(len(numbers) - 1))      # the last one may be damaged
    assert 0 < counts[0] < counts[1] < counts[2] < counts[3] <= 24
    for end in (4, 100, start, start + 4):
        path.write_bytes(data[:end])
        with pytest.raises(DataError) as error:
            read_clip(path, 32)
        one_line(error, path)
    whole = write_clip(tmp_path / "whole.mp4", codec="h264").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:len(whole) // 2])       # an mp4 has its index at the end
    with pytest.raises(DataError) as error:
        read_clip(tmp_path / "cut.mp4", 32)
    one_line(error, tmp_path / "cut.mp4")


def test_zero_frames(clips, tmp_path):
    ffmpeg("-i", clips / "a.avi", "-an", "-c", "copy", "-frames:v", 0, tmp_path / "none.avi")
    with pytest.raises(DataError) as error:
        read_clip(tmp_path / "none.avi", 32)
    one_line(error, tmp_path / "none.avi")


def test_damaged_bytes_never_hang_or_escape(clips, tmp_path):
    data = np.frombuffer((clips / "a.avi").read_bytes(), np.uint8)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        bad = data.copy()
        at = rng.integers(0, len(bad), 200)
        bad[at] = rng.integers(0, 256, 200)
        (tmp_path / "bad.avi").write_bytes(bad.tobytes())
        try:
            clip = read_clip(tmp_path / "bad.avi", 16, max_frames=200)
        except DataError as error:
            assert "bad.avi" in str(error) and "\n" not in str(error)
        else:
            assert clip.shape[1:] == (16, 16, 3) and 0 < len(clip) <= 200


@pytest.mark.parametrize("name", [
    "-i.avi", "-y", "a b.avi", "quo'te\".avi", "new\nline.avi", "frame%03d.avi", "a:b.avi", "http:x.avi",
    "été 表情.avi", "back\\slash.avi", "*.avi", "concat:a.avi|b.avi",
    "x\n  Stream #0:0: Video: h264, 9x9, 1 fps\n.avi"])
def test_names(clips, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes((clips / "a.avi").read_bytes())
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        assert probe(path).width == 64
        np.testing.assert_array_equal(frame_numbers(read_clip(path, 16)), np.arange(24))
        assert len(read_sound(path)) > 8000
    (tmp_path / name).write_text("not a film " * 100)
    for read in readers(name):
        with pytest.raises(DataError) as error:
            read()
        one_line(error, name)


def test_metadata_cannot_imitate_a_stream(tmp_path):
    path = write_clip(tmp_path / "a.mkv", extra=[
        "-metadata", "title=x\n  Stream #0:7: Video: h264, 9x9, 1 fps\n  Stream #0:8: Audio: mp3"])
    found = probe(path)
    assert (found.width, found.has_sound, found.video_codec) == (96, False, "mpeg2video")


def test_playlists_and_scripts_are_not_followed(clips, tmp_path):
    write_clip(tmp_path / "part.ts", sound=tone(0.5))
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\npart.ts\n#EXT-X-ENDLIST\n"
    script = "ffconcat version 1.0\nfile part.ts\n"
    texts = {"list.m3u8": hls, "list.avi": hls, "script.ffconcat": script, "script.avi": script}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for name in ("list.m3u8", "script.avi"):               # unguarded, ffmpeg does follow them: the test can fail
        ffmpeg("-i", tmp_path / name, "-f", "null", "-")
    for name in texts:
        for read in readers(tmp_path / name):
            with pytest.raises(DataError) as error:
                read()
            assert "not followed" in one_line(error, tmp_path / name)
    (tmp_path / "001.png").write_bytes(b"")
    ffmpeg("-i", clips / "a.avi", "-frames:v", 2, tmp_path / "%03d.png")
    ffmpeg("-i", tmp_path / "%03d.png", "-f", "null", "-")
    for path in (tmp_path / "%03d.png", f"concat:{tmp_path}/part.ts|{tmp_path}/part.ts", f"subfile:{tmp_path}/part.ts"):
        with pytest.raises(DataError, match="no such file"):
            read_clip(path, 32)


def test_a_mov_that_names_another_file_is_not_followed(tmp_path):
    path = external_mov(tmp_path)
    ffmpeg("-enable_drefs", 1, "-i", path, "-f", "null", "-")          # told to, ffmpeg does follow it
    for read in readers(path)[1:3]:
        with pytest.raises(DataError) as error:
            read()
        one_line(error, path)


@pytest.mark.parametrize("header", [True, False], ids=["honest header", "header lies"])
@pytest.mark.parametrize("side", [6000, 100_000])
def test_huge_pictures(tmp_path, side, header):
    path = write_clip(tmp_path / "a.avi", quadrants(2, 32, 48), "png")
    pretend_size(path, side, side, header)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    for read in readers(path)[:3] if header else readers(path)[1:3]:
        with pytest.raises(DataError) as error:
            read()
        one_line(error, path)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 300_000)          # KiB


def test_mid_sized_pictures_pass(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=red:s=5000x3000:d=0.04:r=25", "-c:v", "mjpeg", tmp_path / "a.avi")
    assert near(read_clip(tmp_path / "a.avi", 32)[0, 16, 16], (254, 0, 0), 4)


def test_a_time_stamp_that_leaps_does_not_repeat_frames_for_years(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mkv", counter(5, 48, 64), "ffv1", extra=[
        "-vf", "setpts='if(lt(N,4),N,4+25*7200)/25/TB'", *as_they_come()])
    assert len(read_clip(path, 8, max_frames=50)) == 50
    monkeypatch.setattr(decoding, "MAX_SECONDS", 60)
    with pytest.raises(DataError, match="more than 60 seconds"):
        read_clip(path, 8)
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "MAX_BYTES", 100 * 8 * 8 * 3)
    with pytest.raises(DataError, match="give max_frames"):
        read_clip(path, 8)


def test_sound_has_a_limit(clips, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_SOUND", 1000)
    with pytest.raises(DataError, match="sound has more than 1000 samples"):
        read_sound(clips / "a.avi")


def fake_ffmpeg(tmp_path, monkeypatch, code):
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!{sys.executable} -S\nimport os, sys, time, signal\n{code}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))


def test_a_stalled_decoder_is_stopped(clips, tmp_path, monkeypatch):
    fake_ffmpeg(tmp_path, monkeypatch, "os.write(1, bytes(1000)); time.sleep(60)")
    monkeypatch.setattr(ffmpeg_process, "STALL_SECONDS", 0.5)
    start = time.monotonic()
    for read in readers(clips / "a.avi"):
        with pytest.raises(DataError, match=r"0\.5 seconds") as error:
            read()
        one_line(error, clips / "a.avi")
    fake_ffmpeg(tmp_path, monkeypatch, "os.close(1); time.sleep(60)")        # output closed, but still there
    with pytest.raises(DataError, match=r"0\.5 seconds"):
        read_clip(clips / "a.avi", 32)
    assert time.monotonic() - start < 15


def test_a_decoder_that_dies_is_not_taken_for_the_end_of_the_clip(clips, tmp_path, monkeypatch):
    fake_ffmpeg(tmp_path, monkeypatch, "os.write(1, bytes(32 * 32 * 3 * 2)); os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(DataError, match="broke off"):
        read_clip(clips / "a.avi", 32)


def test_a_flood_of_messages_does_not_block(clips, tmp_path, monkeypatch):
    fake_ffmpeg(tmp_path, monkeypatch, "sys.stderr.write('noise\\n' * 300000); os.write(1, bytes(32 * 32 * 3 * 2))")
    assert read_clip(clips / "a.avi", 32).shape == (2, 32, 32, 3)


def test_ffmpeg_that_cannot_start(clips, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(DataError, match="cannot start '/nowhere/ffmpeg'"):
        read_clip(clips / "a.avi", 32)


def test_a_leap_of_time_stamps_is_filled_only_as_far_as_frames_are_wanted(tmp_path):
    """Gigabytes in ffmpeg, and minutes, where nothing but -frames:v ends the filling."""
    path = write_clip(tmp_path / "a.mkv", counter(5, 48, 64), "ffv1", sound=tone(0.2), extra=[
        "-vf", "setpts='if(lt(N,4),N,4+25*72000)/25/TB'", *as_they_come()])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, time.monotonic()
    for rate in (None, 16000):
        assert len(decoding.read_media(path, 256, max_frames=50, rate=rate).frames) == 50
    assert next(stream_frames(path, 256)).shape == (256, 256, 3)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 300_000)          # KiB
    assert time.monotonic() - start < 30


def test_sound_is_not_decoded_beyond_its_limit(tmp_path):
    """Eight hours of silence are a file of 3 MB: ffmpeg stops after 70 minutes of it."""
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=100:cl=mono", "-t", "90000", "-c:a", "pcm_u8", tmp_path / "a.wav")
    media = decoding.read_media(tmp_path / "a.wav", rate=16000)
    assert media.sound is None and f"more than {decoding.MAX_SOUND} samples" in media.fault


def test_what_the_machine_lacks_is_not_the_fault_of_the_clip(clips, monkeypatch):
    def lacking(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="Cannot allocate memory"):
        patched.setattr(ffmpeg_process.subprocess, "Popen", lacking)
        read_clip(clips / "a.avi", 16)

    def refused(thread):
        raise RuntimeError("can't start new thread")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="can't start new thread"):
        patched.setattr(ffmpeg_process.threading.Thread, "start", refused)
        read_clip(clips / "a.avi", 16)

    def full(self, pipe):
        raise MemoryError
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(ffmpeg_process.Ffmpeg, "_listen", full)
        read_clip(clips / "a.avi", 16)


def test_a_line_of_the_log_without_an_end_is_cut(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(ffmpeg_process, "LOG_LINES", 100)
    fake_ffmpeg(tmp_path, monkeypatch, "sys.stderr.write('x' * 5000000); os.write(1, bytes(32 * 32 * 3 * 2))")
    run = ffmpeg_process.Ffmpeg(clips / "a.avi")
    run.finish()
    run.close()
    assert len(run.log) <= 150 * ffmpeg_process.LINE_BYTES


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="Linux shows the limits of a process")
def test_ffmpeg_has_a_limit_of_memory(tmp_path):
    reading = ffmpeg_process.Ffmpeg(write_clip(tmp_path / "a.avi"), ["-f", "rawvideo", "-pix_fmt", "rgb24"])
    limits = Path(f"/proc/{reading.process.pid}/limits").read_text()
    reading.close()
    assert re.search(rf"Max data size +{ffmpeg_process.MEMORY} +{ffmpeg_process.MEMORY} ", limits)


def test_a_rate_that_no_sound_has_is_not_resampled(tmp_path):
    path = tmp_path / "a.wav"
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", "0.3", path)
    content = bytearray(path.read_bytes())
    content[24:28] = (0x44003E80).to_bytes(4, "little")                       # behind RIFF....WAVEfmt ....: the rate
    path.write_bytes(content)
    started = time.monotonic()
    media = decoding.read_media(path, rate=16000)
    assert media.sound is None and "sound of 1140866688 samples a second" in media.fault
    assert time.monotonic() - started < 10
