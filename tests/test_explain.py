"""Gates of an LSTM and terms of LDA."""

import numpy as np
import pytest

from emonet_scratch.data.sound.is10 import FEATURE_NAMES
from emonet_scratch.explain.descriptors import in_words, moved
from emonet_scratch.explain.gates import gates_figure, gates_of
from emonet_scratch.layers import LSTM
from emonet_scratch.training.projection import AudioProjection
from emonet_scratch.training.report import save_figure


def test_gates_are_those_that_the_lstm_has():
    rng = np.random.default_rng(0)
    lstm, x = LSTM(5, 4, num_layers=3, rng=rng), rng.standard_normal((7, 5)).astype(np.float32)
    found = gates_of(lstm, x)
    assert all(part.shape == (3, 7, 4) for part in found)
    (_, (_, c)), _ = lstm.forward(x[:, None], None)
    np.testing.assert_allclose(found.c[:, -1], c[:, 0], rtol=1e-5, atol=1e-6)
    assert all(0 <= part.min() and part.max() <= 1 for part in found[:3])


def test_an_open_forget_gate_keeps_the_cell():
    lstm = LSTM(1, 1, rng=np.random.default_rng(0))
    cell = lstm.cells[0]
    for p, value in ((cell.W_ih, [[20.0, 0, 20, 0]]), (cell.W_hh, [[0, 0, 0, 0]]), (cell.b, [-10.0, 30, 0, 0])):
        p.value[...] = value
    x = np.array([[0.0], [1], [0], [0]], np.float32)                          # written at the second step, kept from then on
    found = gates_of(lstm, x)
    assert found.c[0, :, 0] == pytest.approx([0, 1, 1, 1], abs=1e-3) and found.f.min() > 0.99 and found.i[0, 0, 0] < 0.01


def test_gates_are_drawn(tmp_path):
    lstm = LSTM(5, 4, num_layers=2, rng=np.random.default_rng(0))
    save_figure(tmp_path / "gates.png", gates_figure, gates_of(lstm, np.ones((9, 5), np.float32)))
    assert (tmp_path / "gates.png").stat().st_size > 5000


def test_terms_add_up_to_what_lda_says():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((90, 6)) * [1, 2, 3, 4, 5, 6] + 7, np.arange(90) % 3
    X[:, 2] += 5 * y
    projection = AudioProjection(shrinkage=0.1).fit(X, y)
    names = tuple("abcdef")
    terms = moved(projection, names, X[0], 0, count=6)
    scores = projection.lda.coef_ @ (projection.standardise(X[:1])[0] - projection.lda.mean_)
    assert sum(term.moves for term in terms) == pytest.approx(scores[0]) and terms[0].name == "c"
    assert [abs(t.moves) for t in terms] == sorted((abs(t.moves) for t in terms), reverse=True)
    with pytest.raises(ValueError, match="class 5"):
        moved(projection, names, X[0], 5)


def test_every_descriptor_has_words():
    words = [in_words(name) for name in FEATURE_NAMES]
    assert not set(words) & set(FEATURE_NAMES) and len(set(words)) == len(words)
    assert in_words("F0final_sma_amean") == "mean of pitch" and in_words("unknown_thing") == "unknown_thing"
