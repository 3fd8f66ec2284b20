"""The comparison: its parts against peers and planted data, then the whole on a tiny data set."""

import csv
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.svm import LinearSVC

from emonet_scratch.cli import main
from emonet_scratch.data.folds import stratified_folds
from emonet_scratch.studies.compare import REFERENCE, measure
from emonet_scratch.studies.late_fusion import find_weights, fuse, fuse_across_folds
from emonet_scratch.studies.svm import LinearSVM, choose_C
from emonet_scratch.training.metrics import mcnemar
from tests.strategies import seeds
from tests.tiny import QUICK, build


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_test_of_a_coin(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected) == pytest.approx(mcnemar(c, b))


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == mcnemar(3, 3) == mcnemar(0, 1) == 1
    assert mcnemar(0, 6) == 2 / 64 and mcnemar(1, 9) == 2 * (1 + 10) / 1024


@given(st.integers(8, 40), st.integers(1, 60), st.integers(2, 4), st.sampled_from([0.01, 0.3, 3.0]), seeds)
@settings(max_examples=15)
def test_the_svm_is_liblinears(N, D, K, C, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(N) % K
    X = rng.standard_normal((N, D)) + 2 * rng.standard_normal((K, D))[y]
    ours = LinearSVM(C).fit(X, y)
    # liblinear solves two classes as one problem; as one against the rest they are two, each the other's negative
    peers = [LinearSVC(C=C, dual=False, tol=1e-9, max_iter=100_000).fit(X, y == k) for k in range(K)]
    W = np.stack([np.append(peer.coef_, peer.intercept_) for peer in peers], axis=1)
    assert np.allclose(ours.coef_, W, atol=2e-4 * max(1, np.abs(W).max()))
    assert np.mean(ours.predict(X) == y) >= 1 / K


def test_the_svms_C_is_that_of_cross_validation():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = rng.standard_normal((90, 80)) + 0.5 * (np.arange(80) % 3 == y[:, None])
    grid = (1e-4, 1e-2, 1.0)
    split = PredefinedSplit(stratified_folds(y, 5, 7))
    right = [np.mean(cross_val_predict(LinearSVC(C=C, dual=False, tol=1e-8), X, y, cv=split) == y) for C in grid]
    assert len(set(right)) > 1 and choose_C(X, y, grid, seed=7) == grid[int(np.argmax(right))]
    with pytest.raises(ValueError, match="at least 2 classes"):
        LinearSVM().fit(X, np.zeros(90))


def experts(N, seed=0):
    """Two networks: the first knows classes 0-3 and guesses among all for the rest, the second the other way round."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, N)
    probabilities = rng.dirichlet(np.full(7, 0.7), (2, N))
    for model, known in enumerate((labels < 4, labels >= 4)):
        probabilities[model, known] *= 0.65
        probabilities[model, np.flatnonzero(known), labels[known]] += 0.35
    return probabilities, labels


def right(probabilities, labels):
    return np.mean(probabilities.argmax(-1) == labels)


def test_late_fusion_of_two_experts_beats_both_and_their_mean():
    probabilities, labels = experts(280)
    weights = find_weights(probabilities, labels)
    fused = fuse(probabilities, weights)
    assert np.allclose(weights.sum(axis=0), 1) and (weights >= 0).all() and np.allclose(fused.sum(axis=1), 1)
    new, truth = experts(2000, seed=1)                                            # clips that the weights have not seen
    single = [right(p, truth) for p in new]
    assert right(fuse(new, weights), truth) > max(*single, right(new.mean(axis=0), truth)) + 0.1
    across = right(fuse_across_folds(probabilities, labels), labels)
    assert across > max(right(p, labels) for p in probabilities) + 0.1
    assert np.array_equal(weights, find_weights(probabilities, labels))


def test_a_network_that_knows_one_class_is_heard_on_that_class_only():
    rng = np.random.default_rng(0)
    labels = np.arange(350) % 7
    noise, good = rng.dirichlet(np.full(7, 3.0), 350), rng.dirichlet(np.ones(7), 350)
    good[np.arange(350), labels] += 0.5                                           # knows all but class 6
    good[labels == 6] = 0.9 * np.eye(7)[5] + 0.1 / 7
    noise[:, 6] = 0.02 + 0.9 * (labels == 6)
    weights = find_weights(np.stack([good / good.sum(1, keepdims=True), noise / noise.sum(1, keepdims=True)]), labels)
    assert weights[1, 6] > 0.5 > weights[1, :5].max()               # 5 is what the other says for 6


def test_across_folds_nothing_is_learnt_from_noise():
    """In-sample search finds weights that fit noise; a table that showed that would be dishonest."""
    labels, found, across = np.arange(70) % 7, [], []
    for seed in range(8):
        probabilities = np.random.default_rng(seed).dirichlet(np.full(7, 5.0), (2, 70))
        found.append(right(fuse(probabilities, find_weights(probabilities, labels)), labels))
        across.append(right(fuse_across_folds(probabilities, labels), labels))
    assert np.mean(found) > 0.22 and abs(np.mean(across) - 1 / 7) < 0.04          # 1/7 +- 3 of .35 / sqrt(560)


def test_equal_weights_are_the_least_that_is_found():
    for seed in range(5):
        probabilities, labels = experts(30, seed)
        assert right(fuse(probabilities, find_weights(probabilities, labels, seed, draws=1)), labels) \
            >= right(probabilities.mean(axis=0), labels)


def test_a_row_by_hand():
    labels = np.array([0, 1, 2, 3, 4, 5])
    reference, other = labels.copy(), labels.copy()
    reference[:1], other[1:4] = 6, 6                                              # wrong: clip 0; clips 1, 2, 3
    first, second = measure({REFERENCE: reference, "other": other}, labels)
    assert first["accuracy"] == 5 / 6 and "p" not in first
    assert (second["accuracy"], second["lost"], second["won"], second["p"]) == (0.5, 3, 1, 2 * (1 + 4) / 16)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven classes, with two test clips that the tree labels."""
    root = build(tmp_path_factory.mktemp("data"))
    (root / "Test_AFEW" / "Sad").mkdir()
    for path in (root / "Test_AFEW").glob("*.*"):
        path.rename(root / "Test_AFEW" / "Sad" / path.name)
    return root


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    assert main(["compare", "--data", str(data), "--runs", str(out.parent), "--out", str(out), *QUICK]) == 0
    return out


def test_the_table_is_that_of_its_predictions(compared, capsys):
    content = json.loads((compared / "compare.json").read_text())
    labels, predicted = np.array(content["labels"]), content["predicted"]
    assert len(labels) == 7 and [row["method"] for row in content["rows"]] == list(predicted)
    for row in content["rows"]:
        assert row["accuracy"] == np.mean(np.array(predicted[row["method"]]) == labels)
    networks = json.loads((compared / "results.json").read_text())
    shown = {row["method"]: row["accuracy"] for row in content["rows"]}
    assert [shown[m] for m in (REFERENCE, "audio network", "video network")] == \
        [networks[n]["accuracy"] for n in ("fused", "audio", "video")]
    with open(compared / "compare.csv", newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [*predicted, "chance", "majority class"]
    assert (content["chance"], content["majority"]) == pytest.approx((1 / 7, 1 / 7))
    assert (compared / "compare.txt").read_text().count(" 0.143\n") >= 2
    assert (compared / "compare.png").stat().st_size > 5000
    assert "the other four fifths" in (compared / "compare.txt").read_text()


def test_a_run_is_compared_without_training(compared, tmp_path, monkeypatch):
    monkeypatch.setattr("emonet_scratch.cli.run", None)
    assert main(["compare", "--run", str(compared), "--out", str(tmp_path / "table")]) == 0
    for name in ("csv", "png", "txt"):
        assert (tmp_path / "table" / f"compare.{name}").read_bytes() == (compared / f"compare.{name}").read_bytes()


def test_on_a_labelled_test_split(compared, tmp_path):
    assert main(["compare", "--run", str(compared), "--out", str(tmp_path), "--split", "test"]) == 0
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["chance"] == content["majority"] == 1                      # both clips are of one class
    assert content["clips"] == 2 and "come from the validation split" in (tmp_path / "compare.txt").read_text()


def test_a_run_that_was_stopped_is_finished(compared, tmp_path):
    shutil.copytree(compared, tmp_path / "run")
    for name in ("results.json", "fused"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["compare", "--run", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "compare.csv").read_bytes() == (compared / "compare.csv").read_bytes()


def test_what_cannot_be_compared_is_refused(compared, data, tmp_path, capsys):
    def refused(said, *arguments):
        assert main(["compare", "--out", str(tmp_path / "out"), *arguments]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error, error

    refused("no folder of a run", "--run", str(tmp_path))
    out = tmp_path / "audio"
    assert main(["train", "--data", str(data), "--runs", str(tmp_path), "--out", str(out), *QUICK,
                 "--modalities", "audio"]) == 0
    refused("no network for fused, video", "--run", str(out))
    changed = shutil.copytree(compared, tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    other = build(tmp_path / "other")
    (changed / "config.json").write_text(json.dumps(config | {"data": [str(other)]}))
    refused("of the test split have no label", "--run", str(changed), "--split", "test")
    next((other / "Val_AFEW").glob("*/*.avi")).unlink()
    refused("trained on other data", "--run", str(changed))
    with pytest.raises(SystemExit):
        main(["compare", "--run", str(compared), "--epochs", "3"])
    assert "leave out --epochs" in capsys.readouterr().err
