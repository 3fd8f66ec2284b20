"""A number that is not finite stops the training, is traced to its layer, and reaches no checkpoint."""

import os

import numpy as np
import pytest

from emonet_scratch import layers
from emonet_scratch.training import NonFiniteError, read_checkpoint
from tests.tiny import TINY, make


class Poisoned(layers.Layer):
    """Passes x through until the n-th backward or forward, then gives NaN."""

    def __init__(self, kind, n):
        self.kind, self.n, self.calls = kind, n, 0

    def _pass(self, x, kind):
        if kind != self.kind or not self.training:
            return x
        self.calls += 1
        return x * np.nan if self.calls >= self.n else x

    def forward(self, x):
        return self._pass(x, "forward"), None

    def backward(self, dy, cache):
        return self._pass(dy, "backward")


@pytest.mark.parametrize("kind, what, evidence", [("forward", "loss", "in the output of audio.poison, "),
                                                  ("backward", "gradient", "in the input gradient of audio.poison, ")])
def test_a_value_that_is_not_finite_is_traced_to_its_layer(tmp_path, kind, what, evidence):
    trainer = make(tmp_path, save_every=1)
    trainer.model.audio.poison = Poisoned(kind, 4)
    with pytest.raises(NonFiniteError) as error:
        trainer.fit()
    assert f"the {what} is not finite in epoch 1, step 4: it appeared first {evidence}" in str(error.value)
    assert "\n" not in str(error.value)
    groups, meta = read_checkpoint(tmp_path / "last.safetensors")
    assert meta["progress"]["batch"] == 3 and all(np.isfinite(a).all() for g in groups.values() for a in g.values())


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path):
    trainer = make(tmp_path)
    trainer.val.audio[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"validation loss is not finite .*in the output of audio\.dense1, "):
        trainer.fit()
    assert sorted(os.listdir(tmp_path)) == ["last.safetensors"]


def test_a_parameter_that_is_not_finite_is_named(tmp_path):
    trainer = make(tmp_path)
    trainer.model.lstm.cells[1].W_hh.value[0, 0] = np.inf
    with pytest.raises(NonFiniteError, match=r"in the parameter lstm\.cells\.1\.W_hh"):
        trainer.fit()


@pytest.mark.parametrize("decay, remedy", [(0.0, "a smaller lr than 1e"),
                                           (0.1, r"lower lr \(1e\+20\) or weight_decay \(0\.1\)")])
def test_a_learning_rate_that_is_too_high_is_the_suspect(tmp_path, decay, remedy):
    with pytest.raises(NonFiniteError, match=remedy), np.errstate(all="ignore"):
        make(tmp_path, TINY.replace(optimizer="sgd", lr=1e20, weight_decay=decay, clip_norm=None, epochs=30)).fit()


def test_parameters_that_are_not_finite_never_reach_a_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match=r"is not finite after step 1: "):
        make(tmp_path, TINY.replace(lr=9e37, weight_decay=1e3, schedule="constant"), save_every=1).fit()
    groups, _ = read_checkpoint(tmp_path / "last.safetensors")
    assert all(np.isfinite(a).all() for a in groups["model"].values())
