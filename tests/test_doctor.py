"""The doctor finds every mistake that is planted in a data set, and none in a clean one."""

import os
import shutil

import numpy as np
import pytest

from emonet_scratch.data import doctor
from emonet_scratch.data.afew import find_clips, load_features
from emonet_scratch.data.doctor import SHOWN, Report, examine
from emonet_scratch.data.opensmile import write_arff
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError
from tests.media import as_they_come, counter, tone, write_clip

NAMES = ("loudness", "pitch", "level")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Two clips of every class for training, one for validation, one for the test split, all different."""
    root = tmp_path_factory.mktemp("clean")
    rows = {"Train": [], "Val": [], "Test_vid_Distribute": []}
    places = [("Train", name, k) for name in CLASSES for k in (1, 2)]
    places += [("Val", name, 3) for name in CLASSES[:2]] + [("Test_vid_Distribute", "", 4)]
    for number, (split, name, k) in enumerate(places):
        path = root / split / name / f"{k:03}{CLASSES.index(name) if name else 9:06}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, frames=25 + k, number=number)
        rows[split].append((path.stem, name or None, [number, number ** .5, -7.5 if split == "Train" else number]))
    for split, lines in rows.items():
        write_arff(root / split / "features.arff", "r", NAMES, lines)
    return root


@pytest.fixture
def tree(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "AFEW")


def encode(path, frames=25, number=0, sound=True, width=48, codec="mpeg2"):
    """A small clip as AFEW has them, MPEG-2 and MP3 in .avi; its pictures and its tone tell it from the others."""
    blocks = np.random.default_rng(number).integers(0, 256, (frames, 4, 4, 3), np.uint8)
    pictures = blocks.repeat(8, axis=1).repeat(width // 4, axis=2)
    sound = tone(frames / 25, rate=16000, hz=200 + 30 * number) if sound else None
    return write_clip(path, pictures, codec, sound, rate=16000, sar="4/3")


def found(report, what):
    """The items of the one finding whose title holds these words; none where there is no such finding."""
    groups = [items for title, items in report.findings if what in title]
    assert len(groups) <= 1
    return groups[0] if groups else []


def test_a_clean_data_set(clean):
    report = examine(clean)
    assert report.findings == [] and report.problems == 0
    lines = report.lines()
    assert lines[0] == f"{str(clean)!r}: AFEW's layout, 17 clips" and lines[-1] == "problems found: 0"
    assert "train: 14 clips: " + ", ".join(f"{name} 2" for name in CLASSES) in lines
    assert "val: 2 clips: Angry 1, Disgust 1, Fear 0, Happy 0, Neutral 0, Sad 0, Surprise 0" in lines
    assert "test: 1 clips: without classes" in lines
    assert ("train: shortest, median, longest clip 1.04, 1.06, 1.08 seconds: 26, 26.5, 27 frames at 25 a second"
            in lines)
    assert "val: pictures 48x32 (shown as 64x32) in 2" in lines
    assert "features: 3 columns; train 14 of 14 clips, val 2 of 2 clips, test 1 of 1 clips" in lines
    assert "features: 1 columns are constant in train: 'level'" in lines


def test_every_planted_mistake_is_found(tree):
    train, val = tree / "Train", tree / "Val"
    (train / "Angry" / "a text.avi").write_text("no film")
    (train / "Angry" / "empty.avi").write_bytes(b"")
    (train / "Angry" / "gone.avi").symlink_to(tree / "nowhere")
    (train / "Fear" / "half.avi").write_bytes((train / "Fear" / "001000002.avi").read_bytes()[:500])
    encode(train / "Happy" / "mute.avi", sound=False, width=64)
    shutil.copy(train / "Sad" / "001000005.avi", val / "Disgust" / "leak.avi")
    shutil.copy(train / "Sad" / "001000005.avi", train / "Sad" / "again.avi")
    shutil.copy(train / "Sad" / "002000005.avi", train / "Sad" / "once more.avi")
    shutil.rmtree(train / "Surprise")
    (train / "Surprise").mkdir()
    (train / "Anger").mkdir()
    encode(train / "Anger" / "no\nclass.avi", number=50)
    encode(train / "Neutral" / "001000000.avi", number=51)
    os.makedirs(tree / "Train_Audio" / "Sad")
    for name, (row, label), vector in (
            ("mute", ("unknown", None), [1, np.nan, np.inf]), ("001000003", ("unknown", None), [1, 2, 3]),
            ("001000000", ("001000000", "Happy"), [1, 2, 3]), ("stranger", ("unknown", None), [1, 2, 3])):
        write_arff(tree / "Train_Audio" / f"{name}.arff", "r", NAMES, [(row, label, vector)])
    (tree / "Train_Audio" / "broken.arff").write_text("@relation r\n")
    write_arff(tree / "Train_Audio" / "again.arff", "r", ["x"], [("unknown", None, [1])])

    report = examine(tree)
    unreadable = found(report, "cannot be read")
    assert len(unreadable) == 4
    for name, reason in (("a text.avi", "no media file"), ("empty.avi", "empty"), ("gone.avi", "no such file"),
                         ("half.avi", "")):
        assert any(name in item and reason in item for item in unreadable)
    assert found(report, "without sound") == ["'Train/Happy/mute.avi'"]
    assert found(report, "content in several splits") == [
        "'Train/Sad/001000005.avi' = 'Train/Sad/again.avi' = 'Val/Disgust/leak.avi'"]
    assert found(report, "twice in one split") == ["'Train/Sad/002000005.avi' = 'Train/Sad/once more.avi'"]
    assert found(report, "not byte for byte") == []
    assert "train: no clip of Surprise" in report.facts
    place = " and ".join(found(report, "out of place"))
    assert "no\\nclass.avi" in place and "two clips with the id '001000000'" in place
    assert found(report, "several feature files") == [
        f"train '{id}': 'Train/features.arff', 'Train_Audio/{id}.arff'; the first is used"
        for id in ("001000000", "001000003")]
    other = found(report, "another class")
    assert len(other) == 1 and "says Happy" in other[0] and "says Angry" in other[0]
    rows = found(report, "rows without a clip")
    assert rows[0] == "'Train/features.arff', row '001000006'"
    assert "'Train_Audio/stranger.arff', row 'unknown'" in rows
    broken = found(report, "cannot be used")
    assert len(broken) == 2
    assert "again.arff' has 1 feature columns" in broken[0] and "broken.arff' line" in broken[1]
    assert len(found(report, "clips without features")) == 8
    assert found(report, "missing or infinite") == [f"{name!r}: in 1 of 16 clips, such as ('train', 'mute')"
                                                    for name in ("level", "pitch")][::-1]
    assert report.problems == sum(len(items) for _, items in report.findings)
    assert "train: pictures 48x32 (shown as 64x32) in 15, 64x32 (shown as 85x32) in 1" in report.lines()
    assert not any("\n" in line for line in report.lines())


def test_a_clip_cut_short_still_counts_but_is_noted(tree):
    (tree / "Train" / "Fear" / "001000002.avi").unlink()
    for name, codec in (("Train/Fear/001000002.mkv", "h264"), ("Val/Angry/x.avi", "mjpeg")):
        path = tree / name
        encode(path, frames=100, number=60, codec=codec)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3])
    items = found(examine(tree), "cut short")
    assert len(items) == 2
    assert items[0].startswith("'Train/Fear/001000002.mkv': 4.") and " seconds by its header, " in items[0]
    assert items[1].startswith(f"'Val/Angry/x.avi': {len(content) // 3} of {len(content)} bytes are there, 1.")


@pytest.mark.parametrize(("name", "codec", "sound_codec", "options"), [
    ("x.avi", "mpeg2", "mp3", []), ("x.mp4", "h264", "aac", []), ("x.mp4", "h264", "aac", ["-movflags", "faststart"]),
    ("x.mkv", "h264", "flac", []), ("x.mov", "mjpeg", "pcm", []), ("x.flv", "flv", "mp3", []),
    ("x.mpg", "mpeg2", "mp3", [])])
def test_sound_that_outlasts_the_pictures_is_no_cut_but_half_a_file_is(tmp_path, name, codec, sound_codec, options):
    """1 s of pictures and 3 s of sound; and the first half of the bytes, where the container says how much is gone."""
    pictures = np.random.default_rng(0).integers(0, 256, (25, 48, 64, 3), np.uint8)
    path = tmp_path / "Train" / "Angry" / name
    path.parent.mkdir(parents=True)
    write_clip(path, pictures, codec, tone(3), sound_codec, extra=options)
    report = examine(tmp_path)
    assert report.findings == [] and f"train: no clip of {', '.join(CLASSES[1:])}" in report.facts
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    report = examine(tmp_path)
    if name in ("x.mov", "x.mp4") and not options:            # the index is at the end: nothing can be read
        assert path.name in found(report, "cannot be read")[0]
    elif name != "x.mpg":                                    # made to be cut anywhere: nothing says how long it was
        assert path.name in found(report, "cut short")[0]


def test_a_clip_whose_pictures_and_sound_end_early_is_cut_short_and_real_ones_are_not(real_data, tmp_path):
    sources = [*(real_data / "crema_d").glob("*.flv"), *sorted((real_data / "java_sed").glob("*-0?-0?_01.mp4"))[::12]]
    folder = tmp_path / "Train" / "Angry"
    folder.mkdir(parents=True)
    for source in sources:
        shutil.copy(source, folder)
    assert len(sources) > 10 and found(examine(tmp_path), "cut short") == []
    content = sources[0].read_bytes()
    (folder / "cut.flv").write_bytes(content[:3 * len(content) // 4])
    items = found(examine(tmp_path), "cut short")
    assert len(items) == 1 and "cut.flv" in items[0]


def test_a_split_of_one_class(tree):
    shutil.rmtree(tree / "Val" / "Disgust")
    assert found(examine(tree, read=False), "one class") == []                # one clip: the counts say all there is to say
    shutil.copy(tree / "Val" / "Angry" / "003000000.avi", tree / "Val" / "Angry" / "more.avi")
    items = found(examine(tree, read=False), "one class")
    assert len(items) == 1 and items[0].startswith("val: all 2 clips are Angry")


def test_without_reading_only_the_tree_and_the_features_are_looked_at(tree):
    (tree / "Train" / "Angry" / "text.avi").write_text("no film")
    report = examine(tree, read=False)
    assert report.findings == [("clips without features", ["'Train/Angry/text.avi'"])]
    assert not any("seconds" in line or "pictures" in line for line in report.lines())


def test_no_feature_file_is_a_fact_not_a_mistake_of_every_clip(tree):
    for path in tree.rglob("*.arff"):
        path.unlink()
    report = examine(tree, read=False)
    assert report.problems == 0 and any("no feature file" in line for line in report.lines())


def test_features_of_no_clip_at_all(tree):
    for path in tree.rglob("*.arff"):
        path.unlink()
    write_arff(tree / "Train" / "other.arff", "r", NAMES, [("nobody", None, [1, 2, 3])])
    report = examine(tree, read=False)
    assert len(found(report, "rows without a clip")) == 1 and len(found(report, "clips without features")) == 17


def test_what_cannot_be_examined(tmp_path):
    with pytest.raises(DataError, match="nothing of that name"):
        examine(tmp_path / "absent")
    with pytest.raises(DataError, match="Train_AFEW"):
        examine(tmp_path)


def test_long_lists_are_cut_and_counted():
    report = Report(facts=["a"])
    report.add("none", [])
    report.add("many", map(str, range(SHOWN + 3)))
    assert report.problems == SHOWN + 3
    assert report.lines() == ["a", f"! many: {SHOWN + 3}", *(f"    {k}" for k in range(SHOWN)), "    and 3 more",
                              f"problems found: {SHOWN + 3}"]


def test_real_clips_as_a_tiny_data_set(real_data, tmp_path):
    codes = {"ANG": "Angry", "DIS": "Disgust", "FEA": "Fear", "HAP": "Happy", "NEU": "Neutral", "SAD": "Sad"}
    sources = sorted((real_data / "crema_d").glob("*.flv"))
    assert len(sources) == 6
    rng = np.random.default_rng(0)
    for source in sources:
        name = codes[source.stem.split("_")[2]]
        folder = tmp_path / "Train_AFEW" / name
        folder.mkdir(parents=True)
        shutil.copy(source, folder)
        write_arff(folder / f"{source.stem}.arff", "crema_d", NAMES, [("unknown", name, rng.standard_normal(3))])
    (tmp_path / "Val_AFEW" / "Angry").mkdir(parents=True)
    shutil.copy(sources[0], tmp_path / "Val_AFEW" / "Angry")
    clips = find_clips(tmp_path)
    assert [clip.label for clip in clips["train"]] == list(codes.values())
    features = load_features([tmp_path], [clip for split in clips.values() for clip in split])
    assert len(features.vectors) == 6 and not features.disagreements
    report = examine(tmp_path)
    lines = report.lines()
    assert "train: pictures 480x360 in 6" in lines
    assert found(report, "content in several splits") == [
        f"'Train_AFEW/Angry/{sources[0].name}' = 'Val_AFEW/Angry/{sources[0].name}'"]
    assert "train: no clip of Surprise" in report.facts and found(report, "not byte for byte") == []
    assert found(report, "clips without features") == [f"'Val_AFEW/Angry/{sources[0].name}'"]
    shared = found(report, "groups in several splits")                        # files that are named as of a known corpus
    assert len(shared) == 1 and "the group 'CREMA-D 1001' is in train and val" in shared[0]
    assert report.problems == 3, lines
    seconds = [float(word.strip(",")) for word in next(line for line in lines if "longest" in line).split()[5:8]]
    assert all(1.5 < length < 3.5 for length in seconds)


def test_a_pipe_and_time_stamps_that_leap_are_clips_that_cannot_be_read(tree, monkeypatch):
    monkeypatch.setattr(doctor, "LONGEST", 60)
    os.mkfifo(tree / "Train" / "Sad" / "pipe.avi")
    write_clip(tree / "Train" / "Sad" / "leap.mkv", counter(5, 32, 48), "ffv1", extra=[
        "-vf", "setpts='if(lt(N,4),N,4+25*7200)/25/TB'", *as_they_come()])
    leap, pipe = found(examine(tree), "cannot be read")
    assert "leap.mkv': more than 60 seconds" in leap and "pipe.avi': expected a regular file" in pipe
