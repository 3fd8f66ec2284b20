"""The AFEW tree: every layout that was distributed, every way in which a copy of it can be wrong."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data import afew
from emonet_scratch.data.afew import SPLITS, find_clips, load_features
from emonet_scratch.data.doctor import examine
from emonet_scratch.data.opensmile import write_arff
from emonet_scratch.data.predictions import write_predictions
from emonet_scratch.data.prepare import audio_vector, prepare
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError

TRAIN = (("000000001", "Angry"), ("000000002", "Happy"))
VAL, TEST = (("000000001", "Sad"),), (("000000009", None),)


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def arff(root, name, rows, names=("a", "b")):
    """Rows of (name, label, vector) as an ARFF file below root."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arff(path, "r", names, rows)
    return path


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def every(clips):
    return [clip for split in clips.values() for clip in split]


def keys(clips):
    return {split: [(clip.id, clip.label) for clip in clips[split]] for split in SPLITS}


@pytest.fixture
def tree(tmp_path):
    touch(tmp_path, "Train_AFEW/Angry/000000001.avi", "Train_AFEW/Happy/000000002.avi",
          "Val_AFEW/Sad/000000001.avi", "Test_vid_Distribute/000000009.avi")
    return tmp_path


def test_the_classes_are_in_alphabetical_order():
    assert list(CLASSES) == sorted(CLASSES) and len(CLASSES) == 7


@pytest.mark.parametrize("names", [
    ("Train_AFEW", "Val_AFEW", "Test_AFEW"),
    ("Train", "Val", "Test"),
    ("Train_AFEW_5_0", "Val_AFEW_5_0", "Test_AFEW_5_0"),
    ("train", "validation", "TEST"),
    ("AFEW-train-2018", "Validation_AFEW", "Test_vid_Distribute"),
    ("TrainAFEW", "ValidAFEW", "Test2018"),
    ("Train/Train", "Val/Val_AFEW", "Test_vid_Distribute/Test_vid_Distribute"),
    ("train_val_test/Train", "train_val_test/Val", "train_val_test/Test"),
    ("a/b/Training", "a/c d/Val 'x'\n", "testing/e"),
])
@pytest.mark.parametrize("fold", [str, str.lower, str.upper])
def test_every_layout(tmp_path, names, fold):
    for name, split in zip(names, (TRAIN, VAL, TEST), strict=True):
        touch(tmp_path, *(f"{name}/{fold(label) + '/' if label else ''}{id}.avi" for id, label in split))
    clips = find_clips(tmp_path)
    assert keys(clips) == {"train": list(TRAIN), "val": list(VAL), "test": list(TEST)}
    assert clips["val"][0].key == ("val", "000000001") and clips["val"][0].path.is_file()
    assert find_clips(str(tmp_path)) == clips


def test_the_innermost_folder_tells_split_and_class(tmp_path):
    touch(tmp_path, "Test copy/Happy/Train_AFEW/Angry/1.avi", "Sad/Val/Fear/2.avi",
          "Test copy/train and val/Sad/3.avi")
    clips = keys(find_clips(tmp_path))
    assert clips == {"train": [("1", "Angry")], "val": [("2", "Fear")], "test": [("3", "Sad")]}


@given(st.permutations(["c", "a", "e", "b", "d"]), st.sampled_from(["Angry", "sub/ANGRY", "Angry/sub"]))
def test_the_order_depends_on_the_ids_alone(tmp_path_factory, ids, layout):
    root = tmp_path_factory.mktemp("tree")
    for place, id in enumerate(ids):
        touch(root, f"Train/{'Sad' if id in 'ac' else layout}/{place if place else ''}/{id}.avi")
    assert [clip.id for clip in find_clips(root)["train"]] == ["a", "b", "c", "d", "e"]


def test_other_containers_and_ids_are_clips_and_other_files_are_not(tmp_path):
    names = ["1001_DFA_ANG_XX.flv", "-x.MP4", "a b.mkv", "'q\"\n.mov", "é.webm", "a.b.mpg", "n.AVI"]
    touch(tmp_path, *(f"Train/Fear/{name}" for name in names))
    touch(tmp_path, "Train/Fear/000000001.jpg", "Train/Fear/readme.txt", "Train/Fear/000000001.wav",
          "Other/x/1.avi")
    (tmp_path / "Train" / "Fear" / "folder.avi").mkdir()
    clips = find_clips(tmp_path)["train"]
    assert sorted(clip.path.name for clip in clips) == sorted(names)
    assert {clip.label for clip in clips} == {"Fear"}
    assert "a.b" in [clip.id for clip in clips]


def test_junk_of_macos_and_hidden_files_are_ignored(tree):
    before = find_clips(tree)
    touch(tree, "Train_AFEW/Angry/._000000001.avi", "__MACOSX/Train_AFEW/Sad/000000001.avi", ".git/Train/x.avi",
          "Train_AFEW/Angry/.DS_Store", "Train_AFEW/Angry/._000000001.arff",
          "__MACOSX/Train_AFEW/Sad/000000001.arff")
    assert find_clips(tree) == before
    assert load_features([tree], every(before)) is None


def test_links_are_followed_but_not_in_circles(tree, tmp_path_factory):
    before = keys(find_clips(tree))
    (tree / "Train_AFEW" / "Angry" / "up").symlink_to(tree / "Train_AFEW")
    (tree / "Train_AFEW" / "Angry" / "root").symlink_to(tree)
    (tree / "Train_AFEW" / "Angry" / "self").symlink_to(tree / "Train_AFEW" / "Angry" / "self")
    assert keys(find_clips(tree)) == before
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in os.listdir(tree):
        (elsewhere / name).symlink_to(tree / name)
    a, b = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    (a / "b").symlink_to(b)
    (b / "a").symlink_to(a)
    (elsewhere / "ring").symlink_to(a)
    (elsewhere / "Train again").symlink_to(tree / "Train_AFEW")              # a second way in counts nothing twice
    assert keys(find_clips(elsewhere)) == before


def test_a_folder_that_cannot_be_listed_is_named(tree, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("Happy"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="Happy"):                       # which is not the fault of the data
        find_clips(tree)


def test_a_root_without_splits(tmp_path):
    refused(lambda: find_clips(tmp_path / "absent\n"), repr(str(tmp_path / "absent\n")), "nothing of that name")
    refused(lambda: find_clips(tmp_path), "no folder", "Train_AFEW")
    touch(tmp_path, "Angry/1.avi", "Happy/2.avi", "trainer/3.avi", "train_test/4.avi")
    refused(lambda: find_clips(tmp_path), "'Angry', 'Happy', 'train_test', 'trainer'", "name the folder")
    refused(lambda: find_clips(tmp_path / "Angry" / "1.avi"), "expected a folder", "got a file")


def test_what_is_there_in_place_of_clips_is_named(tmp_path):
    touch(tmp_path, "Train/Angry.zip", "Train/a.txt", "Train/b.TXT")
    refused(lambda: find_clips(tmp_path), "Train'", "got 2 .txt, 1 .zip", "unpack", ".avi, .flv", "or sounds, or pictures")
    touch(tmp_path, "Train/Angry/1.wav")
    assert keys(find_clips(tmp_path))["train"] == [("1", "Angry")]


@pytest.mark.parametrize(("names", "clips"), [
    (["a.wav", "b.MP3", "c.txt", "a.csv", "a.arff"], ["a.wav", "b.MP3"]), (["a.jpg", "b.PNG", "c.txt"], ["a.jpg", "b.PNG"]),
    (["a.wav", "a.jpg", "b.jpg"], ["a.wav"]), (["a.avi", "b.wav", "c.jpg", "d.avi"], ["a.avi", "d.avi"])])
def test_clips_are_videos_else_sounds_else_pictures(tmp_path, names, clips):
    """Of each split, wherever in it they are: Train_Audio/b.wav belongs to Train_AFEW/a.avi; Val has kinds of its own."""
    touch(tmp_path, *(f"{folder}/Angry/{name}" for name in names for folder in [f"Train_{Path(name).suffix[1:]}", "Val"]))
    touch(tmp_path, "Test/x.flac", "Test/y.bmp", "Test/x.bmp")
    found = find_clips(tmp_path)
    assert [clip.path.name for clip in found["train"]] == [clip.path.name for clip in found["val"]] == clips
    assert {(clip.split, clip.label) for clip in found["train"] + found["val"]} == {("train", "Angry"), ("val", "Angry")}
    assert [clip.path.name for clip in found["test"]] == ["x.flac"]


def test_numbered_pictures_of_clips_are_to_be_joined(tmp_path):
    touch(tmp_path, *(f"Train/Angry/{clip}/{k}.jpg" for clip in "ab" for k in range(3)))
    refused(lambda: find_clips(tmp_path), "two clips with the id '0'", "ffmpeg -framerate 25 -i %d.jpg X.mp4", "and 2 more")


def test_a_root_one_level_too_low_or_without_splits_says_what_is_there(tmp_path):
    touch(tmp_path, "Train/Angry/1.avi", "Train/Sad/2.avi", "Actors/Actor_01/3.wav")
    refused(lambda: find_clips(tmp_path / "Train"), "'Angry', 'Sad' with 2 .avi", "name the folder above 'Train'")
    refused(lambda: find_clips(tmp_path / "Actors"), "'Actor_01' with 1 .wav", "such as Train/Angry and Val/Angry")


def test_an_empty_split_and_an_absent_one(tree):
    (tree / "Test_vid_Distribute" / "000000009.avi").unlink()
    refused(lambda: find_clips(tree), "Test_vid_Distribute'", "clips of the test split, got none")
    touch(tree, "Train_AFEW/Sad.avi")
    refused(lambda: find_clips(tree), "Sad.avi", "and 1 more")
    (tree / "Train_AFEW" / "Sad.avi").unlink()
    arff(tree, "Test_vid_Distribute/000000009.arff", [("x", None, [1, 2])])     # features alone are no empty split
    assert find_clips(tree)["test"] == []
    (tree / "Test_vid_Distribute" / "000000009.arff").unlink()
    (tree / "Test_vid_Distribute").rmdir()
    assert keys(find_clips(tree)) == {"train": list(TRAIN), "val": list(VAL), "test": []}


def test_a_training_clip_needs_a_class_and_a_test_clip_does_not(tree):
    touch(tree, "Val_AFEW/Anger/000000005.avi")
    refused(lambda: find_clips(tree), "000000005.avi", "val clip", "Angry, Disgust")
    clips, problems = afew.scan(tree)
    assert len(problems) == 1 and ("000000005", None) in keys(clips)["val"]
    (tree / "Val_AFEW" / "Anger" / "000000005.avi").unlink()
    touch(tree, "Test_vid_Distribute/fear/000000008.avi")
    assert keys(find_clips(tree))["test"] == [("000000008", "Fear"), ("000000009", None)]


@pytest.mark.parametrize("name", ["Train_AFEW/Happy/000000001.avi", "Train_AFEW/Angry/000000001.mp4",
                                  "Train_AFEW/Train_AFEW/Angry/000000001.avi"])
def test_one_id_twice_in_a_split_names_both(tree, name):
    touch(tree, name)
    both = [repr(str(tree / path)) for path in (name, "Train_AFEW/Angry/000000001.avi")]
    refused(lambda: find_clips(tree), *both, "two clips", "'000000001' in the train split")
    clips, problems = afew.scan(tree)
    assert len(problems) == 1 and [clip.id for clip in clips["train"]] == ["000000001", "000000002"]


def test_missing_classes(tree):
    assert afew.missing_classes(find_clips(tree)["train"]) == ["Disgust", "Fear", "Neutral", "Sad", "Surprise"]
    touch(tree, *(f"Train_AFEW/{name}/{name}.avi" for name in CLASSES))
    assert afew.missing_classes(find_clips(tree)["train"]) == []
    assert afew.missing_classes([]) == list(CLASSES)


def vectors(features):
    return {key: vector.tolist() for key, vector in features.vectors.items()}


EXPECTED = {("train", "000000001"): [1, 2], ("train", "000000002"): [3, 4], ("val", "000000001"): [5, 6],
            ("test", "000000009"): [7, 8]}


def test_no_feature_file_at_all(tree):
    touch(tree, "results.csv", "Train_AFEW/000000001.txt")              # a comma table is no openSMILE file
    (tree / "results.csv").write_text("id,class\n1,Sad\n")
    assert load_features([tree], every(find_clips(tree))) is None


@pytest.mark.parametrize("places", [
    ("Train_AFEW/Angry", "Train_AFEW/Happy", "Val_AFEW/Sad", "Test_vid_Distribute"),
    ("Train_Audio/Angry", "Train_Audio/Happy", "Val_Audio_features/SAD", "Test_audio/Test_audio"),
    ("Audio/Train/x", "Audio/Train/y", "Audio/Val", "Audio/Test"),
    ("Train_AFEW/LBPTOP/Angry", "Train_AFEW/LBPTOP/Happy", "val/deep/er", "features"),
])
@pytest.mark.parametrize("named", [lambda id: "unknown", lambda id: id, lambda id: f"/data/{id}.wav",
                                   lambda id: f"D:\\AFEW\\new\\{id}.avi", lambda id: None])
def test_one_file_a_clip_anywhere(tree, places, named):
    for place, ((_, id), vector) in zip(places, EXPECTED.items(), strict=True):
        arff(tree, f"{place}/{id}.arff", [(named(id), None, [9, 9]), (named(id), None, vector)])     # appended to
    features = load_features([tree], every(find_clips(tree)))
    assert vectors(features) == EXPECTED and features.names == ("a", "b")
    assert not (features.unmatched or features.duplicates or features.disagreements)
    assert all(vector.dtype == np.float64 for vector in features.vectors.values())


@pytest.mark.parametrize("files", [("train.arff", "Val_audio.arff", "Test.arff"),
                                   ("Train_Audio/all.arff", "Val_Audio/all.arff", "Test/Test/all.arff")])
def test_one_file_a_split(tree, files):
    for file, split in zip(files, SPLITS, strict=True):
        rows = [(id, None, vector) for (s, id), vector in EXPECTED.items() if s == split]
        arff(tree, file, [(f"{split}/{rows[0][0]}.wav", None, [0, 0]), *rows, ("no such clip", None, [0, 0])])
    features = load_features([tree], every(find_clips(tree)))
    assert vectors(features) == EXPECTED
    assert [(path.name, row) for path, row in features.unmatched] == sorted(
        (os.path.basename(file), "no such clip") for file in files)


LLD = ("name;frameTime;f0", [f"'{{}}';{k / 100};{k}" for k in range(50)])
SEGMENTS = ("file,start,end,f0", [f"x/{{}}.wav,0 days 00:00:0{k},0 days 00:00:0{k + 1},{k}" for k in range(3)])


@pytest.mark.parametrize(("table", "n"), [(LLD, 50), (SEGMENTS, 3)])
@pytest.mark.parametrize("together", [False, True])
def test_a_row_a_frame_is_no_vector_of_a_clip(tree, table, n, together):
    head, rows = table
    ids = ["000000001", "000000002"]
    files = {"all.csv": ids} if together else {f"{id}.csv": [id] for id in ids}
    for name, own in files.items():
        touch(tree, f"Train_Audio/{name}")
        (tree / "Train_Audio" / name).write_text("\n".join([head, *(row.format(id) for id in own for row in rows), ""]))
    clips, lines = find_clips(tree), []
    features = load_features([tree], every(clips), log=lines.append)
    assert len(lines) == 1 and f"{n} rows of clip '000000001'" in lines[0] and "and so of 1 more clips; not used" in lines[0]
    for clip in clips["train"]:
        refused(lambda clip=clip: audio_vector(clip, features), f"{n} rows of clip {clip.id!r}", "low-level")
    refused(lambda: prepare(tree, ("train",), video=False, on_error="stop", log=lines.append), "low-level")
    refused(lambda: prepare(tree, ("train",), video=False, log=lines.append), "none of the 2 clips")
    _, items = next(found for found in examine(tree, read=False).findings if "several rows" in found[0])
    assert len(items) == 2 and all("low-level" in item for item in items)


def test_several_rows_are_one_clip_whatever_their_names_look_like(tree):
    names = ["000000002", "000000002.wav", "D:\\new\\000000002.avi", "000000001"]
    path = arff(tree, "train.arff", [(name, None, [k, 1]) for k, name in enumerate(names)])
    features = load_features([tree], every(find_clips(tree)), log=lambda line: None)
    assert list(features.unclear) == [("train", "000000002")] and f"{str(path)!r} has 3 rows" in str(features.unclear)
    arff(tree, "train.arff", [(name, None, [7, np.nan]) for name in names])         # equal rows say one thing
    assert not load_features([tree], every(find_clips(tree))).unclear


def test_columns_that_are_no_features_are_told_by_the_doctor(tree):
    (tree / "train.csv").write_text(";file;start;end;f0\n0;000000001;0;1;2\n1;000000002;0;1;3\n")
    report = examine(tree, read=False)
    assert "features: columns that are none: 'index', 'start', 'end'" in report.facts
    assert any(line.startswith("features: 1 columns; train 2 of 2 clips") for line in report.facts)


def test_tables_that_are_none_of_features_are_said(tree):
    (tree / "Train_AFEW" / "labels.csv").write_text("file,emotion,arousal\n000000001,Sad,.3\n")
    write_predictions(tree / "out", ["000000001"], [0], np.full((1, 7), 1 / 7))
    (tree / "train.csv").write_text("file,start,end,f0\n000000001.wav,0 days 00:00:00,0 days 00:00:01,2\n")
    lines = []
    features = load_features([tree], every(find_clips(tree)), log=lines.append)
    assert vectors(features) == {("train", "000000001"): [2]} and features.names == ("f0",)
    assert len(lines) == 1 and "2 tables not taken for feature files" in lines[0] and "labels.csv" in lines[0]
    assert lines[0] in examine(tree, read=False).facts


@pytest.mark.parametrize("suffix", [".arff", ".csv"])
@pytest.mark.parametrize("row", [r"C:\clips\{}.wav", r"D:\{}.wav", r"D:\new\{}.wav", r"\\host\{}", r"..\{}.avi", "x/{}.wav"])
def test_paths_of_windows_name_their_clips(tmp_path, suffix, row):
    ids = ["angry_01", "neutral_01", "rest_01", "tom_01", "%_01"]
    touch(tmp_path, *(f"Train/Angry/{id}.avi" for id in ids))
    head = "@attribute name string\n@attribute f numeric\n@data\n" if suffix == ".arff" else "file,f_sma\n"
    (tmp_path / f"Train{suffix}").write_text(head + "".join(f"'{row.format(id)}',{k}\n" for k, id in enumerate(ids)))
    features = load_features([tmp_path], every(find_clips(tmp_path)))
    assert vectors(features) == {("train", id): [k] for k, id in enumerate(ids)}


COMPOSED, APART = "Zo\u00eb_1", "Zoe\u0308_1"


@pytest.mark.parametrize(("clip", "row"), [(COMPOSED, APART), (APART, COMPOSED), (APART, APART.upper()), ("a\nb", "a\nb")])
@pytest.mark.parametrize("file", ["{}.arff", "Train.arff"])
def test_names_are_compared_composed_and_shown_as_they_are(tmp_path, clip, row, file):
    touch(tmp_path, f"Train/Angry/{clip}.avi")
    arff(tmp_path, f"Train/{file.format(row)}", [(row, None, [1, 2])])
    clips = find_clips(tmp_path)
    assert vectors(load_features([tmp_path], every(clips))) == {("train", clip): [1, 2]} and clips["train"][0].id == clip


def test_names_that_are_one_when_composed(tmp_path):
    touch(tmp_path, *(f"Train/Angry/{name}.avi" for name in (COMPOSED, APART)))
    refused(lambda: find_clips(tmp_path), "two clips with the id")
    refused(lambda: write_predictions(tmp_path / "out", [COMPOSED, APART], [0, 0], np.zeros((2, 7))), "2 times")


def test_of_names_in_another_case_the_exact_one_is_meant(tmp_path):
    touch(tmp_path, "Train/Angry/a1.avi", "Train/Angry/A1.avi")
    arff(tmp_path, "Train/f.arff", [("A1.WAV", None, [1, 2]), ("a1.wav", None, [3, 4]), ("B1", None, [5, 6])])
    features = load_features([tmp_path], every(find_clips(tmp_path)))
    assert vectors(features) == {("train", "A1"): [1, 2], ("train", "a1"): [3, 4]} and len(features.unmatched) == 1


def test_opensmile_csv_beside_arff(tree):
    arff(tree, "Train_Audio/000000001.arff", [("unknown", None, [1, 2])], ("f0", "f1"))
    (tree / "Train_Audio" / "000000002.csv").write_text("name;frameTime;f0;f1\n'unknown';0.0;3;?\n")
    got = vectors(load_features([tree], every(find_clips(tree))))
    np.testing.assert_equal(got, {("train", "000000001"): [1, 2], ("train", "000000002"): [3, np.nan]})


def test_a_file_under_no_split_is_for_the_only_clip_of_that_id(tree):
    arff(tree, "Audio/000000002.arff", [("x", None, [1, 2])])
    arff(tree, "Audio/000000001.arff", [("x", None, [3, 4])])                 # in train and in val: for neither
    features = load_features([tree], every(find_clips(tree)))
    assert vectors(features) == {("train", "000000002"): [1, 2]}
    assert features.unmatched == [(tree / "Audio" / "000000001.arff", "x")]


def test_features_of_absent_clips_and_of_other_splits_match_nothing(tree):
    arff(tree, "Val_Audio/000000002.arff", [("000000002", None, [1, 2])])
    arff(tree, "Train_Audio/000000077.arff", [("unknown", None, [1, 2, 3])], "abc")
    features = load_features([tree], every(find_clips(tree)))
    assert features.vectors == {}
    assert [path.name for path, _ in features.unmatched] == ["000000077.arff", "000000002.arff"]


def test_several_files_for_a_clip(tree):
    first = arff(tree, "Train_A/000000001.arff", [("x", None, [1, 2])])
    second = arff(tree, "Train_B/all.arff", [("000000001", None, [3, 4])])
    lines = []
    features = load_features([tree], every(find_clips(tree)), log=lines.append)
    assert vectors(features) == {("train", "000000001"): [1, 2]} and not features.unclear
    assert len(lines) == 1 and "all.arff" in lines[0] and lines[0].endswith("the first is used")
    assert features.duplicates == {("train", "000000001"): [first, second]}


def test_different_columns_name_both_files(tree):
    first = arff(tree, "Train_Audio/000000001.arff", [("x", None, [1, 2])])
    second = arff(tree, "Train_Audio/000000002.arff", [("x", None, [1, 2, 3])], "abc")
    both = repr(str(first)), repr(str(second))
    refused(lambda: load_features([tree], every(find_clips(tree))), *both, "3 feature columns", "has 2")
    arff(tree, "Train_Audio/000000002.arff", [("x", None, [1, 2])], "ac")
    refused(lambda: load_features([tree], every(find_clips(tree))), *both, "'c' in column 2", "has 'b'")
    features = afew.scan_features([tree], every(find_clips(tree)))
    assert list(features.vectors) == [("train", "000000001")] and len(features.problems) == 1


def test_a_damaged_feature_file_stops_loading_and_is_counted(tree):
    for id in ("000000001", "000000002"):
        touch(tree, f"Train_Audio/{id}.arff")
    refused(lambda: load_features([tree], every(find_clips(tree))), "000000001.arff'", "and 1 more")


def test_a_table_that_cannot_be_read_is_named(tree, monkeypatch):
    touch(tree, "Train_Audio/000000001.csv")

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    monkeypatch.setattr("io.open", denied)
    monkeypatch.setattr(Path, "open", denied)                                 # Python 3.10 has io.open under another name
    with pytest.raises(PermissionError, match=r"000000001\.csv"):
        load_features([tree], every(find_clips(tree)))


def test_a_row_of_another_clip_is_refused(tree):
    arff(tree, "Train_Audio/000000001.arff", [("000000002", None, [1, 2])])
    refused(lambda: load_features([tree], every(find_clips(tree))), "000000001.arff", "a row of '000000002'")


@pytest.mark.parametrize(("folder", "label", "says"), [
    ("Happy", None, ["Happy", "Angry"]), ("x", "Sad", ["Sad", "Angry"]), ("angry", "Sad", None),
    ("x", "Angry", None), ("x", None, None)])
def test_a_feature_file_of_another_class_is_noted_and_the_clip_believed(tree, folder, label, says):
    arff(tree, f"Train_Audio/{folder}/000000001.arff", [("x", label, [1, 2])])
    clips = find_clips(tree)
    notes = load_features([tree], every(clips)).disagreements
    assert len(notes) == (says is not None) and clips["train"][0].label == "Angry"
    assert not says or all(word in notes[0] for word in (f"says {says[0]}", f"says {says[1]}", "000000001.avi"))
    arff(tree, "Test_audio/000000009.arff", [("x", "Sad", [1, 2])])      # no class, nothing to contradict
    assert len(load_features([tree], every(clips)).disagreements) == len(notes)


def test_predictions_as_the_challenge_wants_them(tmp_path):
    ids = ["000000009", "-a b", "it's, \"x\"\n", os.fsdecode(b"caf\xe9")]
    probabilities = np.eye(7)[[0, 3, 6, 2]] * .5 + .5 / 7
    write_predictions(tmp_path / "new" / "out", ids, [0, np.int64(3), "Surprise", 2], probabilities)
    out = tmp_path / "new" / "out"
    texts = {name: (out / f"{name}.txt").read_text() for name in ids}
    assert texts == dict(zip(ids, ["Angry\n", "Happy\n", "Surprise\n", "Fear\n"], strict=True))
    with open(out / "predictions.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        head, *rows = csv.reader(file)
    assert head == ["id", "class", *CLASSES] and [row[0] for row in rows] == ids
    assert [row[1] for row in rows] == ["Angry", "Happy", "Surprise", "Fear"]
    np.testing.assert_allclose(np.array([row[2:] for row in rows], float), probabilities, atol=1e-6)
    assert sorted(os.listdir(out)) == sorted([*(f"{id}.txt" for id in ids), "predictions.csv"])


@pytest.mark.parametrize(("ids", "labels", "shape", "word"), [
    (["a"], [0, 1], (1, 7), "got (2,)"), (["a"], [0], (1, 6), "(1, 6)"), (["a"], [7], (1, 7), "got 7"),
    (["a"], [np.int64(-1)], (1, 7), "got -1"), (["a"], ["Bored"], (1, 7), "'Bored'"),
    (["a", "a"], [0, 0], (2, 7), "'a' 2 times"), (["../a"], [0], (1, 7), "'../a'"),
    (["a\\b"], [0], (1, 7), "file"), ([""], [0], (1, 7), "''"), (["a\0"], [0], (1, 7), "file")])
def test_predictions_that_cannot_be_written(tmp_path, ids, labels, shape, word):
    refused(lambda: write_predictions(tmp_path / "out", ids, labels, np.zeros(shape)), word)
    assert os.listdir(tmp_path) == []


def test_predictions_into_a_place_that_refuses(tmp_path, monkeypatch):
    def full_disk(number):
        raise OSError(28, "No space left on device")

    touch(tmp_path, "file")
    refused(lambda: write_predictions(tmp_path / "file", ["a"], [0], np.zeros((1, 7))), "file'", "File exists")
    refused(lambda: write_predictions(tmp_path / "out", ["x" * 300], [0], np.zeros((1, 7))), "too long")
    assert os.listdir(tmp_path / "out") == []
    write_predictions(tmp_path / "out", ["a"], [0], np.zeros((1, 7)))
    monkeypatch.setattr(os, "fsync", full_disk)
    refused(lambda: write_predictions(tmp_path / "out", ["a"], [1], np.zeros((1, 7))), "a.txt'", "No space left")
    assert (tmp_path / "out" / "a.txt").read_text() == "Angry\n"
    assert sorted(os.listdir(tmp_path / "out")) == ["a.txt", "predictions.csv"]


def test_sounds_beside_feature_files_are_clips_that_have_them(tmp_path):
    for split, name in (("Train", "a"), ("Val", "b")):
        folder = tmp_path / split / "Angry"
        folder.mkdir(parents=True)
        (folder / f"{name}.wav").write_bytes(b"RIFF")
        (folder / f"{name}.csv").write_text(f"name;F0\n{name};1\n")
    clips = find_clips(tmp_path)
    assert keys(clips) == {"train": [("a", "Angry")], "val": [("b", "Angry")], "test": []}
    assert vectors(load_features([tmp_path], every(clips))) == {("train", "a"): [1], ("val", "b"): [1]}
