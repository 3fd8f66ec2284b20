"""Patches that tell two emotions apart: they are where a pair was made to differ, and nothing else is looked at."""

import numpy as np
import pytest

from emonet_scratch.classics.graphs import CHOSEN, GRID, PatchGraphs, describe, fisher, patch_graphs
from emonet_scratch.data.folds import held_out
from tests.strategies import values

MOUTH = {row * GRID + column for row in (5, 6) for column in (2, 3, 4, 5)}     # patches of rows 60..84, columns 24..72


def faces(kind, rng, T=3):
    """Somebody's smooth face, lit from somewhere; in the mouth's region the lines of class 0 lie, those of class 1 stand,
    and those of class 2 stand at the eyes instead."""
    y, x = np.mgrid[:96, :96] / 96
    face = sum(rng.uniform(5, 25) * np.sin(2 * np.pi * (a * x + b * y) + rng.uniform(0, 6))
               for a, b in rng.uniform(-1.5, 1.5, (6, 2)))
    lines = 12 * np.sin(2 * np.pi * 10 * (y if kind == 0 else x) + rng.uniform(0, 6))
    rows = slice(24, 48) if kind == 2 else slice(60, 84)
    face[rows, 24:72] += lines[rows, 24:72]
    noisy = rng.uniform(100, 150) + face + rng.normal(0, 4, (T, 96, 96))
    return np.clip(noisy, 0, 255).astype(np.uint8)[..., None].repeat(3, 3)


def test_a_pair_that_differs_in_the_mouth_chooses_the_mouth():
    """In 50 seeds; all patches of the pair, of which there are as many as the mouth has."""
    assert len(MOUTH) == CHOSEN
    found = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        y = np.arange(16) % 2
        X = np.array([describe(faces(k, rng, 1)).ravel() for k in y])
        found.append(set(PatchGraphs().fit(X, y).chosen[0, 1]) == MOUTH)
    assert np.mean(found) >= 0.9


def test_each_pair_has_patches_of_its_own_and_classes_are_told_apart():
    rng = np.random.default_rng(0)
    y = np.arange(36) % 3
    clips = [faces(k, rng) for k in y]
    model = patch_graphs(clips[:24], y[:24])
    assert set(model.chosen[0, 1]) == MOUTH and set(model.chosen[0, 2]) != MOUTH
    X = np.array([describe(clip).ravel() for clip in clips])
    assert (model.predict(X[24:]) == y[24:]).mean() > 0.8
    assert model.svm.coef_.shape == (3 * (CHOSEN * 8 + CHOSEN * (CHOSEN - 1) // 2) + 1, 3)


def test_patches_are_chosen_inside_of_folds(monkeypatch):
    """What a fold chooses does not change when the clips that it leaves out become others."""
    rng, y = np.random.default_rng(0), np.arange(20) % 2
    clips = [faces(k, rng, 1) for k in y]
    fit, seen = PatchGraphs.fit, []

    def watched(self, X, y):
        fit(self, X, y)
        seen.append((len(X), self.chosen[0, 1].tolist()))
        return self
    monkeypatch.setattr(PatchGraphs, "fit", watched)
    patch_graphs(clips, y)
    before = seen.copy()
    seen.clear()
    out = held_out(y, 5, 0)[0]
    patch_graphs([faces(2 * (1 - k), rng, 1) if left else clip for clip, k, left in zip(clips, y, out, strict=True)], y)
    assert [n for n, _ in seen] == [16] * 15 + [20]                           # three C in five folds, then all
    assert seen[0] == before[0] and seen[-1] != before[-1]


def test_fisher_is_the_criterion_of_two_classes():
    a, b = values(0, 30, 4, 2), values(1, 20, 4, 2) + 1
    for k, ours in enumerate(fisher(a, b)):
        S = (np.cov(a[:, k].T, bias=True) + np.cov(b[:, k].T, bias=True)) / 2
        S += 0.1 * np.trace(S) / 2 * np.eye(2)
        d = a[:, k].mean(axis=0) - b[:, k].mean(axis=0)
        assert ours == pytest.approx(d @ np.linalg.solve(S, d), rel=1e-6)
    assert np.array_equal(fisher(np.zeros((3, 2, 2)), np.zeros((3, 2, 2))), [0, 0])


def test_descriptors_do_not_see_the_light_and_know_directions():
    face = faces(0, np.random.default_rng(1), 2)
    dim = (face // 2).astype(np.uint8)
    assert np.allclose(describe(face), describe(dim), atol=0.15)
    ramp = np.broadcast_to((2 * np.arange(96)).astype(np.uint8)[None, :, None, None], (2, 96, 96, 3))
    assert describe(ramp).argmax(axis=1).tolist() == [2] * 64                 # brighter downwards: 90 degrees
    assert not describe(face[:0]).any() and describe(face[:1]).shape == (64, 8)
