"""What a data set is, in every form that it can have: classes, groups, splits and names of its clips."""

import dataclasses
from collections import Counter, defaultdict
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import cli
from emonet_scratch.data.batches import Split
from emonet_scratch.data.clips import collect
from emonet_scratch.data.doctor import examine
from emonet_scratch.data.prepare import prepare
from emonet_scratch.emotions import CLASSES
from emonet_scratch.training.settings import Settings
from tests.media import quadrants, tone, write_wav
from tests.test_afew import refused
from tests.tiny import TINY


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def ravdess(actors, emotions=range(1, 9)):
    return [f"Actor_{actor:02}/03-01-{emotion:02}-01-01-{take:02}-{actor:02}.wav"
            for actor, emotion, take in product(actors, emotions, (1, 2))]


def emodb(speakers):
    return [f"wav/{speaker:02}a{text:02}{letter}a.wav" for speaker, text, letter in product(speakers, (1, 2), "WLEAFTN")]


def table(folder, rows, name="clips.csv"):
    """Rows of (path, label, split, group), of files that are made."""
    touch(folder, *(row[0] for row in rows))
    path = folder / name
    path.write_text("path,label,split,group\n" + "".join(",".join(row) + "\n" for row in rows))
    return path


def splits_of(data):
    found = defaultdict(set)
    for clip in data.clips:
        found[clip.group].add(clip.split)
    return found


# ---- forms ----

def test_class_folders(tmp_path):
    touch(tmp_path, *(f"{name}/{k}.wav" for name in ("joy", "Грусть", "angry") for k in range(10)))
    data = collect([tmp_path])
    assert data.classes == ("Angry", "joy", "Грусть") and len(data.clips) == 30 and not data.problems
    assert Counter((clip.split, clip.label) for clip in data.clips) == {
        **{("train", name): 8 for name in data.classes}, **{("val", name): 2 for name in data.classes}}
    assert "a folder a class, 30 clips in 3 (angry, joy, Грусть)" in data.notes[0] and "not known" in data.notes[0]
    assert [data.classes[data.number(clip)] for clip in data.clips] == [clip.label for clip in data.clips]


def test_class_folders_in_folders_of_splits(tmp_path):
    touch(tmp_path, *(f"{split}/x/{name}/{k}.mp4" for split in ("training", "Val", "test") for name in "ab" for k in (1, 2)))
    data = collect([tmp_path])
    assert Counter((clip.split, clip.label) for clip in data.clips) == dict.fromkeys(
        product(("train", "val", "test"), "ab"), 2) and not data.drawn


@pytest.mark.parametrize("names", [["a.wav", "joy/b.wav", "joy/c.wav", "sad/d.wav"], ["joy/a.wav", "joy/b.wav"],
                                   ["one/a.wav", "two/b.wav", "three/c.wav"], ["a.wav"],
                                   ["joy/train/a.wav", "glee/train/b.wav"],
                                   [f"c{k}/{i}.wav" for k in range(101) for i in (1, 2)]])
def test_folders_that_say_nothing_are_refused_with_what_can_be_done(tmp_path, names):
    touch(tmp_path, *names)
    refused(lambda: collect([tmp_path]), repr(str(tmp_path)), f"{len(names)} files", "RAVDESS", "Train/Angry", "--name",
            "clips.csv: path,label,group")


def test_a_folder_without_clips_and_no_folder(tmp_path):
    refused(lambda: collect([tmp_path / "absent"]), repr(str(tmp_path / "absent")), "nothing of that name")
    refused(lambda: collect([tmp_path]), repr(str(tmp_path)))
    touch(tmp_path, "joy/a.txt", "joy/b.pdf")
    refused(lambda: collect([tmp_path]), repr(str(tmp_path)))
    refused(lambda: collect([tmp_path], name="{label}/{}"), repr(str(tmp_path)), "among 0 files")


def test_AFEW_layout_has_its_seven_classes(tmp_path):
    touch(tmp_path, "Train_AFEW/Angry/1.avi", "Train_AFEW/Sad/2.avi", "Val_AFEW/Sad/1.avi", "Test_AFEW/9.avi")
    data = collect([tmp_path])
    assert data.classes == CLASSES and [clip.key for clip in data.clips] == [("train", "1"), ("train", "2"), ("val", "1"),
                                                                            ("test", "9")]
    assert {clip.corpus for clip in data.clips} == {"AFEW"} and "AFEW's layout, 4 clips" in data.notes[0]
    assert collect([tmp_path], labels="sad=Glad").classes == ("Angry", "Glad")
    assert collect([tmp_path], labels="-sad", least=1).classes == ("Angry",)
    touch(tmp_path, "Train_AFEW/Wrath/3.avi")
    refused(lambda: collect([tmp_path]), "3.avi", "named after its class")
    assert len(collect([tmp_path], strict=False).problems) == 1


def test_a_test_split_alone_is_in_AFEW_layout(tmp_path):
    touch(tmp_path, "Test_AFEW/1.avi", "Test_AFEW/2.avi")
    data = collect([tmp_path])
    assert data.classes == CLASSES and [data.number(clip) for clip in data.clips] == [-1, -1]


def test_classes_beside_those_of_AFEW_need_the_pattern_that_the_error_names(tmp_path):
    names = product(("train", "val"), ("angry", "calm"), "12")
    touch(tmp_path, *(f"{split}/{name}/{name}{k}.mp4" for split, name, k in names))
    refused(lambda: collect([tmp_path]), "calm", "--name '{split}/{label}/{}'")
    assert collect([tmp_path], name="{split}/{label}/{}").classes == ("Angry", "calm")


def test_a_corpus_in_folders_of_splits_keeps_them(tmp_path):
    touch(tmp_path, *(f"Training/{name}" for name in ravdess((1, 3))), *(f"val/{name}" for name in ravdess((2,))))
    data = collect([tmp_path])
    assert splits_of(data) == {"RAVDESS 01": {"train"}, "RAVDESS 02": {"val"}, "RAVDESS 03": {"train"}}
    assert "RAVDESS" in data.notes[0] and not data.drawn


def test_other_files_of_a_corpus_are_problems_and_no_clips(tmp_path):
    touch(tmp_path, *ravdess((1, 2)), "Actor_01/cover.png", "notes.txt", "Actor_01/._03-01-01-01-01-01-01.wav")
    data = collect([tmp_path])
    assert len(data.clips) == 32 and len(data.problems) == 1 and "cover.png" in data.problems[0]
    assert "32 of 33 names fit" in data.notes[0] and data.problems[0] in str(examine(data, read=False).findings)


# ---- patterns ----

def test_a_pattern_says_what_names_mean(tmp_path):
    touch(tmp_path, *(f"x/{actor:02}-02-0{label}_{take}.mp4" for actor, label, take in product(range(8), (1, 2, 3), (1, 2))))
    touch(tmp_path, "intro.mp4")
    data = collect([tmp_path], labels="01=Neutral, 02=joy, -03", name="{group}-{}-{label}_{}")
    assert data.classes == ("joy", "Neutral") and len(data.clips) == 32
    assert splits_of(data).keys() == {f"{tmp_path.name} {actor:02}" for actor in range(8)}
    assert all(len(found) == 1 for found in splits_of(data).values())
    assert any("48 of 49 names fit" in note for note in data.notes) and "16 of 48 clips are left out" in data.notes[-1]
    assert len(data.problems) == 1 and "intro.mp4" in data.problems[0] and "{group}-{}-{label}_{}" in data.problems[0]


def test_a_pattern_goes_before_all_that_is_known(tmp_path):
    touch(tmp_path, *ravdess((1, 2)))
    data = collect([tmp_path], name="{}-{}-{}-{}-{}-{label}-{group}")                     # takes instead of emotions
    assert data.classes == ("01", "02") and "RAVDESS" not in data.notes[0]
    refused(lambda: collect([tmp_path], name="{}-{label}x"), "--name", "got none among 32 files", "03-01-01")


def test_splits_in_a_pattern(tmp_path):
    names = [f"{split}_{group}_{label}_{k}.wav" for split, group in (("Train", "ann"), ("val", "bob"), ("TEST", "cy"))
             for label in "ab" for k in (1, 2)]
    touch(tmp_path, *names)
    pattern = "{split}_{group}_{label}_{}"
    data = collect([tmp_path], name=pattern)
    assert {clip.group.split()[-1]: clip.split for clip in data.clips} == {"ann": "train", "bob": "val", "cy": "test"}
    touch(tmp_path, "dev_dan_a_1.wav")
    refused(lambda: collect([tmp_path], name=pattern), "dev_dan_a_1.wav", "names no split (train, val, test)")


@pytest.mark.parametrize("pattern", ["{group}_{}", "{emotion}", "{label}{label}"])
def test_a_pattern_that_is_wrong_is_named(tmp_path, pattern):
    touch(tmp_path, "a_b.wav")
    refused(lambda: collect([tmp_path], name=pattern), "--name", repr(pattern), "{label}")


# ---- mixtures ----

def test_a_mixture_of_two_corpora(tmp_path):
    touch(tmp_path / "one", *ravdess(range(1, 11)))
    touch(tmp_path / "two", *emodb((3, 8, 9, 10, 11)))
    sources = [tmp_path / "one", tmp_path / "two"]
    data = collect(sources)
    assert Counter(clip.corpus for clip in data.clips) == {"RAVDESS": 160, "EmoDB": 70} and data.roots == tuple(sources)
    assert data.classes == ("Angry", "Boredom", "Calm", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    groups = splits_of(data)
    assert "RAVDESS 03" in groups and "EmoDB 03" in groups and len(groups) == 15       # who are two people
    assert all(len(found) == 1 for found in groups.values())
    assert 0.1 < len(data.split("val")) / 230 < 0.3 and data.warnings == () and len(data.notes) == 2
    data = collect(sources, labels="calm=Neutral, 08=Fear, -boredom")
    assert len(data.classes) == 6 and "10 of 230 clips are left out" in data.notes[-1]


def test_a_mixture_of_everything(tmp_path):
    touch(tmp_path / "afew", "Train/Angry/1.avi", "Train/Sad/2.avi", "Val/Sad/1.avi", "Test/1.avi")
    touch(tmp_path / "own", *(f"{label}/{k}.wav" for label in ("joy", "SAD") for k in range(10)))
    rows = table(tmp_path / "t", [("x.wav", "Joy", "val", "ann"), ("y.wav", "angry", "train", "bob")])
    data = collect([tmp_path / "afew", tmp_path / "own", rows])
    assert data.classes == ("Angry", "joy", "Sad") and len(data.clips) == 26
    assert len({clip.key for clip in data.clips}) == 26
    assert {clip.corpus for clip in data.clips} == {"AFEW", "own", "clips"}
    assert collect([tmp_path / "afew", str(tmp_path / "afew")]).clips == collect([tmp_path / "afew"]).clips     # once


def test_folders_with_the_same_names_inside_are_told_apart(tmp_path):
    for root in ("lab", "field"):
        touch(tmp_path / root, *(f"{label}/{k}.wav" for label in ("joy", "sad") for k in range(3)))
    data = collect([tmp_path / "lab", tmp_path / "field"])
    assert len({clip.id for clip in data.clips}) == 12 and {clip.corpus for clip in data.clips} == {"lab", "field"}
    assert all("/" not in clip.id for clip in data.clips)


def test_here_is_called_after_the_folder(tmp_path, monkeypatch):
    root = touch(tmp_path / "mine", *(f"{label}/{k}.wav" for label in "ab" for k in (1, 2)))
    monkeypatch.chdir(root)
    assert {clip.corpus for clip in collect(["."]).clips} == {"mine"}


def test_ids_are_stems_where_these_are_unique_and_else_paths(tmp_path):
    touch(tmp_path / "unique", "joy/a.wav", "joy/b.wav", "sad/deep/../c.wav", "sad/d.wav")
    assert {clip.id for clip in collect([tmp_path / "unique"]).clips} == set("abcd")
    rows = [("ann/1.wav", "joy", "train", ""), ("bob/1.wav", "sad", "val", ""), ("x.wav", "joy", "train", "")]
    assert [clip.key for clip in collect([table(tmp_path, rows)]).clips] == [("train", "1"), ("train", "x"), ("val", "1")]
    rows[1:] = [("bob/1.wav", "sad", "train", ""), ("x.wav", "joy", "val", "")]
    assert [clip.id for clip in collect([table(tmp_path, rows)]).clips] == ["ann_1", "bob_1", "x"]
    refused(lambda: collect([table(tmp_path, [("a.wav", "joy", "val", ""), ("a.flac", "sad", "val", "")])]),
            "a.wav", "a.flac", "two clips with the name")


def test_an_id_without_a_split_cannot_meet_one_with_a_split(tmp_path):
    rows = [(f"ann/{k}.wav", "ab"[k % 2], "train", "ann") for k in range(10)]
    rows += [(f"{who}/{k}.wav", "ab"[k % 2], "", who) for who in ("bob", "cy", "dan") for k in range(10)]
    data = collect([table(tmp_path, rows)])
    assert len({clip.key for clip in data.clips}) == 40


# ---- groups and splits ----

@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.sampled_from(["", "", "train", "test"])), min_size=4,
                max_size=40))
def test_a_drawn_split_parts_no_group(tmp_path_factory, drawn):
    """Some of a group may have a split: the rest of it goes there."""
    given, rows = {}, [("val.wav", "a", "val", "speaker val")] * any(split == "train" for _, _, split in drawn)
    for k, (group, label, split) in enumerate(drawn):
        split = given.setdefault(group, split) and split                     # of one group at most one split is given
        rows.append((f"{k}.wav", "abc"[label], split, f"speaker {group}"))
    if len({row[1] for row in rows}) < 2:
        return
    data = collect([table(tmp_path_factory.mktemp("t"), rows)], allow_shared_groups=True)
    has = {row[0][:-4]: row[2] for row in rows}
    assert all(clip.split == has[clip.id] for clip in data.clips if has[clip.id])
    fixed = {row[3]: {r[2] for r in rows if r[3] == row[3] and r[2]} for row in rows}
    free = {row[3] for row in rows if not fixed[row[3]]}
    for group, found in splits_of(data).items():
        assert found == fixed[group] or (group in free and (len(found) == 1 or len(free) == 1)) or len(fixed[group]) > 1
    assert {w.split("'")[1] for w in data.warnings} == {group for group, found in splits_of(data).items() if len(found) > 1}


@given(st.integers(2, 12), st.integers(1, 6))
def test_a_fifth_of_the_groups_is_drawn(tmp_path_factory, groups, each):
    rows = [(f"{g}-{label}-{k}.wav", label, "", f"g{g}") for g in range(groups) for label in "ab" for k in range(each)]
    data = collect([table(tmp_path_factory.mktemp("t"), rows)])
    val = {clip.group for clip in data.split("val")}
    assert 1 <= len(val) <= max(1, -(-groups // 5)) and len(data.split("train")) > 0 and data.warnings == ()
    for name in val:
        assert name in data.drawn[0]
    assert f"{len(data.split('val'))} of {len(rows)} clips are the validation split" in data.drawn[0]


def test_of_two_speakers_the_one_with_more_clips_is_learnt_from(tmp_path):
    rows = [(f"{k}.wav", "xy"[k % 2], "", "ann" if k < 90 else "bob") for k in range(100)]
    assert {clip.group for clip in collect([table(tmp_path, rows)]).split("val")} == {"bob"}


def test_the_draw_is_the_same_for_every_seed_of_a_training(tmp_path):
    touch(tmp_path, *ravdess(range(1, 9)))
    settings = Settings((str(tmp_path),), TINY, ("audio",))
    assert settings.collection() == dataclasses.replace(settings, seed=5).collection() == collect([tmp_path])


SHARED = [("a.wav", "x", "train", "ann"), ("b.wav", "y", "val", "ann"), ("c.wav", "x", "train", "bob"),
          ("d.wav", "y", "test", "bob"), ("e.wav", "y", "train", "cy")]


def test_a_group_in_two_splits_is_refused_in_one_line_that_names_it(tmp_path):
    path = table(tmp_path, SHARED)
    refused(lambda: collect([path]), "'ann' is in train and val ('a', 'b')", "and so are 1 more", "--allow-shared-groups")
    data = collect([path], allow_shared_groups=True)
    assert len(data.warnings) == 2 and "'bob' is in train and test ('c', 'd')" in data.warnings[1]
    report = examine(data, read=False)
    assert [items for title, items in report.findings if "groups in several splits" in title] == [list(data.warnings)]
    assert len(collect([path], labels="-x", least=1).clips) == 3                          # nobody is shared any more


def test_a_group_of_two_tables_is_one(tmp_path):
    """train.csv and val.csv are one data set in two files: ann in both is the same ann."""
    one = table(tmp_path, [("a.wav", "x", "train", "ann"), ("b.wav", "y", "train", "bob")], "train.csv")
    two = table(tmp_path, [("c.wav", "x", "val", "ann"), ("d.wav", "y", "val", "cy")], "val.csv")
    refused(lambda: collect([one, two]), "'ann'")


def test_the_command_line_refuses_and_allows(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = table(tmp_path, SHARED)
    arguments = ["train", "--data", str(path), "--modalities", "audio", "--preset", "small", "--device", "cpu"]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("emonet: error: the group 'ann' is in train and val")
    assert cli.main([*arguments, "--allow-shared-groups"]) == 1                           # of files that hold one byte
    assert "the group" not in capsys.readouterr().err.strip().splitlines()[-1]


# ---- labels ----

def test_a_change_of_a_label_that_no_clip_has(tmp_path):
    """One text may serve several corpora, so what one of them lacks is said and no error, unless that is all of it."""
    touch(tmp_path, *ravdess((1, 2)))
    refused(lambda: collect([tmp_path], labels="calmm=Neutral, fearfull=Fear"), "'calmm', 'fearfull'", "they have: Angry,")
    data = collect([tmp_path], labels="calm=neutral, fearful=Fear, -contempt")
    assert "Calm" not in data.classes and "no clip has the label 'contempt', 'fearful'" in data.notes[-1]
    refused(lambda: collect([tmp_path], labels="-09"), "--labels", "'09'")
    refused(lambda: collect([tmp_path], labels="nonsense"), "--labels", "OLD=NEW")
    for most, words in ((7, "2 to 100 classes, got 1 (Surprise)"), (8, "got 0 (none)")):
        refused(lambda most=most: collect([tmp_path], labels=", ".join(f"-{k:02}" for k in range(1, most + 1))), words)


def test_a_class_that_the_data_lack_is_no_problem(tmp_path):
    touch(tmp_path, *ravdess((1, 2, 3), emotions=(1, 3, 5)))
    data = collect([tmp_path])
    assert data.classes == ("Angry", "Happy", "Neutral") and examine(data, read=False).problems == 0
    touch(tmp_path / "afew", "Train/Angry/1.avi", "Train/Sad/2.avi", "Val/Sad/3.avi")
    report = examine(tmp_path / "afew", read=False)
    assert report.problems == 0 and any("no clip of Disgust, Fear" in line for line in report.facts)


@pytest.mark.parametrize("option", [["--labels", "-calm"], ["--labels=-calm"], ["--labels", "-calm, 08=Fear"]])
def test_a_single_label_is_dropped_on_the_command_line(tmp_path, capsys, option):
    touch(tmp_path, *ravdess((1, 2, 3)))
    cli.main(["doctor", str(tmp_path), *option])
    said = capsys.readouterr()
    assert "of 48 clips are left out by their labels" in said.out and not said.err


# ---- sounds alone, pictures alone ----

@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    for k, (label, who) in enumerate(product(("joy", "grief"), range(4))):
        path = root / label / f"{who}.wav"
        path.parent.mkdir(exist_ok=True)
        write_wav(path, tone(0.3, 16000, 200 + 40 * k), 16000)
    return root


def test_sounds_alone_are_a_data_set(sounds):
    data = prepare(collect([sounds], name="{label}/{group}"), ("train", "val"), video=False, log=lambda line: None)
    train, val = data.splits["train"], data.splits["val"]
    assert len(train) + len(val) == 8 and train.classes == ("grief", "joy") and np.isfinite(train.audio).all()
    assert not set(train.groups) & set(val.groups)
    report = examine(collect([sounds]))
    assert report.problems == 0 and any("pictures none in" in line for line in report.facts), report.lines()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_pictures_alone_are_a_data_set(tmp_path, suffix):
    from PIL import Image
    for label, who in product(("joy", "sad"), range(3)):
        path = tmp_path / label / f"{who}{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(quadrants(1, 32, 48)[0] // (who + 1)).save(path)
    data = prepare(collect([tmp_path], name="{label}/{group}"), ("train", "val"), sound=False, frame_size=16,
                   log=lambda line: None)
    assert [len(frames) for split in data.splits.values() for frames in split.frames] == [1] * 6


def test_sounds_in_AFEW_layout_are_clips(tmp_path):
    touch(tmp_path, "Train/Angry/1.wav", "Train/Sad/2.flac", "Val/Sad/3.mp3")
    data = collect([tmp_path])
    assert [(clip.split, clip.label) for clip in data.clips] == [("train", "Angry"), ("train", "Sad"), ("val", "Sad")]
    assert data.classes == CLASSES


# ---- a network of other classes than the data ----

def measured(classes, labels, known):
    model = SimpleNamespace(classes=known)
    return cli._in_classes_of(model, Split([str(k) for k in range(len(labels))], np.array(labels), classes=classes))


def test_labels_become_numbers_of_the_networks_classes_and_the_rest_is_said(capsys):
    split = measured(("angry", "Joy", "Sad"), [0, 1, 2, -1, 1, 0], ("Angry", "Happy", "Sad", "Fear"))
    assert split.labels.tolist() == [0, -1, 2, -1, -1, 0] and split.classes == ("Angry", "Happy", "Sad", "Fear")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith("2 clips are of classes that the network does not know (Joy)")
    assert "--labels" in said[0] and said[1].startswith("no clip of Happy, Fear: nothing is said")


def test_of_the_same_classes_nothing_is_said(capsys):
    assert measured(("a", "B"), [1, 0, 1], ("A", "b")).labels.tolist() == [1, 0, 1] and capsys.readouterr().out == ""


def test_a_class_that_no_clip_of_the_split_has_is_not_named_as_unknown(capsys):
    assert measured(("a", "b", "c"), [0, 1], ("a", "b")).labels.tolist() == [0, 1]
    assert "c" not in capsys.readouterr().out.split()


def test_data_without_any_class(capsys):
    assert measured((), [-1, -1], ("a", "b")).labels.tolist() == [-1, -1]
    assert capsys.readouterr().out.startswith("no clip of a, b")


@given(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True),
       st.lists(st.sampled_from("ABCdef"), min_size=2, unique=True), st.data())
def test_a_label_keeps_its_name(classes, known, draw):
    labels = draw.draw(st.lists(st.integers(-1, len(classes) - 1), min_size=1, max_size=8))
    split = measured(tuple(classes), labels, tuple(known))
    for before, after in zip(labels, split.labels.tolist(), strict=True):
        name = None if before < 0 else classes[before]
        assert after == next((k for k, other in enumerate(known) if name and other.lower() == name), -1)


def test_a_data_set_of_training_and_test_clips_has_its_validation_split_drawn(tmp_path):
    """Which AFEW's layout has not: there a folder is missing."""
    rows = [(f"{who}/{k}.wav", "ab"[k % 2], "test" if who == "tom" else "train", who)
            for who in ("ann", "bob", "cy", "tom") for k in range(4)]
    data = collect([table(tmp_path, rows)])
    assert {clip.group for clip in data.split("test")} == {"tom"} and len({clip.group for clip in data.split("val")}) == 1
    assert "no split is given for validation: 4 of 12 clips" in data.drawn[0]
    alone = collect([table(tmp_path, [row for row in rows if row[3] == "ann"])])
    assert not alone.split("val") and not alone.drawn                          # of one speaker nobody is a stranger
    touch(tmp_path / "afew", *(f"Train/{name}/{name}{k}.wav" for name in ("Angry", "Sad") for k in range(4)))
    assert not collect([tmp_path / "afew"]).split("val")


def test_clips_of_a_known_corpus_in_folders_of_afew_keep_their_speakers(tmp_path):
    """A shell loop that sorts files by emotion may put one actor on both sides."""
    touch(tmp_path, *(f"{split}/{name}/{actor}-1-0{code}_1.wav" for split, actor in (("Train", 7), ("Train", 8), ("Val", 9))
                      for name, code in (("Angry", 6), ("Sad", 2))))
    data = collect([tmp_path])
    assert {clip.group for clip in data.clips} == {"Java-SED 7", "Java-SED 8", "Java-SED 9"}
    assert "AFEW's layout" in data.notes[0] and "Java-SED" in data.notes[1] and len(data.classes) == 7
    touch(tmp_path, "Val/Sad/7-2-02_1.wav")
    refused(lambda: collect([tmp_path]), "'Java-SED 7' is in train and val")


def test_the_same_bytes_are_on_one_side_when_a_split_is_drawn(tmp_path):
    """The same recording in two folders, or in a folder and a table, and nobody has named who it is."""
    for k in range(20):
        for copy in "ab":
            path = tmp_path / "xy"[k % 2] / f"{copy}{k}.wav"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes([k]) * 2000)
    data = collect([tmp_path])
    assert {clip.id[1:] for clip in data.split("val")}.isdisjoint({clip.id[1:] for clip in data.split("train")})
    assert len(data.split("val")) == 8


def test_groups_are_one_in_any_spelling_and_names_have_to_be_text(tmp_path):
    rows = [(f"{k}.wav", "ab"[k % 2], split, who) for k, (split, who) in enumerate(
        [("train", "Ann"), ("train", " ann "), ("train", "ANN"), ("val", "bob")])]
    assert {clip.group for clip in collect([table(tmp_path, rows)]).clips} == {"Ann", "bob"}
    touch(tmp_path / "bad", *(f"{name}/{k}.wav" for name in ("joy", "sa\x1bd") for k in range(2)))
    refused(lambda: collect([tmp_path / "bad"]), "text on one line in UTF-8")


def test_a_sound_is_no_table_and_windows_paths_are_found(tmp_path):
    touch(tmp_path, "a/1.wav", "a/2.wav", "b/3.wav", "b/4.wav")
    refused(lambda: collect([tmp_path / "a" / "1.wav"]), "got one clip")
    (tmp_path / "clips.csv").write_text("path,label\n" + "\n".join(f"{n}\\{k}.wav,{n}" for n, k in ("a1", "a2", "b3", "b4")))
    assert len(collect([tmp_path / "clips.csv"]).clips) == 4


def test_a_pattern_that_gives_every_clip_a_class_of_its_own_is_refused(tmp_path):
    touch(tmp_path, *(f"{k}.wav" for k in range(9)))
    refused(lambda: collect([tmp_path], name="{label}"), "several clips a class")
