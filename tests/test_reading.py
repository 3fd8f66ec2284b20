"""What is read of a clip, once: bad sound is no sound; one start of ffmpeg, one hash, and nothing twice with a cache."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch.cli import main
from emonet_scratch.data import blas
from emonet_scratch.data import prepare as module
from emonet_scratch.data.afew import Features
from emonet_scratch.data.doctor import examine
from emonet_scratch.data.extract import base_of, made_by
from emonet_scratch.data.opensmile import read_arff
from emonet_scratch.data.prepare import extractor_of, prepare
from emonet_scratch.data.sound import is10
from emonet_scratch.data.video import ffmpeg as program
from emonet_scratch.data.video import ffmpeg_version
from emonet_scratch.errors import CheckpointError, DataError
from emonet_scratch.training.inference import Model
from tests.media import ffmpeg, tone, write_clip

SOURCE = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=1"]


def no_samples(path):
    """A sound track that holds nothing."""
    ffmpeg(*SOURCE, "-f", "lavfi", "-i", "anullsrc=r=44100", "-c:v", "libx264", "-c:a", "aac", "-af",
           "atrim=end_sample=0", "-t", "1", path)


def not_numbers(path):
    """Float samples, all of them NaN."""
    ffmpeg(*SOURCE, "-f", "lavfi", "-i", "aevalsrc=0/0:s=16000:d=1", "-c:v", "mpeg4", "-c:a", "pcm_f32le", path)


BAD = {"empty.mkv": no_samples, "nan.mkv": not_numbers}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A clip with sound, one without a track, and one for each way in which sound cannot be decoded."""
    root = tmp_path_factory.mktemp("tree")
    for split in ("Train", "Val"):
        folder = root / split / "Happy"
        folder.mkdir(parents=True)
        write_clip(folder / "good.avi", sound=tone(0.5))
        write_clip(folder / "notrack.avi")
        for name, make in BAD.items():
            make(folder / name)
    return root


def test_sound_that_cannot_be_decoded_is_a_missing_vector_named_and_counted(tree):
    lines = []
    train = prepare(tree, ("train",), frame_size=16, log=lines.append, on_error="stop").splits["train"]
    assert train.ids == ["empty", "good", "nan", "notrack"] and all(len(f) for f in train.frames)
    assert np.isnan(train.audio).all(axis=1).tolist() == [True, False, True, True]
    named = [line for line in lines if line.startswith("without sound: ")]
    assert len(named) == len(BAD) and all(any(name in line for line in named) for name in BAD)
    assert lines[-2:] == ["2 of 4 clips have no sound or vector that can be read: their audio vectors are missing",
                          "1 of 4 clips have no sound: their audio vectors are missing"]


def test_where_only_pictures_are_asked_for_sound_is_not_even_looked_at(tree, monkeypatch):
    rates, real = [], module.read_media
    monkeypatch.setattr(module, "read_media", lambda *a, rate=None, **k: rates.append(rate) or real(*a, rate=rate, **k))
    lines = []
    data = prepare(tree, ("train",), sound=False, frame_size=16, log=lines.append)
    assert len(data.splits["train"]) == 4 and rates == [None] * 4 and not any("sound" in line for line in lines)


def test_where_only_sound_is_asked_for_such_clips_are_left_out_with_the_reason(tree):
    lines = []
    data = prepare(tree, ("train",), video=False, log=lines.append)
    assert data.splits["train"].ids == ["good"] and data.splits["train"].keys == [""]
    left_out = [line for line in lines if line.startswith("left out: ")]
    assert [Path(clip.path).name for clip in data.skipped] == ["empty.mkv", "nan.mkv", "notrack.avi"] and len(left_out) == 3
    assert "no sound track" in left_out[2] and "no sound track" not in left_out[0] + left_out[1]
    assert "are no numbers" in left_out[1]


def test_a_clip_is_read_in_one_start_hashed_once_and_never_again(tree, tmp_path, monkeypatch):
    starts, hashes = [], []
    popen, key = program.subprocess.Popen, module.content_key
    monkeypatch.setattr(program.subprocess, "Popen", lambda *a, **k: starts.append(a) or popen(*a, **k))
    monkeypatch.setattr(module, "content_key", lambda path: hashes.append(path) or key(path))
    ffmpeg_version()
    (tmp_path / "Train" / "Happy").mkdir(parents=True)
    for name in ("a.avi", "b.avi"):
        write_clip(tmp_path / "Train" / "Happy" / name, sound=tone(0.4, hz=200 if name == "a.avi" else 300))
    starts.clear()
    options = dict(frame_size=16, cache=tmp_path / "cache", log=lambda line: None)
    first = prepare(tmp_path, ("train",), **options).splits["train"]
    assert len(starts) == len(hashes) == 2
    monkeypatch.setitem(module.EXTRACTORS, module.DEFAULT, (lambda sound: pytest.fail("computed"), is10.FEATURE_NAMES))
    second = prepare(tmp_path, ("train",), **options).splits["train"]
    assert len(starts) == 2 and len(hashes) == 4
    np.testing.assert_array_equal(first.audio, second.audio)
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, second.frames, strict=True)) and first.keys == second.keys
    alone = prepare(tmp_path, ("train",), video=False, **options).splits["train"]       # audio alone has the same cache
    np.testing.assert_array_equal(first.audio, alone.audio)
    assert len(starts) == 2


def test_vectors_of_another_ffmpeg_and_faults_are_not_taken_from_the_cache(tree, tmp_path, monkeypatch):
    options = dict(frame_size=16, cache=tmp_path / "cache")
    lines = [[], []]
    for said in lines:
        prepare(tree, ("train",), log=said.append, **options)
    assert lines[0] == lines[1] and sum(line.startswith("without sound") for line in lines[1]) == 2
    monkeypatch.setattr("emonet_scratch.data.video.cache.ffmpeg_version", lambda: "1.2.3")
    before = len(list((tmp_path / "cache").iterdir()))
    prepare(tree, ("train",), log=lambda line: None, **options)
    assert len(list((tmp_path / "cache").iterdir())) == 2 * before


def test_sound_that_stalls_costs_no_pictures(tree, tmp_path, monkeypatch):
    """With the pictures in the cache, the sound is read alone."""
    options = dict(frame_size=16, cache=tmp_path / "cache")
    prepare(tree, ("train",), sound=False, log=lambda line: None, **options)

    def stall(path, **given):
        raise DataError("ffmpeg stalled")
    monkeypatch.setattr(module, "read_media", stall)
    train = prepare(tree, ("train",), log=lambda line: None, **options).splits["train"]
    assert len(train) == 4 and np.isnan(train.audio).all()


def test_features_have_a_row_of_missing_values_for_them_so_that_a_training_keeps_them(tree, tmp_path, capsys):
    out = tmp_path / "x.arff"
    assert main(["features", str(tree / "Train"), "--out", str(out), "--workers", "1"]) == 0
    said = capsys.readouterr().err
    assert said.count("without sound: ") == 2 and all(name in said for name in BAD)
    assert "2 clips have no sound that can be read" in said
    rows = {row.name: row.vector for row in read_arff(out).rows}
    assert [name for name, vector in rows.items() if np.isnan(vector).all()] == ["empty", "nan", "notrack"]
    assert np.isfinite(rows["good"]).all()
    silent = tmp_path / "nan.wav"                                             # without pictures there is nothing left of it
    ffmpeg("-f", "lavfi", "-i", "aevalsrc=0/0:s=16000:d=1", "-c:a", "pcm_f32le", silent)
    assert main(["features", str(silent), "--out", str(tmp_path / "y.arff"), "--workers", "1"]) == 1


def test_the_doctor_names_them(tree):
    report = examine(tree)
    found = dict(report.findings)
    bad = found["clips whose sound cannot be decoded"]
    assert [item.partition(": ")[0] for item in bad] == [
        f"'{split}/Happy/{name}'" for split in ("Train", "Val") for name in BAD]
    assert found["clips without sound"] == ["'Train/Happy/notrack.avi'", "'Val/Happy/notrack.avi'"]
    assert "clips that cannot be read" not in found


def test_a_network_predicts_from_the_pictures_of_such_a_clip(tree, tmp_path, capsys):
    fields = ["frame_size=16", "frames=2", "trunk_width=2", "lstm_size=4"]
    train = tmp_path / "data"
    for k, split in enumerate(("Train", "Val")):
        for hz, name in ((150, "Happy"), (300, "Sad")):
            for i in range(3):
                (train / split / name).mkdir(parents=True, exist_ok=True)
                write_clip(train / split / name / f"{hz}{i}.avi", sound=tone(0.3, hz=hz + 20 * i + k))
    run = tmp_path / "run"
    assert main(["train", "--data", str(train), "--preset", "small", "--modalities", "fused", "--device", "cpu", "--epochs",
                 "1", "--out", str(run), "--runs", str(tmp_path), *(w for field in fields for w in ("--set", field))]) == 0
    said = capsys.readouterr()
    assert "an epoch" in said.out and "on this machine" in said.out
    assert json.loads((run / "config.json").read_text())["versions"]["ffmpeg"] == ffmpeg_version()
    clip = tree / "Val" / "Happy" / "empty.mkv"
    assert main(["predict", str(clip), "--checkpoint", str(run), "--json"]) == 0
    said = capsys.readouterr()
    assert sum(json.loads(said.out)[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert said.err.count("without sound: ") == 1 and "empty.mkv" in said.err


def test_the_name_of_an_extractor_has_the_version_of_ffmpeg_and_old_names_are_understood():
    assert made_by("is10-2") == f"is10-2+ffmpeg-{ffmpeg_version()}"
    assert base_of(made_by("is10-2")) == base_of("is10-2") == "is10-2"
    for relation, told in (("is10-2", "is10-2"), ("is10-2+ffmpeg-5.1.6-0+deb12u1", "is10-2+ffmpeg-5.1.6-0+deb12u1"),
                           ("SMILEfeatures", "files"), ("", "files")):
        assert extractor_of(Features(relation=relation)) == told
    assert extractor_of(None, "emonet-1") == made_by("emonet-1")


def test_a_checkpoint_says_once_when_another_ffmpeg_made_its_vectors():
    model = Model(None, "a projection", ("f",), "is10-2+ffmpeg-5.1.6", Path("run/best.safetensors"), ("a", "b"), 1.0)
    lines = []
    model.check_features(("f",), "is10-2+ffmpeg-9.0.2", lines.append)
    assert len(lines) == 1 and "5.1.6" in lines[0] and "9.0.2" in lines[0] and "best.safetensors" in lines[0]
    model.check_features(("f",), "is10-2+ffmpeg-5.1.6", lines.append)
    dataclasses.replace(model, extractor="is10-2").check_features(("f",), "is10-2+ffmpeg-9.0.2", lines.append)    # none told
    dataclasses.replace(model, extractor="files").check_features(("f",), "files", lines.append)
    assert len(lines) == 1
    with pytest.raises(CheckpointError, match="emonet-1"):
        model.check_features(("f",), "emonet-1+ffmpeg-5.1.6", lines.append)


def test_blas_has_one_thread_for_a_while():
    get, set_to = blas._threads()
    before = get()
    set_to(2)
    try:
        with blas.one_blas_thread():
            assert get() == 1
        assert get() in (1, 2) and (get() == 2 or before == 1)       # a library without such a function always says 1
    finally:
        set_to(before)
