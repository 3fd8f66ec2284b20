"""A batch in shards: cut, added up in the fixed tree, and the gradients of the whole; and what would be caught."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.batches import batches, draws
from emonet_scratch.lda import LDA
from emonet_scratch.models import EmoNet
from emonet_scratch.shards import ALONE, Alone, cut, fold
from emonet_scratch.training.gradients import Gradients
from emonet_scratch.training.projection import AudioProjection, choose_shrinkage
from tests.tiny import TINY, make, rows, split, states

STILL = {"dropout": 0.0, "modality_dropout": 0.0, "trunk_norm": "running"}      # nothing that is drawn, or differs by shard


@given(st.integers(0, 40), st.integers(1, 12))
def test_cut_covers_all_once_in_parts_that_differ_by_one(N, S):
    parts = cut(N, S)
    assert [k for first, end in parts for k in range(first, end)] == list(range(N))
    sizes = [end - first for first, end in parts]
    assert len(parts) == min(N, S) and (not sizes or (min(sizes) >= 1 and max(sizes) - min(sizes) <= 1))


@given(st.integers(1, 20), st.integers(1, 20))
def test_every_part_is_owned_by_one_rank_in_the_order_of_ranks(S, size):
    def of(rank):
        one = Alone()
        one.rank, one.size = rank, size
        return list(one.owned(S))
    assert [k for rank in range(size) for k in of(rank)] == list(range(S))


def tree(parts):
    """The definition: neighbours in pairs, a last one without a neighbour as it is, level by level."""
    while len(parts) > 1:
        parts = [parts[k] + parts[k + 1] if k + 1 < len(parts) else parts[k] for k in range(0, len(parts), 2)]
    return parts[0]


@given(st.integers(1, 17), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_whoever_adds_up_what_it_has_the_sum_is_that_of_the_tree(S, size, seed):
    """Each rank folds its own parts; all that is left, folded, has the bits of the tree over single parts."""
    parts = list(np.random.default_rng(seed).standard_normal((S, 3)).astype(np.float32))
    nodes, sent = {}, []
    for rank in range(size):
        one = Alone()
        one.rank, one.size = rank, size
        own = one.nodes([parts[k].copy() for k in one.owned(S)], S)
        assert list(own) == list(alone_of(size).nodes([0] * S, S, rank))       # as the others expect it
        sent.append(len(own))
        nodes |= own
    found = fold(nodes, S)
    assert len(found) == 1 and found.popitem()[1].tobytes() == tree(parts).tobytes()
    assert max(sent) <= 2 * max(1, (S - 1).bit_length())
    want = tree(parts).tobytes()
    assert ALONE.total(iter(parts), S, 3, parts[0]).tobytes() == want


def alone_of(size):
    one = Alone()
    one.size = size
    return one


def gradients_of(config, batch, shards, weights=None, kind=Gradients):
    """(loss, clips right, gradients by name, buffers by name) in float64."""
    model = EmoNet(config.replace(shards=shards), 9, np.random.default_rng(5)).astype(np.float64)
    rng = np.random.default_rng(6)
    for p in model.parameters():
        p.value[...] = 0.3 * rng.standard_normal(p.value.shape)
    compute = kind(model, model.parameters(), weights, "cpu", ALONE)
    loss, right = compute(batch, 3, model.save_buffers())
    return loss, right, {p.name: p.grad for p in model.parameters()}, model.named_buffers()


def check_shards(config, batch, shards, weights=None, kind=Gradients):
    one, many = gradients_of(config, batch, 1, weights), gradients_of(config, batch, shards, weights, kind)
    assert many[0] == pytest.approx(one[0], rel=1e-12) and many[1] == one[1]
    for name, g in one[2].items():
        assert np.abs(many[2][name] - g).max() <= 1e-12 * max(1, np.abs(g).max()), name


@given(st.integers(1, 11), st.integers(2, 8), st.booleans(), st.sampled_from([("audio",), ("video",), ("audio", "video")]),
       st.sampled_from([0.0, 0.1]), st.integers(0, 2**32 - 1))
def test_shards_have_the_gradients_of_the_whole_batch(N, shards, weighted, modalities, smoothing, seed):
    config = TINY.replace(**STILL, modalities=modalities, label_smoothing=smoothing, batch_size=N)
    rng = np.random.default_rng(seed)
    batch = next(batches(split(seed, n=11), N, 3, seed=seed, training=True))
    batch.audio = batch.audio.astype(np.float64)
    check_shards(config, batch, shards, rng.uniform(0.2, 5, 7) if weighted else None)


class IntoATemporary(Gradients):
    """A planted bug: what is summed never reaches the parameters."""

    def _unpack(self, row):
        kept = [p.grad.copy() for p in self.params]
        found = super()._unpack(row)
        for p, grad in zip(self.params, kept, strict=True):
            p.grad[...] = grad
        return found


class Averaged(Gradients):
    """A planted bug: shards count alike, however many clips they have."""

    def _parts(self, batch):
        parts = super()._parts(batch)
        return [(first, end, 1 / len(parts)) for first, end, _ in parts]


@pytest.mark.parametrize("bug", [IntoATemporary, Averaged])
def test_planted_bugs_are_caught(bug):
    batch = next(batches(split(0, n=11), 11, 3, training=True))
    with pytest.raises(AssertionError):
        check_shards(TINY.replace(**STILL), batch, 4, kind=bug)


def test_buffers_move_by_the_shares_of_the_shards_and_constants_not_at_all():
    """trunk_norm="batch": the statistics of each shard, by its share of the clips; fixed ones keep every bit."""
    batch = next(batches(split(0, n=11), 11, 3, training=True))
    moved = gradients_of(TINY.replace(dropout=0.0, trunk_norm="batch"), batch, 3)[3]
    parts = [gradients_of(TINY.replace(dropout=0.0, trunk_norm="batch"), batch.part(first, end), 1)[3]
             for first, end in cut(11, 3)]
    for name, buffer in moved.items():
        if buffer.dtype.kind == "f":
            mean = sum((end - first) / 11 * part[name] for (first, end), part in zip(cut(11, 3), parts, strict=True))
            assert np.allclose(buffer, mean, rtol=1e-12, atol=1e-14), name
    fixed = EmoNet(TINY.replace(**STILL), 9, np.random.default_rng(5)).astype(np.float64).named_buffers()
    for name, buffer in gradients_of(TINY.replace(**STILL), batch, 3)[3].items():
        assert "counter" in name or buffer.tobytes() == fixed[name].tobytes(), name


def test_a_part_of_a_draw_is_that_of_the_batch():
    options = {"seed": 4, "training": True, "jitter": True, "modality_dropout": 0.4}
    part = split(3, n=11)
    for draw, batch in zip(draws(part, 4, 3, **options), batches(part, 4, 3, **options), strict=True):
        for first, end in cut(len(draw), 3):
            one, other = draw.part(first, end), batch.part(first, end)
            for name in ("frames", "lengths", "audio", "labels"):
                assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_one_shard_draws_dropout_as_without_shards_and_several_by_step_and_shard(tmp_path):
    """The key of a mask is the number of calls with one shard, and (step, shard) with several."""
    for shards, per_step in ((1, 1), (4, 4)):
        trainer = make(tmp_path / str(shards), TINY.replace(shards=shards, epochs=1))
        trainer.fit()
        counters = [b for name, b in trainer.model.named_buffers().items() if name.endswith("counter")]
        assert counters and all(c[1] == trainer.optimizer.t * per_step for c in counters)


def test_a_training_in_shards_resumes_to_the_same_bytes(tmp_path):
    config = TINY.replace(shards=4)
    make(tmp_path / "whole", config, seed=3).fit()
    stopped = make(tmp_path / "stopped", config, seed=3, save_every=2, on_epoch=lambda row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stopped.fit()
    make(tmp_path / "stopped", config, seed=3, save_every=2).fit(resume=True)
    assert states(tmp_path / "stopped") == states(tmp_path / "whole")
    assert len(rows(tmp_path / "stopped")) == 2 * config.epochs


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_gram_by_the_tree(N, S, seed):
    U = np.random.default_rng(seed).standard_normal((N, 4))
    assert np.allclose(ALONE.gram(U, S), U.T @ U, rtol=1e-12, atol=1e-12 * N)


def test_lda_with_the_scatter_of_a_tree_is_that_without():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = rng.standard_normal((90, 5)) + y[:, None]
    plain, tree = LDA().fit(X, y), LDA().fit(X, y, gram=lambda U: ALONE.gram(U, 8))
    assert np.allclose(plain.scalings_, tree.scalings_, rtol=1e-9) and plain.solver_ == "eigh"


class Halves(Alone):
    """A stand-in for rank 0 of two, whose exchange also does the work of the other."""

    def spread(self, function, items):
        items, found = list(items), {}
        for k in reversed(range(len(items))):                                 # in another order, the same
            found[k] = np.asarray(function(items[k]), np.float64).ravel()
        return [found[k] for k in range(len(items))]


def test_shrinkage_and_projections_do_not_depend_on_who_fits_what():
    rng = np.random.default_rng(1)
    y = np.arange(70) % 7
    X = rng.standard_normal((70, 12)) + 2 * np.eye(12)[y]
    assert choose_shrinkage(X, y, 0) == choose_shrinkage(X, y, 0, ranks=Halves())
    one = AudioProjection(shrinkage="cv", folds=3).fit(X, y, shards=4).state_dict()
    two = AudioProjection(shrinkage="cv", folds=3).fit(X, y, shards=4, ranks=Halves()).state_dict()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_rounds_say_all_in_order():
    seen = []

    def work(some):
        seen.append(len(some))
        return [2 * k for k in some]
    assert list(ALONE.rounds(work, range(40))) == [(k, 2 * k) for k in range(40)] and seen == [16, 16, 8]
