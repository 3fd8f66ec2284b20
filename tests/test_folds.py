"""Groups, and folds that keep them whole: here, and wherever something is chosen or projected out of fold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emonet_scratch import LDA
from emonet_scratch.data.batches import Split, merged
from emonet_scratch.data.folds import a_fifth, groups_of, held_out, joined, stratified_folds
from emonet_scratch.studies import late_fusion, svm
from emonet_scratch.training import projection
from emonet_scratch.training.projection import AudioProjection, cross_fit
from tests.strategies import seeds


@given(st.lists(st.tuples(*[st.none() | st.integers(0, 6)] * 2), min_size=1, max_size=25))
def test_clips_are_joined_that_share_a_key_directly_or_by_way_of_others(pairs):
    N = len(pairs)
    near = np.array([[i == j or any(a is not None and a == b for a, b in zip(pairs[i], pairs[j], strict=True))
                      for j in range(N)] for i in range(N)])
    reach = np.linalg.matrix_power(near.astype(float), N) > 0
    group = joined(*zip(*pairs, strict=True))
    assert np.array_equal(group[:, None] == group, reach)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(1, 5), st.integers(2, 6), seeds)
def test_groups_stay_whole_and_folds_are_even(sizes, classes, folds, seed):
    """No fold is larger by more than a group than it has to be, and as many folds have clips as can have."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    y = np.random.default_rng(seed).integers(0, classes, len(groups))
    fold = stratified_folds(y, folds, seed, groups)
    assert np.array_equal(fold, stratified_folds(y, folds, seed, groups))
    if len(sizes) > 1 and max(sizes) > 1:
        assert all(len(set(fold[groups == g])) == 1 for g in range(len(sizes)))
        assert len(set(fold)) == min(folds, len(sizes))
    parts = held_out(y, folds, seed, groups)
    assert np.array_equal(np.sum(parts, axis=0), np.ones(len(y)))             # each clip is left out once


@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 5), seeds)
def test_equal_groups_are_dealt_out_evenly(folds, of_each, classes, seed):
    """Speakers who say all the same: every fold gets its share, rounded up or down."""
    speakers = folds * of_each
    y, groups = np.tile(np.arange(classes), speakers), np.repeat(np.arange(speakers), classes)
    assert (np.bincount(stratified_folds(y, folds, seed, groups)) == of_each * classes).all()


@given(st.integers(1, 30), st.integers(2, 5), seeds)
def test_where_nobody_or_one_alone_is_known_folds_are_as_without_groups(N, folds, seed):
    y = np.random.default_rng(seed).integers(0, 3, N)
    for groups in (np.arange(N)[::-1], np.zeros(N, int)):
        assert np.array_equal(stratified_folds(y, folds, seed, groups), stratified_folds(y, folds, seed))


def test_a_group_is_of_one_name_one_content_or_one_sound():
    nan, x = np.full(3, np.nan), np.arange(3.0)
    split = Split(list("abcdefg"), np.zeros(7, int), audio=np.array([x, nan, nan, x + 1, x + 1, x + 2, x + 3]),
                  keys=["k", "", "k", "", "l", "m", "n"], groups=["", "ann", "", "ann", "", "bob", ""])
    group = groups_of(split)
    same = group[:, None] == group
    assert [set(np.flatnonzero(row)) for row in same] == [{0, 2}, {1, 3, 4}, {0, 2}, {1, 3, 4}, {1, 3, 4}, {5}, {6}]
    assert len(set(groups_of(Split(["a", "b"], np.zeros(2, int))))) == 2      # nothing is known


def test_splits_are_merged_with_all_that_they_hold():
    def part(k, ids):
        n = len(ids)
        return Split(ids, np.arange(n) + k, [np.full((2, 4, 4, 3), k, np.uint8)] * n, np.full((n, 2), k), [str(k)] * n,
                     ["g"] * n, ["c"] * n, ("A", "B", "C"))
    whole = merged({"train": part(0, ["a", "b"]), "val": part(1, ["c"])})
    assert (whole.ids, whole.labels.tolist(), whole.keys) == (["a", "b", "c"], [0, 1, 1], ["0", "0", "1"])
    assert whole.audio.tolist() == [[0, 0], [0, 0], [1, 1]]
    assert whole.classes == ("A", "B", "C") and len(whole.groups) == len(whole.frames) == len(whole.corpora) == 3
    assert merged({"train": part(0, ["a"]), "val": part(1, ["a"])}).ids == ["train-a", "val-a"]
    assert merged({"train": Split(["a"], np.zeros(1, int))}).audio is None


# ---- wherever something is fitted within a training ----

def utterances(seed, N=420, utterances=270, D=150, classes=7):
    """Clips that say nothing of their class, many with the sound of another: what an LDA learns of these is by heart."""
    rng = np.random.default_rng(seed)
    sound = np.concatenate([np.arange(utterances), rng.integers(0, utterances, N - utterances)])
    return rng.standard_normal((utterances, D))[sound], (np.arange(utterances) % classes)[sound], sound


def out_of_fold(X, y, groups):
    Z, right = cross_fit(LDA().fit(X, y), X, y, 5, 0, groups), 0
    means = np.array([Z[y == k].mean(axis=0) for k in range(7)])
    right = ((Z[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == y
    return right.mean()


def test_clips_with_one_sound_are_projected_by_an_lda_that_has_heard_none_of_them():
    """A network that reads projections of what LDA knows by heart believes them: with folds of clips, half are right."""
    X, y, sound = utterances(0)
    assert out_of_fold(X, y, None) > 0.45 and out_of_fold(X, y, sound) < 0.3
    fitted = AudioProjection(shrinkage="auto", folds=5).fit(X, y)             # by the bytes of the vectors, without names
    named = AudioProjection(shrinkage="auto", folds=5).fit(X, y, sound)
    assert np.array_equal(fitted.training, named.training)
    apart = AudioProjection(shrinkage="auto", folds=5).fit(X + 1e-9 * np.arange(len(X))[:, None], y)
    assert np.abs(fitted.training - apart.training).max() > 0.1


@pytest.mark.parametrize("choose", ["shrinkage", "C", "late fusion"])
def test_whatever_is_chosen_by_folds_keeps_groups_together(choose, monkeypatch):
    X, y, groups = utterances(1, 60, 30, 5, 3)
    seen = []

    def watched(*arguments):
        seen.append(held_out(*arguments))
        return seen[-1]
    monkeypatch.setattr({"shrinkage": projection, "C": svm}.get(choose, late_fusion), "held_out", watched)
    if choose == "shrinkage":
        AudioProjection(shrinkage="cv").fit(X, y, groups)
    elif choose == "C":
        svm.choose_C(X, y, (0.1,), groups=groups)
    else:
        late_fusion.fuse_across_folds(np.full((2, 60, 3), 1 / 3), y, 0, groups)
    assert seen
    for out in (part for parts in seen for part in parts):
        assert not set(groups[out]) & set(groups[~out])


@settings(max_examples=5)
@given(seeds)
def test_one_speaker_alone_is_folded_clip_by_clip(seed):
    """Which is what there is to do, and better than a projection that knows its clips by heart."""
    rng = np.random.default_rng(seed)
    y = np.arange(60) % 3
    X = rng.standard_normal((60, 4)) + 3 * np.eye(4)[y]
    assert AudioProjection(shrinkage="cv", folds=5).fit(X, y, np.zeros(60, int)).training is not None


@pytest.mark.parametrize("sizes, expected", [([10] * 5, 10), ([10] * 10, 20), ([24] * 7, 24), ([90, 10], 10), ([5, 5, 5], 5),
                                             ([1] * 50, 10)])
def test_validation_takes_what_is_nearest_to_a_fifth(sizes, expected):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    out = a_fifth(np.arange(len(groups)) % 2, 0, groups)
    assert out.sum() == expected and not set(groups[out]) & set(groups[~out])
