"""What the weights that come along say: of real people, of nobody, and of what is no clip of a person at all."""

import csv
import io
import json

import numpy as np
import pytest

from emonet_scratch.cli import main
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError
from emonet_scratch.models import ResNet
from emonet_scratch.training.answer import SHIPPED, figures, of_one_speaker, summary

from . import media

pytest.importorskip("cv2", reason="OpenCV is not installed")


def near(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() < 1e-6


def said(answerer, path):
    """The answer, with what holds for every one."""
    answer = answerer(path)
    p = answer.probabilities
    assert p.shape == (7,) and abs(p.sum() - 1) < 1e-6 and (p >= 0).all() and answer.clip == str(path)
    assert answer.label == (CLASSES[p.argmax()] if answer.weights else "unknown")
    assert answer.weights in ("", *SHIPPED) and (answer.novelty is None or answer.novelty >= 0)
    return answer


# ---- people ----

def test_a_face_with_its_voice_is_read_by_both_networks_as_one(answerer, person):
    answer = said(answerer, person)
    assert answer.weights == "fused" and answer.face and answer.voice and answer.fault == ""


def test_without_sound_the_face_answers_and_without_picture_the_voice(answerer, person, tmp_path):
    media.ffmpeg("-i", person, "-an", "-c:v", "copy", tmp_path / "seen.mp4")
    media.ffmpeg("-i", person, "-vn", "-c:a", "pcm_s16le", tmp_path / "heard.wav")
    seen, heard = said(answerer, tmp_path / "seen.mp4"), said(answerer, tmp_path / "heard.wav")
    assert (seen.weights, seen.face, seen.voice) == ("fused", True, False) and seen.remarks == "no voice in it"
    assert (heard.weights, heard.face, heard.voice) == ("voices", False, True) and "no face in it" in heard.remarks
    media.ffmpeg("-i", person, "-vn", tmp_path / "heard.mp4")
    assert said(answerer, tmp_path / "heard.mp4").weights == "voices"         # a file for video without any


def test_without_opencv_voices_answer(person, monkeypatch, capsys):
    def none():
        raise DataError("face crops need OpenCV: pip install")
    monkeypatch.setattr("emonet_scratch.training.answer.import_cv2", none)
    assert main(["predict", str(person), str(person), "--device", "cpu", "--csv"]) == 0
    out, err = capsys.readouterr()
    assert out.count(",voices,") == 2 and err.count("pip install") == 1


def test_many_clips_are_answered_in_order_as_one_by_one(answerer, person, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    heard = media.write_clip(tmp_path / "a.avi", sound=media.tone(1))
    paths = [person, heard, tmp_path / "bad.mp4", person, heard, person]
    found = list(answerer.answers(iter(paths)))
    assert [isinstance(answer, DataError) for answer in found] == [False, False, True, False, False, False]
    for path, answer in zip(paths, found, strict=True):
        if path.name != "bad.mp4":
            assert answer.clip == str(path) and np.array_equal(answer.probabilities, answerer(path).probabilities)
    assert list(answerer.answers([])) == []


def test_of_several_faces_the_one_that_is_there_longest_answers(answerer, person, tmp_path):
    """The left one stays; a grey wall takes the place of the right one after a second."""
    other = sorted(person.parent.glob("09-02-*.mp4"))[0]
    media.ffmpeg("-i", person, "-an", tmp_path / "one.mp4")
    wall = "[1:v]drawbox=t=fill:color=gray:enable='gte(t,1)'[r];[0:v][r]hstack,pad=iw:iw"
    media.ffmpeg("-i", other, "-an", tmp_path / "other.mp4")
    media.ffmpeg("-i", person, "-i", other, "-filter_complex", wall, "-an", tmp_path / "two.mp4")
    assert said(answerer, tmp_path / "two.mp4").face
    one, two, right = (said(answerer, tmp_path / f"{name}.mp4").probabilities for name in ("one", "two", "other"))
    assert np.abs(one - two).max() < 0.35 and np.abs(one - two).max() < np.abs(right - two).max()  # cut out of fewer pixels


def test_a_still_picture_is_read_by_the_network_for_pictures(answerer, person, tmp_path):
    media.ffmpeg("-ss", "1", "-i", person, "-frames:v", "1", tmp_path / "still.png")
    answer = said(answerer, tmp_path / "still.png")
    assert answer.weights == "faces" and answer.novelty is None and answer.remarks == ""


# ---- nobody ----

def test_nothing_to_be_known_is_no_confident_class(answerer, tmp_path):
    rng = np.random.default_rng(0)
    grey, noise = np.full((50, 96, 96, 3), 128, np.uint8), rng.integers(0, 256, (50, 96, 96, 3), np.uint8)
    hiss = rng.uniform(-0.3, 0.3, 32000)
    for name, frames, sound in (("grey", grey, None), ("noise", noise, hiss), ("hiss", grey, hiss),
                                ("hum", grey, media.tone(2, 16000)), ("silence", grey, np.zeros(32000))):
        answer = said(answerer, media.write_clip(tmp_path / f"{name}.avi", frames, sound=sound, rate=16000))
        assert answer.probabilities.max() < 0.5 and not answer.face, name
        assert answer.weights == ("voices" if name in ("noise", "hiss", "hum") else ""), name
        assert "unlike" in answer.remarks if answer.weights else "neither a face nor a voice" in answer.remarks


def test_music_and_a_cartoon_are_called_unlike(answerer, tmp_path):
    chords = sum(media.tone(3, 16000, hz, 0.15) * np.repeat(np.linspace(1, 0.1, 6), 8000) for hz in (262, 330, 392, 523))
    answer = said(answerer, media.write_clip(tmp_path / "music.avi", media.quadrants(75, 96, 96), sound=chords, rate=16000))
    assert answer.weights == "voices" and answer.novelty > 1 and answer.probabilities.max() < 0.5


def test_twenty_milliseconds_are_too_short_to_be_heard(answerer, tmp_path):
    media.write_wav(tmp_path / "short.wav", 0.3 * np.sin(np.arange(320) / 5), 16000)
    assert said(answerer, tmp_path / "short.wav").weights == ""


def test_an_hour_is_a_clip_like_others(answerer, tmp_path):
    """Five minutes of it have sound."""
    media.ffmpeg("-f", "lavfi", "-i", "testsrc=r=1:s=64x64:d=3600", "-f", "lavfi", "-i", "anoisesrc=r=8000:a=0.1:d=300",
                 "-c:v", "mpeg4", "-c:a", "pcm_s16le", tmp_path / "hour.avi")
    assert said(answerer, tmp_path / "hour.avi").probabilities.max() < 0.5


# ---- how it is said ----

def test_clips_of_one_speaker_are_compared_with_each_other():
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.6, 0.1, 0.3]])
    q = of_one_speaker(p)
    assert np.allclose(q.sum(axis=1), 1) and (q[:, 0] < p[:, 0]).all() and q[1, 1] > p[1, 1] and q[2, 2] > p[2, 2]
    assert np.allclose(of_one_speaker(np.full((1, 7), 1 / 7)), 1 / 7)
    assert (of_one_speaker(np.array([[1.0, 0, 0]])) > 0).all() and of_one_speaker(np.empty((0, 7))).shape == (0, 7)


def test_predict_needs_no_checkpoint(person, tmp_path, capsys):
    silent = media.write_clip(tmp_path / "silent.avi")
    assert main(["predict", str(person), str(silent), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith(f"{person}: ") and "unknown" in second and "neither a face nor a voice in it" in second
    assert err.count("weights for fused: ") == 1 and "fused.md" in err

    assert main(["predict", str(person), str(person), "--device", "cpu", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == rows[1] and rows[0]["weights"] == "fused" and rows[0]["face"] and rows[0]["voice"]
    assert near(sum(rows[0]["probabilities"].values()), 1) and rows[0]["unlike"] == (rows[0]["novelty"] > 1)

    assert main(["predict", str(person), "--device", "cpu", "--csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert row["class"] == rows[0]["class"] and float(row["novelty"]) == pytest.approx(rows[0]["novelty"], abs=1e-5)

    assert main(["predict", str(person), str(silent), "--device", "cpu", "--one-speaker"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["predict", str(silent), "--device", "cpu", "--one-speaker"]) == 0
    assert "unknown" in capsys.readouterr().out


def test_a_bad_clip_stops_no_other(person, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    assert main(["predict", str(tmp_path / "bad.mp4"), str(person), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and err.count("emonet: error: ") == 1 and "bad.mp4" in err


def test_features_of_files_are_for_a_checkpoint(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "x.mp4", "--features", "."])
    assert "--features goes with --checkpoint" in capsys.readouterr().err


def test_models_lists_what_ships_with_its_figures(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name, path in SHIPPED.items():
        assert str(path) in out and summary(name) in out and len(figures(name)) >= 4
    assert sum(path.stat().st_size for path in SHIPPED.values()) <= 6e6


def test_every_card_says_what_has_to_be_known():
    for name in SHIPPED:
        card = SHIPPED[name].with_suffix(".md").read_text(encoding="utf-8")
        for word in ("licence", "command", "seed", "date", "accuracy", "calibration", "not be used"):
            assert word in card, (name, word)


def test_the_trunk_of_the_fused_network_is_that_of_the_faces(answerer):
    ours, theirs = answerer.models["fused"].net.trunk.layer.resnet, ResNet.pretrained("faces").features
    for name, array in theirs.state_dict().items():
        assert np.array_equal(ours.state_dict()[name], array), name


def test_answers_do_not_depend_on_the_clips_before(answerer, person, tmp_path):
    first = said(answerer, person).probabilities
    said(answerer, media.write_clip(tmp_path / "other.avi", sound=media.tone(1)))
    assert np.array_equal(said(answerer, person).probabilities, first)
