"""From a data set's folder to splits: every clip is used or accounted for."""

import numpy as np
import pytest

from emonet_scratch.data.clips import collect
from emonet_scratch.data.opensmile import write_arff
from emonet_scratch.data.prepare import prepare
from emonet_scratch.data.sound import is10
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError
from tests.media import counter, tone, write_clip

# What people have: AFEW's own encoding and others.
ENCODINGS = {
    "000000001.avi": dict(codec="mpeg2", sar="64/45", sound=tone(0.5)),
    "000000002.avi": dict(codec="mjpeg", sound=tone(0.5), sound_codec="pcm"),
    "000000003.mp4": dict(codec="h264", sound=np.stack([tone(0.5), tone(0.5, hz=300)], 1), sound_codec="aac"),
    "000000004.avi": dict(codec="ffv1", frames=counter(9, 33, 47), sound=tone(0.5)),
    "000000005.mp4": dict(codec="h264", fps=12, sound=tone(0.5), sound_codec="aac"),
}


def tree(root, clips=ENCODINGS, splits=("Train_AFEW", "Val_AFEW"), label="Happy"):
    for split in splits:
        folder = root / split / label
        folder.mkdir(parents=True)
        for name, options in clips.items():
            write_clip(folder / name, **options)
    return root


def arffs(root, D=4, skip=(), nan=()):
    rng = np.random.default_rng(0)
    for clip in sorted(root.glob("*/*/*.*")):
        if clip.name not in skip:
            vector = rng.standard_normal(D)
            vector[1] = np.nan if clip.name in nan else vector[1]
            write_arff(clip.with_suffix(".arff"), "r", [f"f{k}" for k in range(D)], [(clip.stem, "Happy", vector)])
    return root


@pytest.fixture(scope="module")
def encodings(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("encodings"))


def test_all_encodings_are_read_with_features_from_their_sound(encodings, tmp_path):
    lines = []
    data = prepare(encodings, frame_size=24, cache=tmp_path / "cache", log=lines.append)
    train = data.splits["train"]
    assert train.ids == [name[:9] for name in ENCODINGS] and not data.skipped
    assert all(f.shape[1:] == (24, 24, 3) and f.dtype == np.uint8 for f in train.frames)
    assert len(train.frames[4]) == pytest.approx(25, abs=1)                   # 12 frames at 12 a second are a second
    assert train.audio.shape == (5, len(is10.FEATURE_NAMES)) and np.isfinite(train.audio).all()
    assert data.feature_names == is10.FEATURE_NAMES and set(train.labels) == {CLASSES.index("Happy")}
    assert any("computing" in line for line in lines)
    again = prepare(encodings, frame_size=24, cache=tmp_path / "cache", log=lines.append).splits["train"]
    assert all(np.array_equal(a, b) for a, b in zip(train.frames, again.frames, strict=True))


def test_feature_files_are_preferred_to_sound(tmp_path):
    root = arffs(tree(tmp_path, {"000000001.avi": dict(sound=tone(0.5))}))
    data = prepare(root, frame_size=16, log=lambda line: None)
    assert data.feature_names == ("f0", "f1", "f2", "f3") and data.splits["val"].audio.shape == (1, 4)


def test_every_clip_that_is_left_out_is_named_and_counted(tmp_path):
    clips = {f"00000000{k}.avi": dict(sound=tone(0.3)) for k in range(5)}
    root = arffs(tree(tmp_path, clips), skip=["000000001.avi"], nan=["000000002.avi"])
    (root / "Train_AFEW" / "Happy" / "000000003.avi").write_bytes(b"this is no clip\n" * 40)
    lines = []
    data = prepare(root, frame_size=16, log=lines.append)
    left_out = [line for line in lines if line.startswith("left out: ")]
    train = data.splits["train"]
    assert train.ids == [f"00000000{k}" for k in (0, 1, 2, 4)] and len(data.splits["val"]) == 5
    assert np.isnan(train.audio).all(axis=1).tolist() == [False, True, True, False]          # a bad vector is a missing one
    assert len(left_out) == len(data.skipped) == 1 and "000000003.avi" in left_out[0]
    text = "\n".join(line for line in lines if line.startswith("without sound: "))
    assert text.count("has no audio vector in the feature files") == text.count("no number for the feature 'f1'") == 2
    assert lines[-2:] == ["1 of 10 clips were left out",
                          "4 of 10 clips have no sound or vector that can be read: their audio vectors are missing"]
    heard = prepare(root, video=False, log=lines.append)                      # nothing is left of such a clip
    assert heard.splits["train"].ids == [f"00000000{k}" for k in (0, 3, 4)] and lines[-1] == "4 of 10 clips were left out"
    with pytest.raises(DataError, match=r"000000001\.avi.*has no audio vector"):
        prepare(root, frame_size=16, log=lines.append, on_error="stop")


def test_a_damaged_feature_file_is_named_and_costs_its_clip_alone(tmp_path):
    clips = {f"00000000{k}.avi": dict(sound=tone(0.3)) for k in range(3)}
    root = arffs(tree(tmp_path, clips, splits=("Train_AFEW", "Val_AFEW", "Test_AFEW")))
    damaged = [root / split / "Happy" / "000000001.arff" for split in ("Train_AFEW", "Test_AFEW")]
    for file in damaged:
        file.write_bytes(file.read_bytes()[:200])
    lines = []
    data = prepare(root, frame_size=16, log=lines.append)
    assert np.isnan(data.splits["train"].audio).all(axis=1).tolist() == [False, True, False] and len(data.splits["val"]) == 3
    files = [line for line in lines if line.startswith("feature file left out: ")]
    assert len(files) == 1 and repr(str(damaged[0])) in files[0] and "1 of 6 clips have no" in lines[-1]
    with pytest.raises(DataError, match=r"Train_AFEW.*000000001\.arff"):
        prepare(root, frame_size=16, on_error="stop", log=lines.append)
    val = prepare(root, ["val"], frame_size=16, on_error="stop", log=lines.append)   # what is not asked for is not read
    assert len(val.splits["val"]) == 3
    other = root / "Val_AFEW" / "Happy" / "000000002.arff"
    write_arff(other, "r", ["f0", "g"], [("000000002", "Happy", [0, 1])])
    with pytest.raises(DataError, match="2 feature columns"):
        prepare(root, frame_size=16, log=lines.append)


def test_one_table_for_all_splits_serves_each(tmp_path):
    """A file that names no split is matched against all clips, whatever splits are asked for."""
    root = tree(tmp_path, {"1.avi": dict(sound=tone(0.3))}, splits=["Train"])
    tree(tmp_path, {"2.avi": dict(sound=tone(0.3))}, splits=["Val"])
    write_arff(root / "all.arff", "r", ["f"], [("1", "Happy", [1.0]), ("2", "Happy", [2.0])])
    assert prepare(root, ["val"], frame_size=16, log=lambda line: None).splits["val"].audio.tolist() == [[2.0]]


def test_a_clip_without_sound_serves_video_but_not_audio(tmp_path):
    root = tree(tmp_path, {"000000001.avi": dict(sound=tone(0.5)), "000000002.avi": {}})
    lines = []
    both = prepare(root, frame_size=16, log=lines.append).splits["train"]
    assert np.isnan(both.audio).all(axis=1).tolist() == [False, True]
    assert len(prepare(root, video=False, log=lines.append).splits["train"]) == 1
    assert any("has no sound track, and there are no feature files" in line for line in lines)
    assert len(prepare(root, frame_size=16, sound=False, log=lines.append).splits["train"]) == 2


def test_audio_alone_decodes_no_frames(tmp_path):
    root = arffs(tree(tmp_path, {"000000001.avi": {}}))
    for clip in root.glob("*/*/*.avi"):
        clip.write_bytes(b"not even a clip")
    data = prepare(root, video=False, log=lambda line: None)
    assert data.splits["train"].frames is None and data.splits["train"].audio.shape == (1, 4)


def test_a_split_without_clips_is_named(tmp_path):
    with pytest.raises(DataError, match="expected clips of the val split, got none"):
        prepare(tree(tmp_path, {"000000001.avi": {}}, splits=["Train"]), log=lambda line: None)


def test_a_split_of_which_nothing_can_be_used_is_named(tmp_path):
    root = tree(tmp_path, {"000000001.avi": {}})
    with pytest.raises(DataError, match="none of the 1 clips of the train split can be used"):
        prepare(root, video=False, log=lambda line: None)
    with pytest.raises(ValueError, match="on_error must be"):
        prepare(root, on_error="ignore")


def test_test_clips_need_no_label(tmp_path):
    (tmp_path / "Test_vid_Distribute" / "Test_vid_Distribute").mkdir(parents=True)
    write_clip(tmp_path / "Test_vid_Distribute" / "Test_vid_Distribute" / "000000009.avi", sound=tone(0.5))
    data = prepare(tmp_path, ["test"], frame_size=16, log=lambda line: None)
    assert data.splits["test"].ids == ["000000009"] and data.splits["test"].labels.tolist() == [-1]


def test_real_clips(real_data, tmp_path):
    """Six real recordings, laid out as AFEW, twice decoded: from the clips and from the cache."""
    names = {"ANG": "Angry", "DIS": "Disgust", "FEA": "Fear", "HAP": "Happy", "NEU": "Neutral", "SAD": "Sad"}
    for clip in (real_data / "crema_d").glob("*.flv"):
        for split in ("Train", "Val"):
            folder = tmp_path / split / names[clip.stem.split("_")[2]]
            folder.mkdir(parents=True)
            (folder / clip.name).symlink_to(clip)
    data = collect([tmp_path], allow_shared_groups=True)                      # one actor
    one, two = (prepare(data, frame_size=32, cache=tmp_path / "cache", log=lambda line: None) for _ in range(2))
    assert sorted(one.splits["train"].labels) == [0, 1, 2, 3, 4, 5] and not one.skipped
    for a, b in zip(one.splits["train"].frames, two.splits["val"].frames, strict=True):
        assert np.array_equal(a, b) and len(a) > 25
    assert np.isfinite(one.splits["train"].audio).all()
