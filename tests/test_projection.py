"""What stands before the audio branch: cut-off, shrinkage by cross-validation, projections out of fold."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from emonet_scratch import LDA
from emonet_scratch.data.batches import Split
from emonet_scratch.data.folds import stratified_folds
from emonet_scratch.errors import DataError
from emonet_scratch.training.projection import GRID, AudioProjection, choose_shrinkage, cross_fit, nuisance
from emonet_scratch.training.trainer import Trainer
from tests.strategies import seeds
from tests.tiny import TINY, split


def blobs(seed, N=70, D=9, C=7, apart=2.0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(N) % C)
    return rng.standard_normal((N, D)) + apart * np.eye(D)[y % D], y


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(2, 6), seeds)
def test_folds_are_stratified(counts, folds, seed):
    """Of every class, and of all clips, each fold gets its share, rounded up or down; the seed decides."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    fold = stratified_folds(y, folds, seed)
    for chosen in (np.ones(len(y), bool), *(y == k for k in range(len(counts)))):
        sizes = np.bincount(fold[chosen], minlength=folds)
        assert len(sizes) == folds and sizes.max() - sizes.min() <= 1
    assert np.array_equal(fold, stratified_folds(y, folds, seed))


@settings(max_examples=10)
@given(seeds, st.integers(2, 5))
def test_each_fold_is_projected_by_an_lda_that_has_not_seen_it(seed, folds):
    """Lengths and angles of its projections are those of LDA of the other clips; they are turned as a whole."""
    X, y = blobs(seed)
    lda, fold = LDA().fit(X, y), stratified_folds(y, folds, 0)
    Z = cross_fit(lda, X, y, folds, 0)
    for k in range(folds):
        out = fold == k
        part = LDA().fit(X[~out], y[~out]).transform(X[out])
        assert np.allclose(np.linalg.norm(Z[out], axis=1), np.linalg.norm(part, axis=1))
        assert np.allclose(Z[out] @ Z[out].T, part @ part.T)                  # turned as a whole, nothing else


@settings(max_examples=10)
@given(seeds)
def test_the_axes_of_all_folds_are_those_of_the_whole(seed):
    """Every fold's projection correlates with the whole one on each axis; without turning, signs and order are anybody's."""
    X, y = blobs(seed, N=210, apart=3.0)
    lda = LDA().fit(X, y)
    Z, whole = cross_fit(lda, X, y, 5, 0), lda.transform(X)
    assert min(np.corrcoef(Z[:, k], whole[:, k])[0, 1] for k in range(6)) > 0.9


def separation(Z, y):
    """The share of variance that class means explain."""
    means = np.array([Z[y == k].mean(axis=0) for k in np.unique(y)])
    return ((means[np.searchsorted(np.unique(y), y)] - Z.mean(axis=0))**2).sum() / ((Z - Z.mean(axis=0))**2).sum()


def test_noise_looks_like_classes_to_the_clips_that_lda_was_fitted_on_and_to_no_others():
    """More features than clips, none of them about the label."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((210, 400)), np.arange(210) % 7
    naive = AudioProjection(shrinkage=0.1).fit(X, y)
    fitted = AudioProjection(shrinkage=0.1, folds=5).fit(X, y)
    new = naive.transform(rng.standard_normal((210, 400)))
    assert separation(naive.transform(X), y) > 0.5
    assert separation(fitted.training, y) < 0.1 and separation(new, y) < 0.1
    assert np.allclose(fitted.training.std(axis=0), 1, atol=1e-5)


def test_what_does_not_depend_on_the_order_of_clips_or_the_run():
    X, y = blobs(3)
    one, two = (AudioProjection(shrinkage="cv", clip=3.0, folds=4, seed=5).fit(X, y) for _ in "ab")
    assert one.training.tobytes() == two.training.tobytes() and one.shrinkage == two.shrinkage
    state = one.state_dict()
    other = AudioProjection.from_state(state)
    assert other.training.tobytes() == one.training.tobytes()
    assert other.transform(X).tobytes() == one.transform(X).tobytes()
    assert all(np.array_equal(a, other.state_dict()[name]) for name, a in state.items())
    old = {name: a for name, a in AudioProjection().fit(X, y).state_dict().items()}
    assert not {"clip", "training"} & old.keys() and AudioProjection.from_state(old).training is None


def test_outliers_are_cut_off():
    X, y = blobs(1)
    projection = AudioProjection(clip=6.0).fit(X, y)
    far = X[:1].copy()
    far[0, 2] = 1e6
    near = far.copy()
    near[0, 2] = projection.mean[2] + 6 * projection.spread[2]
    assert np.allclose(projection.transform(far), projection.transform(near), rtol=1e-5)
    assert np.abs(AudioProjection().fit(X, y).transform(far)).max() > 1e3


@pytest.mark.parametrize("noise, small", [(0, True), (300, False)])
def test_shrinkage_by_cross_validation(noise, small):
    """Little where there are few features, more where most are noise; on new clips it beats the other end of the grid."""
    rng = np.random.default_rng(4)

    def draw(N):
        X, y = blobs(rng.integers(1000), N, apart=1.5)
        mixed = X @ (np.eye(9) + 0.9 * np.ones((9, 9)))                       # correlated: shrinking loses something
        return np.hstack([mixed, rng.standard_normal((N, noise))]), y
    (X, y), (new, truth) = draw(210), draw(2100)
    chosen = choose_shrinkage(X, y, 0)
    score = {s: LDA(None, s).fit(X, y).score(new, truth) for s in (chosen, GRID[0], GRID[-1])}
    assert (chosen == "auto" or (chosen <= 0.2) == small) and score[chosen] >= score[GRID[-1] if small else GRID[0]]


def test_where_there_is_nothing_to_leave_out():
    X, y = blobs(0, N=8)
    projection = AudioProjection(shrinkage="cv", folds=5).fit(X, y)          # one class of two clips, six of one
    assert projection.shrinkage == 0.1 and projection.training is None
    X, y = blobs(0, N=14)
    assert AudioProjection(shrinkage="cv", folds=5).fit(X, y).training.shape == (14, 6)


def test_the_network_is_trained_on_projections_out_of_fold_and_tested_on_others(tmp_path):
    train, val = split(0, 21), split(1)
    projection = AudioProjection(shrinkage=0.1, folds=3).fit(train.audio, train.labels)
    trainer = Trainer(TINY.replace(modalities=["audio"]), train, val, tmp_path, projection=projection)
    assert np.array_equal(trainer.train.audio, projection.training)
    assert not np.array_equal(trainer.train.audio, projection.transform(train.audio))
    assert np.array_equal(trainer.val.audio, projection.transform(val.audio))


def negative_log_likelihood(logits, y):
    return -log_softmax(logits, axis=1)[np.arange(len(y)), y].mean()


@settings(max_examples=10)
@given(seeds, st.sampled_from([0.5, 1.0, 2.0]), st.booleans())
@example(11354, 0.5, False)                                                  # t = 1: the end of the range
def test_the_rule_is_that_of_lda_at_the_temperature_of_the_clips(seed, apart, out_of_fold):
    X, y = blobs(seed, N=70, D=30, apart=apart)
    projection = AudioProjection(shrinkage=0.1, folds=5 if out_of_fold else 0).fit(X, y)
    z = projection.training if out_of_fold else projection.transform(X)
    W, b = projection.rule(z, y)
    new = np.random.default_rng(seed).standard_normal((200, 30))
    logits, bayes = projection.transform(new) @ W + b, projection.lda.predict_log_proba(projection.standardise(new))
    np.testing.assert_array_equal(logits.argmax(axis=1), bayes.argmax(axis=1))                 # all priors are alike
    means, prior = projection.lda.transform(projection.lda.means_), np.log(projection.lda.priors_)
    scores = (z * projection.scale) @ means.T - 0.5 * (means**2).sum(axis=1)
    grid = [negative_log_likelihood(t * scores + prior, y) for t in np.linspace(0, 1, 101)]
    assert negative_log_likelihood(z @ W + b, y) <= min(grid) + 1e-6


def test_the_rule_is_less_sure_of_clips_that_lda_has_not_seen():
    X, y = blobs(0, N=70, D=40, apart=1.0)
    seen, unseen = (AudioProjection(shrinkage=0.1, folds=folds).fit(X, y) for folds in (0, 5))
    sure, doubtful = seen.rule(seen.transform(X), y), unseen.rule(unseen.training, y)
    assert np.abs(doubtful[1] - doubtful[1].mean()).max() < 0.5 * np.abs(sure[1] - sure[1].mean()).max()


@pytest.mark.parametrize("modalities", [["audio"], ["audio", "video"]])
def test_a_network_with_a_shortcut_starts_at_the_rule_of_lda(tmp_path, modalities):
    train, val = split(0, 70), split(1, 70)
    projection = AudioProjection(shrinkage=0.1, folds=3).fit(train.audio, train.labels)
    config = TINY.replace(modalities=modalities, audio_shortcut=True)
    trainer = Trainer(config, train, val, tmp_path, projection=projection)
    trainer.start()
    said = trainer.evaluate(trainer.val)[1].argmax(axis=1)
    assert (said == projection.lda.predict(projection.standardise(val.audio))).mean() > 0.95
    kept = np.flatnonzero(train.labels != 3)                                  # nobody is surprised by a class without clips
    train = train.take(kept)
    projection = AudioProjection(shrinkage=0.1, folds=3).fit(train.audio, train.labels)
    trainer = Trainer(config, train, val, tmp_path, projection=projection)
    trainer.start()
    p = trainer.evaluate(trainer.val)[1]
    assert p[:, 3].max() < 0.2 and not (p.argmax(axis=1) == 3).any() and np.isfinite(trainer.evaluate(trainer.val)[0])


@pytest.mark.filterwarnings("ignore:LDA")                                     # 8 components: the last two are for the layers
def test_a_network_with_a_shortcut_learns_what_lda_cannot(tmp_path):
    """Two classes with one mean each, but another spread: LDA is at chance on them, the layers are not."""
    rng, labels = np.random.default_rng(0), np.arange(420) % 7
    X = rng.standard_normal((420, 9)) + 6 * np.eye(9)[np.where(labels == 1, 0, labels)]
    X[labels == 1, :] += 3 * np.sign(rng.standard_normal((60, 1))) * np.eye(9)[8]
    train = Split([str(i) for i in range(420)], labels, None, X)
    projection = AudioProjection(shrinkage=0.1, n_components=8, folds=0).fit(X, labels)
    config = TINY.replace(modalities=["audio"], audio_shortcut=True, audio_layers=(32, 32, 32), dropout=0.0, epochs=60,
                          lr=0.005)
    trainer = Trainer(config, train, train, tmp_path, projection=projection, log=len)
    trainer.fit()
    at_chance = np.isin(labels, (0, 1))
    lda = projection.lda.predict(projection.standardise(X)) == labels
    assert lda[at_chance].mean() < 0.7 < 0.85 < (trainer.evaluate(trainer.val)[1].argmax(axis=1) == labels)[at_chance].mean()


@pytest.mark.parametrize(("shrinkage", "advised"), [(0.0, True), (0.01, True), ("auto", True), (0.1, False), (0.5, False),
                                                    ("cv", False)])
def test_a_shrinkage_is_advised_only_where_it_is_not_in_force(shrinkage, advised):
    """Every clip of a class is the same clip: no shrinkage makes S_W regular."""
    X, y = np.repeat(np.random.default_rng(0).standard_normal((3, 4)), 2, axis=0), np.repeat(np.arange(3), 2)
    with pytest.raises(DataError, match=r"4 features constant within every class.*drop constant and duplicate") as caught:
        AudioProjection(shrinkage=shrinkage).fit(X, y)
    assert ("--set lda_shrinkage=0.1" in str(caught.value)) == ("larger shrinkage" in str(caught.value)) == advised


@given(st.integers(2, 30), st.integers(1, 4), st.integers(1, 3), seeds)
def test_nuisance_is_the_scatter_of_recordings_and_of_corpora(N, K, corpora, seed):
    """By the sums of its docstring, clip by clip and pair by pair."""
    rng = np.random.default_rng(seed)
    Z, y, q = rng.standard_normal((N, 5)), rng.integers(0, 3, N), rng.integers(0, corpora, N)
    V = Z[:, None] + rng.standard_normal((N, K, 5))
    E = nuisance(Z, y, q, V)
    S_V = sum(np.outer(v - z, v - z) for z, vs in zip(Z, V, strict=True) for v in vs) / (N * K)
    pairs = []
    for c in np.unique(y):
        means = [Z[(y == c) & (q == b)].mean(axis=0) for b in np.unique(q[y == c])]
        pairs += [m - np.mean(means, axis=0) for m in means] if len(means) > 1 else []
    S_C = sum((np.outer(d, d) for d in pairs), np.zeros((5, 5))) / max(1, len(pairs))
    assert np.allclose(E.T @ E, S_V + S_C)
    assert nuisance(Z, y) is None and nuisance(Z, y, np.zeros(N, int)) is None


def test_what_rooms_differ_by_is_not_learnt():
    """Two corpora, whose rooms shift a feature, and in one of which a class is more frequent: to some extent LDA takes the
    room for the class. With nuisance it does so half as much, and a third room costs less."""
    rng = np.random.default_rng(3)

    def corpus(N, share, room):
        y = (rng.random(N) < share).astype(int)
        return rng.standard_normal((N, 8)) + 2.5 * y[:, None] * np.eye(8)[0] + room * np.eye(8)[1] * 5, y
    parts = [corpus(200, 0.75, 1.0), corpus(200, 0.25, -1.0)]
    X, y = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    q = np.repeat([0, 1], 200)
    strange, label = corpus(400, 0.5, 2.0)
    plain = AudioProjection(shrinkage=0.1).fit(X, y)
    aware = AudioProjection(shrinkage=0.1).fit(X, y, corpora=q)
    scores = [p.lda.score(p.standardise(strange), label) for p in (plain, aware)]
    share = [abs(p.lda.scalings_[1, 0] / p.lda.scalings_[0, 0]) for p in (plain, aware)]
    assert share[1] < 0.5 * share[0] and scores[1] > scores[0] + 0.05


def test_varied_vectors_count_in_every_fold(monkeypatch):
    """The rows that LDA gets are those of its own clips: none of a clip that is left out."""
    X, y = blobs(0, N=42, D=6)
    V = np.repeat(X[:, None], 2, axis=1) + np.arange(42)[:, None, None] + 1.0     # every clip has differences of its own
    seen = []

    def fit(self, Z, labels, rows=None, gram=None, true=LDA.fit):
        seen.append((len(Z), None if rows is None else len(rows)))
        return true(self, Z, labels, rows, gram)
    monkeypatch.setattr(LDA, "fit", fit)
    AudioProjection(shrinkage=0.1, folds=3).fit(X, y, varied=V)
    assert seen[0] == (42, 84) and all(rows == 2 * clips for clips, rows in seen) and len(seen) == 4
