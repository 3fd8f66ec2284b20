"""synthetic.py: what is drawn depends on the label by its cues and by nothing else; what is written reads back."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emonet_scratch.data import synthetic
from emonet_scratch.data.afew import find_clips, load_features
from emonet_scratch.data.sound import compact
from emonet_scratch.data.synthetic import FACES, VOICES, Person, Scene, draw_clip, draw_cues, draw_face, draw_voice
from emonet_scratch.data.video import probe, read_clip, read_sound, stream_frames
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError

SEEDS = st.integers(0, 2**32 - 1)


def setting(seed=0):
    rng = np.random.default_rng(seed)
    return Person.draw(rng), Scene.draw(rng)


def hear(cues, person, seed=0, seconds=2):
    sound = draw_voice(np.asarray(cues, float), person, seconds * synthetic.RATE, np.random.default_rng(seed))
    return dict(zip(compact.FEATURE_NAMES, compact.features(sound), strict=True))


# ---- faces

def test_the_tables_name_every_class_and_the_two_senses_mix_different_pairs():
    for table, width in ((FACES, len(synthetic.FACE_CUES)), (VOICES, len(synthetic.VOICE_SCALE))):
        assert tuple(table) == CLASSES and {len(row) for row in table.values()} == {width}
    for label in CLASSES:
        twins = synthetic.FACE_TWIN[label], synthetic.VOICE_TWIN[label]
        assert twins[0] != twins[1] and label not in twins and set(twins) <= set(CLASSES)
        # nor may one sense's twin lead to the same emotion from the other side
        assert synthetic.VOICE_TWIN[twins[0]] != label and synthetic.FACE_TWIN[twins[1]] != label


@given(seed=SEEDS)
def test_faces_are_finite_pictures_and_differ_between_any_two_classes(seed):
    frames = draw_face(np.array([FACES[label] for label in CLASSES]), *setting(seed))
    assert frames.shape == (7, 96, 128, 3) and frames.dtype == np.float32 and np.isfinite(frames).all()
    assert frames.min() >= 0 and frames.max() < 350          # bright light may exceed 255; draw_clip cuts it
    small = frames[:, :, 16:112].reshape(7, 32, 3, 32, 3, 3).mean(axis=(2, 4))     # as a small network sees them
    for i in range(7):
        for j in range(i):
            assert (np.abs(small[i] - small[j]).max(axis=-1) > 25).sum() >= 8, (CLASSES[i], CLASSES[j])


@settings(max_examples=15)
@given(seed=SEEDS, label=st.sampled_from(CLASSES))
def test_a_picture_of_twice_the_size_is_the_same_picture(seed, label):
    person, scene = setting(seed)
    cues = np.array([FACES[label]])
    small, large = draw_face(cues, person, scene), draw_face(cues, person, scene, (192, 256))
    difference = np.abs(large.reshape(1, 96, 2, 128, 2, 3).mean(axis=(2, 4)) - small)
    assert difference.mean() < 4


def region(frames, scene, x, y, dx, dy):
    """The pixels around a point, in half head heights from the centre of the head."""
    unit = scene.scale * 96
    column, row = scene.x * 128 + x * unit, scene.y * 96 + y * unit
    return frames[:, round(row - dy * unit):round(row + dy * unit), round(column - dx * unit):round(column + dx * unit)]


def with_cue(name, *values):
    cues = np.zeros((len(values), len(synthetic.FACE_CUES)))
    cues[:, synthetic.FACE_CUES.index(name)] = values
    return cues


@given(seed=SEEDS)
def test_each_cue_moves_its_part_of_the_face(seed):
    person, scene = setting(seed)
    eye = region(draw_face(with_cue("eyes", -1, 0, 1), person, scene), scene, person.eye_gap, person.eye_y, .3, .3)
    white = (eye.min(axis=-1) > .85 * eye.max(axis=-1)).sum(axis=(1, 2), where=eye.max(axis=-1) > 120)
    assert white[0] < white[1] < white[2]                                          # the eye opens

    mouth = region(draw_face(with_cue("open", 0, .5, 1), person, scene), scene, 0, person.mouth_y, .2, .25)
    dark = (mouth.max(axis=-1) < 90).sum(axis=(1, 2))
    assert dark[0] < dark[1] < dark[2]                                             # the mouth opens

    frames = draw_face(with_cue("smile", -1, 1), person, scene)
    for side in (-1, 1):
        corner = np.abs(np.diff(region(frames, scene, side * .28 * person.mouth, person.mouth_y, .06, .25), axis=0))[0]
        assert corner.max() > 40                                                   # its corners move

    frames = draw_face(with_cue("inner", -1, 1), person, scene)
    moved = np.abs(frames[1] - frames[0]).max(axis=-1) > 20
    rows = np.flatnonzero(moved.any(axis=1)) + .5
    assert ((rows - scene.y * 96) / (scene.scale * 96) < person.eye_y + .3).all()  # brows and lids, nothing below


# ---- voices

@pytest.mark.parametrize("seed", range(3))
def test_each_voice_cue_is_heard_in_the_features(seed):
    person, _ = setting(seed)
    base = np.array([0, 0.5, 0, 0, 4, 0, 0.05, 0.0])

    def change(column, low, high):
        a, b = (hear(base + (np.arange(8) == column) * step, person, seed) for step in (low, high))
        return {name: b[name] - a[name] for name in a}

    assert change(0, -2, 4)["pitch_mean"] == pytest.approx(6, abs=0.5)
    assert change(1, 0, 4)["pitch_std"] > 1
    assert change(2, -4, 4)["pitch_slope"] == pytest.approx(4, abs=1)              # 8 semitones in two seconds
    assert change(3, -6, 6)["energy_p90"] == pytest.approx(12, abs=1)
    assert change(4, -1.5, 2)["syllable_rate"] > 2
    assert change(5, 0, 1)["jitter"] > 0.04 and change(5, 0, 1)["shimmer"] > 0.1
    assert change(6, 0, 1)["voicing_mean"] < -0.02
    assert change(7, -1, 1)["centroid_mean"] > 0.01


@given(seed=SEEDS, label=st.sampled_from(CLASSES), frames=st.integers(25, 60))
def test_a_voice_keeps_its_length_and_its_level(seed, label, frames):
    person, _ = setting(seed)
    sound = draw_voice(np.array(VOICES[label]), person, frames * 640, np.random.default_rng(seed))
    assert sound.shape == (frames * 640,) and sound.dtype == np.float32 and np.abs(sound).max() <= 1
    level = 10 * np.log10((sound.astype(float) ** 2).mean())
    assert level == pytest.approx(-26 + VOICES[label][3] + person.gain, abs=1)


@given(seed=SEEDS, label=st.sampled_from(CLASSES), steps=st.lists(st.floats(-8, 8), min_size=8, max_size=8))
def test_a_voice_far_from_the_tables_is_still_one(seed, label, steps):
    cues = np.array(VOICES[label]) + np.array(steps) * synthetic.VOICE_SCALE
    cues[3] = VOICES[label][3]
    person, _ = setting(seed)
    sound = draw_voice(cues, person, 16000, np.random.default_rng(seed))
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 1
    assert 10 * np.log10((sound.astype(float) ** 2).mean()) == pytest.approx(-26 + cues[3] + person.gain, abs=2)


# ---- clips

@settings(max_examples=10)
@given(seed=SEEDS)
def test_a_clip_starts_the_same_for_every_label_and_ends_in_its_expression(seed):
    clips = [draw_clip(label, np.random.default_rng(seed)) for label in ("Angry", "Happy", "Surprise")]
    frames, sounds = zip(*clips, strict=True)
    T = len(frames[0])
    assert 25 <= T <= 60 and frames[0].shape == (T, 96, 128, 3) and frames[0].dtype == np.uint8
    for f, s in clips:
        assert f.shape == frames[0].shape and s.shape == (640 * T,)
        np.testing.assert_array_equal(f[0], frames[0][0])                          # person, light, noise: no label yet
        np.testing.assert_array_equal(f[:, :, :4], frames[0][:, :, :4])            # and never at the edge
        blocks = (f[-1].astype(float) - f[0]).reshape(24, 4, 32, 4, 3).mean(axis=(1, 3))     # noise averages out
        assert np.abs(blocks).max() > 20
    assert np.abs(frames[0][-1].astype(float) - frames[1][-1]).max() > 50
    assert np.abs(sounds[0] - sounds[1]).max() > 0.01


def test_a_clip_follows_from_its_seed():
    first, again, other = (draw_clip("Fear", np.random.default_rng(seed)) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first[0].shape != other[0].shape or (first[0] != other[0]).any()


def test_at_most_one_sense_is_unclear_and_as_often_as_the_constant_says(monkeypatch):
    monkeypatch.setattr(synthetic, "FACE_SPREAD", 0)
    monkeypatch.setattr(synthetic, "VOICE_SPREAD", 0)
    monkeypatch.setattr(synthetic, "INTENSITY", (1, 1))
    rng, unclear = np.random.default_rng(0), np.zeros((4000, 2), bool)
    for row in unclear:
        face, voice = draw_cues("Fear", rng)
        row[:] = not np.allclose(face, FACES["Fear"]), not np.allclose(voice, VOICES["Fear"])
    assert not unclear.all(axis=1).any()
    np.testing.assert_allclose(unclear.mean(axis=0), synthetic.UNCLEAR, atol=0.03)


def test_neither_sense_alone_can_know_what_both_know_together():
    """The best reader of the drawn cues: the density of each class, from many draws of mixtures of its neighbours."""
    rng, n = np.random.default_rng(1), 150
    draws = {label: [draw_cues(label, rng) for _ in range(n)] for label in CLASSES}

    def distances(sense, test):
        spread = (np.full(9, synthetic.FACE_SPREAD), synthetic.VOICE_SPREAD * np.array(synthetic.VOICE_SCALE))[sense]
        known = np.array([[clip[sense] for clip in draws[label]] for label in CLASSES]) / spread       # (7, n, D)
        return ((known[None] - np.array([t[sense] for t in test])[:, None, None] / spread) ** 2).sum(axis=-1)

    truth = rng.integers(7, size=700)
    test = [draw_cues(CLASSES[k], rng) for k in truth]
    likelihoods = [np.log(np.exp(-0.25 * distances(sense, test)).mean(axis=2) + 1e-12) for sense in (0, 1)]
    face, voice, both = ((score.argmax(axis=1) == truth).mean() for score in (*likelihoods, sum(likelihoods)))
    assert 0.7 < face < 0.9 and 0.7 < voice < 0.9 and both > 0.95


def test_an_unknown_label_is_refused():
    with pytest.raises(DataError, match=r"label is 'Joy', expected one of Angry"):
        draw_clip("Joy", np.random.default_rng(0))


# ---- the data set on disk

@pytest.fixture(scope="module")
def written(tmp_path_factory):
    count = []
    root = synthetic.write(tmp_path_factory.mktemp("synthetic") / "a b", (2, 1, 1), seed=3, workers=2,
                           progress=lambda: count.append(1))
    assert len(count) == 28
    return root


def test_the_layout_is_that_of_afew(written):
    assert sorted(p.name for p in written.iterdir()) == sorted(
        f"{split}_{kind}" for split in ("Train", "Val", "Test") for kind in ("AFEW", "Audio"))
    clips = find_clips(written)
    for split, n in (("train", 2), ("val", 1)):
        assert [sum(c.label == name for c in clips[split]) for name in CLASSES] == [n] * 7
        assert all(c.path.parent.name == c.label for c in clips[split])
    assert len(clips["test"]) == 7 and all(c.label is None for c in clips["test"])
    assert {p.parent.name for p in written.glob("Test_*/**/*.*")} == {"Test_AFEW", "Test_Audio"}
    names = [c.id for split in clips.values() for c in split]
    assert len(set(names)) == 28 and all(len(name) == 9 and name.isdigit() for name in names)
    by_label = [int(c.id) for c in sorted(clips["train"], key=lambda c: c.label)]
    assert by_label != sorted(by_label)


def test_clips_decode_to_what_was_drawn(written):
    clips = find_clips(written)
    seeds = {"train": 0, "val": 1}
    for clip in (clips["train"][0], clips["val"][-1]):
        drawn = [draw_clip(clip.label, np.random.default_rng([3, seeds[clip.split], CLASSES.index(clip.label), i]))
                 for i in range(2)]
        read = np.array(list(stream_frames(clip.path, 96)))
        header = probe(clip.path)
        assert (header.width, header.height, header.fps) == (128, 96, 25) and header.video_codec == "mpeg2video"
        # letterboxed to 96 x 96: the middle 72 rows are the picture of 128 x 96
        matches = [len(f) == len(read) and
                   np.abs(read[:, 12:84].mean(axis=2) - squeeze(f).mean(axis=2)).mean() < 3 for f, _ in drawn]
        assert sum(matches) == 1
        frames, sound = drawn[matches.index(True)]
        heard = read_sound(clip.path)
        # MP3 adds silence at both ends: the best shift of a twentieth of a second is looked for
        assert len(sound) <= len(heard) <= len(sound) + 4000
        best = max(np.corrcoef(sound, heard[d:d + len(sound)])[0, 1] for d in range(0, len(heard) - len(sound) + 1))
        assert best > 0.95 and len(frames) * 640 == len(sound)


def squeeze(frames):
    """(T, 96, 128, 3) -> (T, 72, W, 3): the mean of every four rows, taken three times in between."""
    rows = np.linspace(0, 96, 73)
    total = np.concatenate([np.zeros_like(frames[:, :1], float), frames.astype(float).cumsum(axis=1)], axis=1)
    at = rows.astype(int)
    edge = total[:, at] + (rows - at)[:, None, None] * (total[:, np.minimum(at + 1, 96)] - total[:, at])
    return np.diff(edge, axis=1) / np.diff(rows)[:, None, None]


def test_vectors_are_those_of_the_sound_as_it_decodes(written):
    clips = find_clips(written)
    features = load_features([written], [c for split in clips.values() for c in split])
    assert features.names == compact.FEATURE_NAMES and not features.problems and not features.unmatched
    assert set(features.vectors) == {c.key for split in clips.values() for c in split}
    for clip in (clips["train"][3], clips["test"][2]):
        np.testing.assert_allclose(features.vectors[clip.key], compact.features(read_sound(clip.path)), rtol=1e-12)
    text = next(written.glob("Test_Audio/*.arff")).read_text()
    assert text.startswith(f"@relation {compact.EXTRACTOR}") and text.rstrip().endswith(",?")


def test_a_clip_says_its_expression_in_its_pictures(written):
    clip = next(c for c in find_clips(written)["train"] if c.label == "Surprise")
    frames = read_clip(clip.path, 32, fit="crop").astype(float)
    assert np.abs(frames[-1] - frames[0]).max() > 60


def digest(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.*")}


def test_the_same_seed_writes_the_same_bytes_with_any_number_of_workers(written, tmp_path):
    again = synthetic.write(tmp_path / "again", (2, 1, 1), seed=3, workers=3)
    assert digest(again) == digest(written) and len(set(digest(again).values())) == 56
    assert os.listdir(tmp_path) == ["again"]


def test_what_exists_is_left_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(DataError, match=f"{name}' exists already"):
            synthetic.write(tmp_path / name, (1, 1, 1))
    assert (tmp_path / "folder" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("counts", [(0, 1, 1), (1, 1), (1, 1, 1, 1), (1, 1.5, 1), (-3, 1, 1)])
def test_counts_that_make_no_data_set_are_refused(tmp_path, counts):
    with pytest.raises(DataError, match=r"clips_per_class is .*expected three whole numbers"):
        synthetic.write(tmp_path / "x", counts)
    assert not os.listdir(tmp_path)


def test_a_negative_seed_and_a_missing_parent_are_refused(tmp_path):
    with pytest.raises(DataError, match="seed is -1"):
        synthetic.write(tmp_path / "x", (1, 1, 1), seed=-1)
    with pytest.raises(OSError, match="No such file"):
        synthetic.write(tmp_path / "missing" / "x", (1, 1, 1))
    assert not os.listdir(tmp_path)


def test_an_error_half_way_leaves_nothing(tmp_path, monkeypatch):
    real, calls = synthetic.encode, []

    def failing(path, frames, sound):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(28, "No space left on device", str(path))
        real(path, frames, sound)

    monkeypatch.setattr(synthetic, "encode", failing)
    with pytest.raises(OSError, match="No space left on device"):
        synthetic.write(tmp_path / "x", (2, 1, 1), workers=2)
    assert len(calls) > 3 and not os.listdir(tmp_path)


SCRIPT = """
import sys
from emonet_scratch.data import synthetic, DataError
{before}
try:
    synthetic.write(sys.argv[1], (2, 1, 1), workers=1)
except DataError as error:
    print(error)
"""


def start(folder, before="", **options):
    script = SCRIPT.format(before=before).replace("synthetic, DataError", "synthetic\n"
                                                  "from emonet_scratch.errors import DataError")
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=Path(__file__).parents[1], text=True,
                            stdout=subprocess.PIPE, **options)


@pytest.mark.skipif(os.name != "posix", reason="limits and signals of POSIX")
def test_a_disk_that_takes_no_more_gives_one_line(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))"   # sounds fit, clips do not
    text, _ = start(tmp_path / "x", limit).communicate(timeout=60)
    assert text.count("\n") == 1 and ".avi': ffmpeg could not write it" in text
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="limits and signals of POSIX")
def test_a_killed_synthesis_is_not_taken_for_a_whole_one(tmp_path):
    process = start(tmp_path / "x")
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".x.*/*_AFEW/*/*.avi")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lock, unfinished = sorted(os.listdir(tmp_path))           # the next one removes both: tests/test_owners.py
    assert lock == ".x.lock" and unfinished.startswith(".x.part-")
