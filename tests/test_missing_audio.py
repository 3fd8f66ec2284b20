"""Clips without sound, and audio vectors of another extractor: masked and learned, and refused with the reason."""

import json
import shutil

import numpy as np
import pytest

from emonet_scratch.cli import main
from emonet_scratch.data.batches import Split, batches
from emonet_scratch.data.extract import made_by
from emonet_scratch.data.prepare import prepare
from emonet_scratch.data.sound import compact, is10
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError
from emonet_scratch.models import EmoNet, EmoNetConfig
from emonet_scratch.training import read_checkpoint
from emonet_scratch.training.projection import AudioProjection
from tests.media import tone, write_clip

FIELDS = ["--preset", "small", "--device", "cpu", "--epochs", "2", "--set", "frame_size=16", "--set", "frames=2", "--set",
          "trunk_width=2", "--set", "lstm_size=4", "--set", "modality_dropout=0.3"]


@pytest.fixture(scope="module")
def mute(tmp_path_factory):
    """7 x (2, 1) clips whose class is in the pitch; one of each split has no sound."""
    root = tmp_path_factory.mktemp("mute")
    for k, name in enumerate(CLASSES):
        for split, count in (("Train_AFEW", 2), ("Val_AFEW", 1)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                sound = None if (name, i) == ("Angry", 0) else tone(0.3, hz=100 + 60 * k + 9 * i)
                write_clip(root / split / name / f"{k}{i}{count}.avi", **({} if sound is None else {"sound": sound}))
    return root


@pytest.fixture(scope="module")
def trained(mute, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--data", str(mute), "--modalities", "fused", "--out", str(folder), "--runs",
                 str(folder.parent), *FIELDS]) == 0
    return folder


def test_a_clip_without_sound_is_in_the_split_with_a_missing_vector(mute):
    lines = []
    data = prepare(mute, frame_size=16, log=lines.append)
    train = data.splits["train"]
    assert data.extractor == made_by("is10-2") and data.feature_names == is10.FEATURE_NAMES and not data.skipped
    assert np.isnan(train.audio).all(axis=1).tolist() == [True] + [False] * 13
    assert any("2 of 21 clips have no sound" in line for line in lines)
    alone = prepare(mute, video=False, log=lines.append)                      # sound was all there was to learn from
    assert len(alone.splits["train"]) == 13 and len(alone.skipped) == 2


def test_the_network_learns_and_predicts_without_it(trained, mute, capsys):
    mute_clip, loud = (str(next((mute / "Val_AFEW" / name).iterdir())) for name in ("Angry", "Sad"))
    assert main(["predict", mute_clip, loud, "--checkpoint", str(trained), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(np.isfinite(list(row["probabilities"].values())).all() for row in rows)
    assert main(["evaluate", str(trained), "--data", str(mute), "--runs", str(trained.parent)]) == 0
    assert "7 clips" in capsys.readouterr().out


def test_a_checkpoint_knows_its_extractor_and_refuses_another(trained, mute, tmp_path, capsys):
    _, meta = read_checkpoint(trained / "fused" / "best.safetensors")
    assert meta["facts"]["extractor"] == made_by("is10-2")
    clip = next((mute / "Val_AFEW" / "Sad").iterdir())
    (tmp_path / "Val_AFEW").mkdir()
    shutil.copy(clip, tmp_path / "Val_AFEW")
    out = tmp_path / "Val_AFEW" / "x.arff"
    call = ["predict", str(tmp_path / "Val_AFEW" / clip.name), "--checkpoint", str(trained), "--features", str(tmp_path)]
    assert main(["features", str(clip), "--out", str(out), "--workers", "1"]) == 0
    assert main(call) == 0
    out.unlink()
    assert main(["features", str(clip), "--out", str(out), "--workers", "1", "--extractor", "is10-2-energy"]) == 0
    capsys.readouterr()
    assert main(call) == 1
    said = capsys.readouterr().err
    assert f"the extractor {made_by('is10-2')}, got" in said and "is10-2-energy" in said
    out.write_text(out.read_text().replace("is10-2-energy+", "SMILEfeatures+"))
    assert main(call) == 1 and "feature files of a data set" in capsys.readouterr().err


def test_missing_vectors_are_in_no_fit_and_are_projected_to_zeros():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 5)) + np.repeat(np.eye(3, 5) * 3, 20, axis=0), np.repeat(np.arange(3), 20)
    gaps = X.copy()
    gaps[[3, 30, 59]] = np.nan
    kept = np.setdiff1d(np.arange(60), [3, 30, 59])
    one, two = (AudioProjection(folds=4).fit(*given) for given in ((gaps, y), (X[kept], y[kept])))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    assert not one.transform(gaps)[[3, 30, 59]].any() and np.abs(one.transform(gaps)[kept]).min(axis=1).all()
    assert one.training.shape[0] == 60 and not one.training[[3, 30, 59]].any()
    np.testing.assert_array_equal(one.training[kept], two.training)
    with pytest.raises(DataError, match="no clip of it has sound"):
        AudioProjection().fit(np.full((4, 2), np.nan), np.array([0, 0, 1, 1]))


def test_modality_dropout_takes_the_audio_of_some_training_clips():
    split = Split([str(i) for i in range(400)], np.arange(400) % 7, None, np.ones((400, 3), np.float32))

    def kept(**options):
        rows = [b for b in batches(split, 16, None, seed=1, training=True, **options)]
        return np.concatenate([b.audio[:, 0] for b in rows]), np.concatenate([b.labels for b in rows])
    audio_, labels = kept(modality_dropout=0.25)
    assert 0.18 < 1 - audio_.mean() < 0.32
    np.testing.assert_array_equal(labels, kept()[1])                          # the order of clips does not depend on it
    np.testing.assert_array_equal(audio_[160:], kept(modality_dropout=0.25, start=10)[0])
    assert (kept(modality_dropout=0.25, epoch=1)[0] != audio_).any() and kept()[0].all() and split.audio.all()
    assert all(b.audio.all() for b in batches(split, 16, None, modality_dropout=0.5))         # never in evaluation


def test_modality_dropout_takes_sound_or_frames_but_never_both():
    """A clip without frames, in training, is what a clip is that has none: no frames, a length of 0."""
    N = 300
    frames = [np.full((2, 3, 3, 3), i % 250 + 1, np.uint8) for i in range(N)]
    split = Split([str(i) for i in range(N)], np.arange(N) % 7, frames, np.ones((N, 3), np.float32))
    rows = list(batches(split, 16, None, seed=2, training=True, modality_dropout=0.3))
    lengths, heard = np.concatenate([b.lengths for b in rows]), np.concatenate([b.audio[:, 0] for b in rows])
    deaf, blind = heard == 0, lengths == 0
    assert 0.22 < deaf.mean() < 0.38 and 0.22 < blind.mean() < 0.38 and not (deaf & blind).any()
    assert all(len(b.frames) == b.lengths.sum() for b in rows) and set(lengths) == {0, 2}


def test_what_was_made_of_the_frames_is_masked_with_them_and_the_only_thing_that_is_there_never():
    """Two columns of a projected vector are the sound's, three the looks'; a third is silent, a fourth blind."""
    N = 240
    frames = [np.ones((0 if i % 4 == 0 else 2, 3, 3, 3), np.uint8) for i in range(N)]
    audio = np.ones((N, 5), np.float32)
    audio[::3, :2], audio[::4, 2:] = 0, 0
    split = Split([str(i) for i in range(N)], np.arange(N) % 7, frames, audio, heard=2)
    rows = list(batches(split, 16, None, seed=2, training=True, modality_dropout=0.4))
    lengths, heard, looks = (np.concatenate(x) for x in zip(*((b.lengths, b.audio[:, :2], b.audio[:, 2:]) for b in rows),
                                                            strict=True))
    sound, sight = heard.all(axis=1), looks.all(axis=1)
    np.testing.assert_array_equal(sight, lengths > 0)
    assert (heard.any(axis=1) == sound).all() and (looks.any(axis=1) == sight).all()          # whole parts
    assert (~sound & ~sight).sum() == N / 12                                                  # those that never had any
    assert (~sound).mean() > 0.45 and (~sight).mean() > 0.37 and split.audio[1].all()


@pytest.mark.parametrize("preset", ["default", "small"])
def test_a_masked_branch_is_a_missing_branch_bit_for_bit(preset):
    """A clip says the same where its frames, or its sound, were masked for training and where it never had any."""
    config = EmoNetConfig.preset(preset).replace(frame_size=16, lstm_size=8, trunk="random", trunk_width=4)
    net = EmoNet(config, 6, np.random.default_rng(0)).eval()
    rng = np.random.default_rng(1)
    frames, audio = rng.integers(0, 256, (5, 16, 16, 3), np.uint8), rng.standard_normal((2, 6)).astype(np.float32)
    two = Split(["a", "b"], np.array([0, 1]), [frames[:3], frames[3:]], audio)
    for blind, gone in ((True, Split(["a"], np.array([0]), [frames[:0]], audio[:1])),
                        (False, Split(["a"], np.array([0]), [frames[:3]], np.zeros_like(audio[:1])))):
        masked = next(b for epoch in range(200) for b in batches(two.take([0]), 1, None, training=True, epoch=epoch,
                                                                 modality_dropout=0.5)
                      if (b.lengths[0] == 0) == blind)
        never = next(batches(gone, 1, None))
        a, b = (net.forward(x.frames, x.lengths, x.audio)[0] for x in (masked, never))
        assert np.array_equal(a, b) and np.isfinite(a).all()


def test_data_of_the_synthetic_set_say_which_extractor(tmp_path):
    from emonet_scratch.data.synthetic import write
    data = prepare(write(tmp_path / "s", (1, 1, 1), workers=1), frame_size=16, log=lambda line: None)
    assert data.extractor == made_by(compact.EXTRACTOR) and data.feature_names == compact.FEATURE_NAMES
