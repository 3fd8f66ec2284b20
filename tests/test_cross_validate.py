"""Folds of whole groups: nobody is on both sides, every clip is tested once, and what is done is not done again."""

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from emonet_scratch import files
from emonet_scratch.data.opensmile import write_arff
from emonet_scratch.errors import DataError
from emonet_scratch.shards import Alone
from emonet_scratch.studies import cross_validate as module
from emonet_scratch.studies.cross_validate import cross_validate, everything, pooled
from emonet_scratch.training import Settings
from emonet_scratch.training.metrics import bootstrap_interval, unweighted_recall
from tests.media import tone, write_wav
from tests.tiny import TINY

CLASSES = ("calm", "злой", "веселье")
SPEAKERS = 7


def build(root, leak=0.0, clear=3.0, of_each=3):
    """A table of sounds with vectors: seven speakers, three classes; of a clip's class its vector says `clear`.

    With a leak every speaker says one class, mostly, and has a voice of their own in the vector.
    """
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    rows = [["path", "label", "group", "features"]]
    write_wav(root / "one.wav", tone(0.05))
    voice = rng.standard_normal((SPEAKERS, 12))
    for speaker in range(SPEAKERS):
        for i in range(3 * of_each):
            k = speaker % 3 if leak and i else i % 3
            name = f"{speaker}-{i}"
            (root / f"{name}.wav").write_bytes((root / "one.wav").read_bytes() + bytes([speaker, i]))
            vector = rng.standard_normal(12) + clear * np.eye(12)[k] + leak * voice[speaker]
            write_arff(root / f"{name}.arff", "r", [f"f{j}" for j in range(12)], [(name, None, vector)])
            rows.append([f"{name}.wav", CLASSES[k], f"speaker {speaker}", f"{name}.arff"])
    (root / "one.wav").unlink()
    with open(root / "clips.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root / "clips.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return build(tmp_path_factory.mktemp("speakers"))


def settings_of(table, **changes):
    return Settings((str(table),), TINY.replace(epochs=3, audio_shortcut=True), ("audio",), device="cpu", **changes)


@pytest.fixture(scope="module")
def done(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    cross_validate(settings_of(table), folder, 3, lambda line: None)
    return folder


def folds_of(folder):
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("fold-*.json"))]


def test_every_clip_is_tested_once_and_nobody_is_on_both_sides(done, table):
    _, split = everything(settings_of(table), lambda line: None)
    folds = folds_of(done)
    assert sorted(id for fold in folds for id in fold["ids"]) == sorted(split.ids) and len(split) == 9 * SPEAKERS
    names = [set(fold["groups"]) for fold in folds]
    assert sum(map(len, names)) == len(set.union(*names)) == SPEAKERS
    for k, names_out in enumerate(names):                                     # nor in what chooses epoch and temperature
        meta = json.loads((done / f"fold-{k:03}" / "audio" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
        assert meta["epoch"] == 1 and names_out


def test_the_table_is_made_of_what_was_said(done):
    folds, found = folds_of(done), json.loads((done / "crossvalidation.json").read_text(encoding="utf-8"))["audio"]
    labels = np.concatenate([fold["labels"] for fold in folds])
    p = np.concatenate([fold["probabilities"]["audio"] for fold in folds])
    names = np.concatenate([fold["groups"] for fold in folds])
    right = p.argmax(axis=1) == labels
    assert found["accuracy"] == right.mean() > 0.6 and found["classes"] == sorted(CLASSES)
    assert found["group"] == {name: [9, right[names == name].mean()] for name in sorted(set(names))}
    assert found["corpus"] == {"clips": [63, right.mean()]} and found["unnamed"] == 0
    assert found["group"][found["worst"]][1] == min(right[names == name].mean() for name in names)
    assert found["recall"] == pytest.approx(unweighted_recall(np.array(found["confusion"])))
    assert tuple(found["interval"]) == bootstrap_interval(right, names)
    text = (done / "crossvalidation.txt").read_text(encoding="utf-8")
    assert f"{right.mean():.3f}" in text and found["worst"] in text and "63 clips of 7 groups" in text
    assert {path.name for path in done.glob("*.png")} == {"confusion.png", "reliability.png"}
    with open(done / "crossvalidation.csv", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + SPEAKERS + 1


def test_speakers_who_say_one_thing_each_are_not_recognised_by_their_voices(tmp_path):
    """Folds of clips would call this network good: it knows who speaks, and so what they say. Strangers are guessed."""
    settings = settings_of(build(tmp_path / "leak", leak=3.0, clear=0.0))
    _, split = everything(settings, lambda line: None)
    cross_validate(settings, tmp_path / "groups", None, lambda line: None)
    strangers = pooled(folds_of(tmp_path / "groups"), "audio")["accuracy"]
    nearest = ((split.audio[:, None] - split.audio) ** 2).sum(axis=2) + np.diag(np.full(len(split), np.inf))
    acquainted = (split.labels[nearest.argmin(axis=1)] == split.labels).mean()
    assert acquainted > 0.7 and strangers < 0.5


def test_one_group_is_one_fold_and_runs_of_the_same_folds_are_the_same(table, tmp_path):
    for name in ("a", "b"):
        cross_validate(settings_of(table), tmp_path / name, None, lambda line: None)
    folds = folds_of(tmp_path / "a")
    assert [set(fold["groups"]) for fold in folds] == [{f"speaker {k}"} for k in range(SPEAKERS)]
    assert folds == folds_of(tmp_path / "b")


def test_what_is_done_is_not_done_again(done, table, tmp_path, monkeypatch):
    for path in done.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "fold-001.json").unlink()
    trained, train = [], module.train_network
    monkeypatch.setattr(module, "train_network", lambda *a: trained.append(a[3].parent.name) or train(*a))
    cross_validate(settings_of(table), tmp_path, 3, lambda line: None)
    assert trained == ["fold-001"] and folds_of(tmp_path) == folds_of(done)
    assert (tmp_path / "crossvalidation.json").read_bytes() == (done / "crossvalidation.json").read_bytes()


def test_other_settings_do_not_go_on_with_it(done, table):
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    for settings, folds, what in ((settings_of(table, seed=1), 3, "seed"), (settings_of(table), 4, "folds")):
        with pytest.raises(DataError, match=f"with other {what}: give the same settings to go on, or another --out"):
            cross_validate(settings, done, folds, lambda line: None)
    assert before == {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kept, folds, wanted", [(2, 3, "at least 3 groups, got 2"), (2, None, "at least 3 groups, got 2"),
                                                 (4, 5, "at least 5 groups, got 4")])
def test_too_few_groups_are_one_line(table, tmp_path, kept, folds, wanted):
    rows = table.read_text(encoding="utf-8").splitlines()
    few = table.with_name(f"few{kept}.csv")
    few.write_text("\n".join([rows[0], *(row for row in rows[1:] if int(row[0]) < kept)]), encoding="utf-8")
    with pytest.raises(DataError, match=wanted):
        cross_validate(settings_of(few), tmp_path / "folds", folds, lambda line: None)
    assert not (tmp_path / "folds").exists()


def command(table, folder, *more):
    return [sys.executable, "-m", "emonet_scratch", "cross-validate", str(table), "--out", str(folder),
            "--leave-one-group-out", "--device", "cpu", "--preset", "small", "--epochs", "12", "--runs",
            str(folder.parent), *more]


def start(*arguments):
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_share_the_folds_and_one_that_is_killed_is_gone_on_with(table, tmp_path):
    """Two at a time; one is killed in the middle of a fold; in the end all is as if one had done it."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert subprocess.run(command(table, alone), capture_output=True, timeout=300).returncode == 0
    both = [start(table, shared) for _ in range(2)]
    deadline = time.monotonic() + 200
    while not list(shared.glob("fold-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    both[0].send_signal(signal.SIGKILL)
    _, errors = both[1].communicate(timeout=300)
    both[0].communicate()
    assert both[1].returncode == 0 and "Traceback" not in errors
    assert folds_of(shared) == folds_of(alone) and not list(shared.glob("*.lock"))
    assert (shared / "crossvalidation.txt").read_bytes() == (alone / "crossvalidation.txt").read_bytes()


def test_ranks_without_locks_have_folds_of_their_own(table, tmp_path, monkeypatch, done):
    """Two ranks, one after the other; no file can be locked: nobody trains what is the other's."""
    monkeypatch.setattr(files, "fcntl", None)
    trained, fold = [], module._fold

    class Rank(Alone):
        size = 2

    def noted(*arguments):
        trained.append(arguments[5].name)
        return fold(*arguments)
    monkeypatch.setattr(module, "_fold", noted)
    for rank in (1, 0):
        ranks = Rank()
        ranks.rank = rank
        cross_validate(settings_of(table), tmp_path, 3, lambda line: None, ranks)
    assert trained == ["fold-001", "fold-002", "fold-000"]
    assert folds_of(tmp_path) == folds_of(done)


def test_the_command_line(table, tmp_path, capsys):
    from emonet_scratch.cli import main
    arguments = ["cross-validate", str(table), "--folds", "3", "--device", "cpu", "--preset", "small", "--epochs", "1",
                 "--runs", str(tmp_path)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "the clips are sounds alone" in said and "95 % interval" in said and "worst group" in said
    assert (tmp_path / "cross-validation-clips" / "crossvalidation.json").exists()
    assert main([*arguments, "--seed", "1"]) == 1 and "with other seed" in capsys.readouterr().err
    assert main(["cross-validate", str(tmp_path / "nothing"), "--runs", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_groups_that_share_splits_are_no_matter(tmp_path):
    """A table may have splits for other purposes: folds keep groups whole in any case."""
    path = build(tmp_path / "splits")
    rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([f"{rows[0]},split", *(f"{row},{('train', 'val')[i % 2]}" for i, row in enumerate(rows[1:]))]),
                    encoding="utf-8")
    settings = settings_of(path)
    with pytest.raises(DataError, match="the group 'speaker 0' is in"):
        settings.collection()
    cross_validate(replace(settings, config=TINY.replace(epochs=1)), tmp_path / "folds", 3, lambda line: None)


def test_a_mixture_has_its_corpora_side_by_side(tmp_path):
    one, two = build(tmp_path / "one"), build(tmp_path / "two")
    two = two.rename(two.with_name("others.csv"))
    text = two.read_text(encoding="utf-8").replace("speaker", "other")
    two.write_text(text, encoding="utf-8")
    settings = replace(settings_of(one), data=(str(one), str(two)))
    text = cross_validate(settings, tmp_path / "folds", 3, lambda line: None)
    found = json.loads((tmp_path / "folds" / "crossvalidation.json").read_text(encoding="utf-8"))["audio"]
    assert {name: n for name, (n, _) in found["corpus"].items()} == {"clips": 63, "others": 63}
    assert f"accuracy by corpus: clips {found['corpus']['clips'][1]:.3f}, others" in text


def test_where_no_group_is_named_this_is_said(table, tmp_path):
    rows = [row.split(",") for row in table.read_text(encoding="utf-8").splitlines()]
    path = table.with_name("nobody.csv")
    path.write_text("\n".join(",".join([row[0], row[1], row[3]]) for row in rows), encoding="utf-8")
    text = cross_validate(settings_of(path), tmp_path, 3, lambda line: None)
    assert "Of 63 clips no group is named" in text and "not known" in text and "worst" in text


def test_a_table_that_was_corrected_does_not_go_on_with_old_folds(tmp_path):
    """Names are the same, but who speaks and what they say is not."""
    path = build(tmp_path / "data")
    settings = settings_of(path)
    cross_validate(settings, tmp_path / "folds", 3, lambda line: None)
    rows = path.read_text(encoding="utf-8").splitlines()
    for old, new in (("speaker 1", "speaker 2"), ("calm", "злой")):
        path.write_text("\n".join([rows[0], *(row.replace(old, new) if k < 20 else row for k, row in enumerate(rows[1:]))]),
                        encoding="utf-8")
        with pytest.raises(DataError, match=r"with other (content|groups)"):
            cross_validate(settings, tmp_path / "folds", 3, lambda line: None)


def test_leave_one_out_wants_names_and_two_folds_of_three_are_too_few(table, tmp_path):
    rows = [row.split(",") for row in table.read_text(encoding="utf-8").splitlines()]
    path = table.with_name("noname.csv")
    path.write_text("\n".join(",".join([row[0], row[1], row[3]]) for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match="no group is named"):
        cross_validate(settings_of(path), tmp_path / "a", None, lambda line: None)
    path.write_text("\n".join(",".join(row) for row in [rows[0], *(row for row in rows[1:] if row[0][0] in "012")]),
                    encoding="utf-8")
    with pytest.raises(DataError, match="leave one group alone"):
        cross_validate(settings_of(path), tmp_path / "b", 2, lambda line: None)
