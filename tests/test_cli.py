"""The command line as a newcomer runs it: every command, on good and on bad input."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch import cli, dispatch
from emonet_scratch.cli import main
from emonet_scratch.data.opensmile import write_arff
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import KernelError
from emonet_scratch.training import read_checkpoint
from emonet_scratch.training.projection import AudioProjection
from tests.media import encode, tone, write_clip, write_wav
from tests.tiny import QUICK, build

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Default folders such as runs/ are made in a folder of the test."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def data_without_features(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plain"), features=0)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "--data", str(data), "--runs", str(runs), "--out", str(runs / "one"), *QUICK]) == 0
    return runs / "one"


@pytest.fixture(scope="module")
def trained_on_sound(data_without_features, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "--data", str(data_without_features), "--runs", str(runs), "--out", str(runs / "one"),
                 "--modalities", "fused", *QUICK]) == 0
    return runs / "one"


def fails(capsys, *arguments):
    """The one line that a command that fails with status 1 prints last; nothing else may look like an error."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emonet: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_train_leaves_a_report(trained):
    results = json.loads((trained / "results.json").read_text())
    assert list(results) == ["audio", "video", "fused"]
    for r in results.values():
        low, high = r["interval"]
        assert 0 <= low <= r["accuracy"] <= high <= 1 and r["clips"] == 7 and r["parameters"] > 0 and r["seconds"] > 0
        assert np.sum(r["confusion"]) == 7 and r["loss"] > 0 and 0 <= r["macro_f1"] <= 1
    for name in ("confusion.png", "curves.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG") and (trained / name).stat().st_size > 5000
    config = json.loads((trained / "config.json").read_text())
    assert (config["device"], config["precision"], config["config"]["frame_size"]) == ("cpu", "fp32", 16)
    assert config["versions"]["numpy"] == np.__version__
    for name in results:
        assert len((trained / name / "metrics.jsonl").read_text().splitlines()) == 4
        assert (trained / name / "best.safetensors").exists() and (trained / name / "last.safetensors").exists()
    header, *lines = (trained / "results.txt").read_text().splitlines()
    assert header.split()[0] == "accuracy" and [line.split()[0] for line in lines] == [
        "audio", "video", "fused", "chance", "majority"]


def test_lda_and_normalisation_come_from_the_training_split_only(trained, data, tmp_path):
    """Other validation vectors change no array of the checkpoint's projection."""
    other = build(tmp_path / "other")
    for arff in other.glob("Val_AFEW/*/*.arff"):
        write_arff(arff, "r", [f"f{j}" for j in range(5)], [(arff.stem, arff.parent.name, np.full(5, 1e3))])
    assert main(["train", "--data", str(other), "--runs", str(tmp_path), "--out", str(tmp_path / "run"),
                 "--modalities", "audio", *QUICK]) == 0
    a, b = (read_checkpoint(folder / "audio" / "last.safetensors")[0] for folder in (trained, tmp_path / "run"))
    for group in ("projection", "model"):
        assert all(np.array_equal(a[group][name], b[group][name]) for name in a[group])


def test_evaluate_repeats_the_figure_of_the_run(trained, data, capsys):
    assert main(["evaluate", str(trained), "--data", str(data), "--device", "cpu"]) == 0
    accuracy = json.loads((trained / "results.json").read_text())["fused"]["accuracy"]
    out = capsys.readouterr().out
    assert f"val: 7 clips, accuracy {accuracy:.3f}" in out and "Surprise" in out
    assert "chance 0.143, majority class 0.143" in out


def test_evaluate_keeps_frames_where_training_does(trained, data, tmp_path, monkeypatch):
    cache = trained.parent / "cache"
    files = sorted(cache.iterdir())
    monkeypatch.setattr(subprocess, "Popen", None)                            # every clip of the split is in the cache
    assert main(["evaluate", str(trained), "--data", str(data), "--runs", str(trained.parent)]) == 0
    assert sorted(cache.iterdir()) == files
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(trained), "--data", str(data)]) == 0
    assert len(list((tmp_path / "runs" / "cache").iterdir())) == 7


def test_evaluate_goes_on_without_a_default_cache_that_cannot_be_made(trained, data, tmp_path, capsys):
    (tmp_path / "file").touch()
    call = ["evaluate", str(trained), "--data", str(data), "--device", "cpu"]
    assert main([*call, "--runs", str(tmp_path / "file")]) == 0
    out, err = capsys.readouterr()
    assert "accuracy" in out and err.startswith("emonet: warning: ") and "going on without" in err and err.count("\n") == 1
    assert repr(str(tmp_path / "file")) in fails(capsys, *call, "--cache", tmp_path / "file")


def test_a_training_split_of_one_class_is_named(data, tmp_path, capsys):
    tree = shutil.copytree(data, tmp_path / "one")
    for split in ("Train_AFEW", "Val_AFEW"):
        for name in CLASSES[1:]:
            shutil.rmtree(tree / split / name)
    train = ["train", "--data", tree, "--modalities", "audio", *QUICK]
    line = fails(capsys, *train)
    assert "all clips that can be used are Angry: expected two classes and more" in line and "np." not in line


def test_evaluate_writes_what_the_challenge_wants(trained, data, tmp_path, capsys):
    assert main(["evaluate", str(trained), "--data", str(data), "--split", "test", "--out", str(tmp_path / "p")]) == 0
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["000000001.txt", "000000002.txt", "predictions.csv"]
    assert (tmp_path / "p" / "000000001.txt").read_text().strip() in CLASSES
    assert "2 clips without labels" in capsys.readouterr().out


def test_predict_prints_seven_probabilities_a_clip(trained_on_sound, data_without_features, capsys):
    clips = [str(p) for p in sorted((data_without_features / "Test_AFEW").glob("*.avi"))]
    call = ["predict", "--checkpoint", str(trained_on_sound), *clips, "--device", "cpu"]
    assert main([*call, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["clip"] for r in rows] == clips
    for r in rows:
        assert list(r["probabilities"]) == list(CLASSES) and sum(r["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert r["class"] == max(r["probabilities"], key=r["probabilities"].get)
    assert main([*call, "--csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [t["class"] for t in table] == [r["class"] for r in rows]
    assert main(call) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{clips[0]}: {rows[0]['class']}  Angry 0.")


def test_a_sound_is_answered_by_the_audio_network_of_the_run(data_without_features, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--data", str(data_without_features), "--out", str(out), *QUICK]) == 0
    write_wav(tmp_path / "a.wav", tone(1, 16000), 16000)
    encode(tmp_path / "a.mp4", sound=tone(1, 16000), rate=16000, audio=["-c:a", "aac"])       # no pictures, either
    capsys.readouterr()
    rows = {}
    for name, path in product(("audio", "."), ("a.wav", "a.mp4")):
        assert main(["predict", "--checkpoint", str(out / name), "--csv", str(tmp_path / path)]) == 0
        rows[name, path] = capsys.readouterr().out.splitlines()[1].split(",")[1:]
    assert rows["audio", "a.wav"] == rows[".", "a.wav"] and rows["audio", "a.mp4"] == rows[".", "a.mp4"]


def test_predict_with_feature_files(trained, data, capsys):
    clip = data / "Test_AFEW" / "000000001.avi"
    assert main(["predict", "--checkpoint", str(trained), str(clip), "--features", str(data / "Test_AFEW"), "--csv"]) == 0
    main(["evaluate", str(trained), "--data", str(data), "--split", "test", "--out", str(data.parent / "p")])
    first = capsys.readouterr().out.splitlines()[1].split(",")
    val, = (data / "Val_AFEW" / "Fear").glob("*.avi")                         # the root holds files of every split
    assert main(["predict", "--checkpoint", str(trained), str(val), "--features", str(data), "--csv"]) == 0
    row = (data.parent / "p" / "predictions.csv").read_text().splitlines()[1].split(",")
    assert first[1] == row[1]
    assert list(map(float, first[2:])) == pytest.approx(list(map(float, row[2:])), abs=2e-6)     # in a batch, and alone
    assert "give the folder of their files with --features" in fails(capsys, "predict", "--checkpoint", trained, clip)
    assert "use vectors of the same extractor" in fails(capsys, "predict", "--checkpoint", trained, clip,
                                                        "--features", data.parent / "p")


def test_predict_goes_on_after_a_bad_clip(trained_on_sound, data_without_features, tmp_path, capsys):
    good = data_without_features / "Test_AFEW" / "000000001.avi"
    odd = tmp_path / "-a \"b\"\n'c' %d.avi"
    odd.write_bytes(good.read_bytes())
    (tmp_path / "bad.avi").write_text("no clip")
    clips = [str(good), str(tmp_path / "bad.avi"), str(odd)]
    assert main(["predict", "--checkpoint", str(trained_on_sound), "--csv", *clips]) == 1
    captured = capsys.readouterr()
    assert len(list(csv.reader(io.StringIO(captured.out)))) == 3
    assert captured.err.count("emonet: error: ") == 1 and "bad.avi" in captured.err


def test_predict_goes_on_after_a_bad_feature_file(trained, data, tmp_path, capsys):
    clip = data / "Test_AFEW" / "000000001.avi"
    (tmp_path / "000000001.arff").write_bytes(clip.with_suffix(".arff").read_bytes())
    (tmp_path / "000000002.arff").write_bytes(b"@relation r")
    assert main(["predict", "--checkpoint", str(trained), str(clip), "--features", str(tmp_path), "--csv"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2 and "feature file left out: " in captured.err


def test_a_name_that_begins_with_a_dash(trained_on_sound, data_without_features, tmp_path, monkeypatch, capsys):
    (tmp_path / "-x.avi").write_bytes((data_without_features / "Test_AFEW" / "000000001.avi").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--checkpoint", str(trained_on_sound), "--", "-x.avi"]) == 0
    assert capsys.readouterr().out.startswith("-x.avi: ")


def test_resume_ends_with_the_same_bytes_and_auto_finds_the_run(trained, data, tmp_path, monkeypatch, capsys):
    """A run that is interrupted in its second network goes on there."""
    from emonet_scratch.training import Trainer
    evaluate, times = Trainer.evaluate, iter(range(100))

    def interrupted(self, split):
        if next(times) == 4:                                                  # after two epochs and at the end of "audio"
            raise KeyboardInterrupt
        return evaluate(self, split)
    monkeypatch.setattr(Trainer, "evaluate", interrupted)
    out = tmp_path / "a run"
    assert main(["train", "--data", str(data), "--runs", str(tmp_path), "--out", str(out), *QUICK]) == 130
    assert capsys.readouterr().err.endswith(f"emonet: interrupted; continue with --resume '{out}'\n")
    assert not (out / "results.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(AudioProjection, "fit", None)                         # that of the checkpoint is used
    assert main(["train", "--runs", str(tmp_path), "--resume", "auto"]) == 0
    for name in ("audio", "video", "fused"):
        for state in ("last", "best"):
            file = f"{name}/{state}.safetensors"
            assert (out / file).read_bytes() == (trained / file).read_bytes()
    capsys.readouterr()
    assert "no unfinished run" in fails(capsys, "train", "--runs", tmp_path, "--resume", "auto")


@pytest.fixture
def interrupted(data, tmp_path, monkeypatch):
    """A run that was stopped after its first epoch, and the data set of its own."""
    from emonet_scratch.training import Trainer
    evaluate = Trainer.evaluate
    monkeypatch.setattr(Trainer, "evaluate", lambda self, split: 1 / 0 if self.progress.epoch else evaluate(self, split))
    shutil.copytree(data, tmp_path / "data")
    with pytest.raises(ZeroDivisionError):
        main(["train", "--data", "data", "--out", "run", "--modalities", "audio", *QUICK])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_a_run_is_not_resumed_on_other_data(interrupted, tmp_path, capsys):
    for k, clip in enumerate(sorted((tmp_path / "data" / "Train_AFEW" / "Fear").glob("*.avi"))):
        clip.unlink()
        line = fails(capsys, "train", "--resume", "run")
        assert f"was trained on other data: the train split has {20 - k} clips, had 21: restore the data" in line


def test_a_run_is_not_resumed_on_other_features(interrupted, tmp_path, capsys):
    arff = next((tmp_path / "data" / "Train_AFEW" / "Fear").glob("*.arff"))
    write_arff(arff, "r", [f"f{j}" for j in range(5)], [(arff.stem, "Fear", np.zeros(5))])
    assert "the train split has other audio vectors" in fails(capsys, "train", "--resume", "run")
    for arff in (tmp_path / "data").rglob("*.arff"):
        arff.unlink()
    assert "the train split has other audio vectors" in fails(capsys, "train", "--resume", "run")


def test_resume_on_a_device_that_is_given(interrupted, capsys):
    config = json.loads((interrupted / "config.json").read_text())
    (interrupted / "config.json").write_text(json.dumps(config | {"device": "cuda:9"}))
    assert "cuda:9 cannot be used" in fails(capsys, "train", "--resume", "run")
    assert main(["train", "--resume", "run", "--device", "cpu"]) == 0
    assert json.loads((interrupted / "config.json").read_text()) == config


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_with_a_precision_that_is_given(interrupted, capsys, monkeypatch, precision):
    """A run of a GPU goes on here only when it is told to."""
    monkeypatch.setattr(dispatch, "precision", "fp32")                        # and so it will be behind this test
    if precision not in dispatch.cpu_precisions:
        pytest.skip(f"no {precision} here: {dispatch.why()}")
    config = json.loads((interrupted / "config.json").read_text())
    (interrupted / "config.json").write_text(json.dumps(config | {"precision": "tf32"}))
    assert "tf32 wants a GPU" in fails(capsys, "train", "--resume", "run")
    assert main(["train", "--resume", "run", "--precision", precision]) == 0
    assert json.loads((interrupted / "config.json").read_text()) == config | {"precision": precision}


def test_damaged_settings_get_one_line(interrupted, capsys):
    file = interrupted / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": "3"}))
    assert "config.json' does not hold the settings of a run (seed must be an integer from 0 to 2**63 - 1, got '3')" in \
        fails(capsys, "train", "--resume", "run")


def test_a_finished_run_shows_its_results(trained, capsys):
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    assert main(["train", "--resume", str(trained)]) == 0
    assert capsys.readouterr().out.endswith(f"is finished:\n\n{(trained / 'results.txt').read_text()}")
    assert before == {file: file.stat().st_mtime_ns for file in trained.rglob("*")}


def test_a_run_that_cannot_begin_is_not_resumed(tmp_path, capsys):
    build(tmp_path / "data", features=20)
    line = fails(capsys, "train", "--data", "data", "--modalities", "audio", *QUICK, "--set", "lda_shrinkage=null")
    assert "S_W has rank" in line and line.endswith("(--set lda_shrinkage=0.1)")
    assert "no unfinished run" in fails(capsys, "train", "--resume", "auto")


def test_a_run_is_never_overwritten(trained, data, capsys):
    before = (trained / "results.json").read_bytes()
    assert "holds a run already" in fails(capsys, "train", "--data", data, "--out", trained, *QUICK)
    assert (trained / "results.json").read_bytes() == before


def test_damaged_and_foreign_checkpoints(trained, data, tmp_path, capsys):
    whole = (trained / "fused" / "best.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("cut", "text"):
        line = fails(capsys, "evaluate", tmp_path / f"{name}.safetensors", "--data", data)
        assert f"{name}.safetensors' is damaged" in line
    assert "no such file" in fails(capsys, "evaluate", tmp_path / "none.safetensors", "--data", data)
    assert "holds no best.safetensors" in fails(capsys, "evaluate", tmp_path, "--data", data)


def test_features_of_another_extractor_are_refused(trained, data_without_features, capsys):
    line = fails(capsys, "evaluate", trained, "--data", data_without_features)
    assert "was trained on 5 audio features" in line and "use vectors of the same extractor" in line


def test_one_class_alone_cannot_be_learnt(tmp_path, capsys):
    for split in ("Train", "Val"):
        (tmp_path / split / "Fear").mkdir(parents=True)
        for i in range(3):
            write_clip(tmp_path / split / "Fear" / f"{i}.avi", None, "mjpeg", tone(0.3), "pcm")
    line = fails(capsys, "train", "--data", tmp_path, "--runs", tmp_path / "runs", *QUICK)
    assert "LDA of the training split's audio vectors" in line and "are Fear: expected two classes" in line


def test_a_full_disk_stops_the_run_with_one_line(data, tmp_path, capsys):
    """In a process of its own that may write files of 40 kB at most."""
    code = ("import resource, signal, sys; from emonet_scratch.cli import main\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "sys.exit(main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, "train", "--data", str(data), "--runs", str(tmp_path), "--modalities",
                           "audio", "--out", str(tmp_path / "run"), *QUICK, "--set", "audio_layers=[200, 200, 200]"],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "emonet: error: [Errno 27] File too large: " in done.stderr and "last.safetensors" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(data):
    code = "import sys; from emonet_scratch.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, "doctor", str(data)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1


def test_doctor_says_what_a_gpu_would_run(capsys, monkeypatch):
    monkeypatch.setattr(cli, "choose_device", lambda: ("cuda:0", "device: cuda:0"))
    monkeypatch.setattr(dispatch, "precision", "tf32")
    dispatch._load.cache_clear()
    assert main(["doctor", "--system"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    off = os.environ.get("EMONET_KERNELS") == "off"
    assert line.startswith("GPU kernels: off" if off else "GPU kernels: tf32: Conv2d, Dropout, LSTM, ")


def test_doctor_says_what_the_machine_runs_on(capsys, monkeypatch):
    assert main(["doctor", "--system"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["emonet_scratch", "device:", "CPU"] and "kernels" in lines[0]
    monkeypatch.setattr(dispatch, "why", lambda: (_ for _ in ()).throw(KernelError("EMONET_KERNELS must be on")))
    assert main(["doctor", "--system"]) == 1
    assert capsys.readouterr().err == "emonet: error: EMONET_KERNELS must be on\n"


def test_doctor(data, capsys):
    assert main(["doctor", str(data)]) == 0
    out = capsys.readouterr().out
    assert "21" in out and all(name in out for name in CLASSES)


def test_the_paper_preset_runs_and_stays_at_ln_7(data, tmp_path):
    """The paper's network and training, on small frames: the loss does not move, as its author saw."""
    assert main(["train", "--data", str(data), "--runs", str(tmp_path), "--out", str(tmp_path / "run"), "--preset", "paper",
                 "--modalities", "fused", "--epochs", "2", "--set", "frame_size=16", "--set", "lstm_size=8",
                 "--device", "cpu"]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "fused" / "metrics.jsonl").read_text().splitlines()]
    assert losses[1] == pytest.approx(losses[3], abs=1e-3)


def test_real_clips_train_and_predict(real_data, tmp_path, capsys):
    """Six real recordings as a tiny AFEW: doctor, training and prediction."""
    clips = sorted((real_data / "crema_d").glob("*.flv"))
    for k, clip in enumerate(clips):                                          # LDA wants several clips a class
        for split in ("Train_AFEW", "Val_AFEW"):
            folder = tmp_path / "data" / split / ("Angry" if k < 3 else "Sad")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / clip.name).symlink_to(clip)
    assert main(["doctor", str(tmp_path / "data")]) == 1                      # the splits hold the same clips
    assert "Surprise" in capsys.readouterr().out
    out = tmp_path / "run"
    call = ["train", "--data", str(tmp_path / "data"), "--runs", str(tmp_path), "--out", str(out), *QUICK,
            "--modalities", "fused"]
    assert main(call) == 1 and "'CREMA-D 1001' is in train and val" in capsys.readouterr().err
    assert main([*call, "--allow-shared-groups"]) == 0
    capsys.readouterr()
    assert main(["predict", "--checkpoint", str(out), "--json", *map(str, clips)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["clip"] for row in rows] == [str(clip) for clip in clips]
