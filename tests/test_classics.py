"""The models of EmoNets 2013: their parts by formulas, each on data that it alone can tell apart, and the table."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import GradientError
from emonet_scratch.classics import evenly, rows
from emonet_scratch.classics.activity import Activity, RelationalAutoencoder, blocks
from emonet_scratch.classics.belief import BeliefNet, TopTwo, limit_columns
from emonet_scratch.classics.mouths import BagOfMouths, patches
from emonet_scratch.classics.plain import NoShortcut, plain
from emonet_scratch.classics.tubes import FaceTubes, segments
from emonet_scratch.cli import main as emonet
from emonet_scratch.layers import ResidualBlock
from emonet_scratch.models import ResNet
from emonet_scratch.testing import contract
from tests.strategies import check, seeds, sizes, values
from tests.tiny import QUICK, build

# ---- parts ----

@given(sizes, sizes, st.integers(1, 6), seeds)
def test_the_relational_autoencoder(N, D, H, seed):
    layer = RelationalAutoencoder(D, H, np.random.default_rng(seed))
    check(layer, values(seed, N, D))
    contract(layer, values(seed, N, D))


def test_a_wrong_backward_of_it_is_found():
    class Wrong(RelationalAutoencoder):
        def backward(self, dy, cache):
            x, f, h = cache
            dr = dy @ self.W.value
            df = dr * h + dr * f * h * (1 - h) * f                            # the 2 of the square is lost
            self.W.grad += dy.T @ (f * h) + x.T @ df
            return df @ self.W.value.T
    with pytest.raises(GradientError):
        check(Wrong(3, 4), values(0, 5, 3))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), sizes, seeds)
def test_the_two_largest_over_time(lengths, H, seed):
    x = np.arange(sum(lengths) * H, dtype=float)                              # far from ties, where there is a kink
    x = np.random.default_rng(seed).permutation(x).reshape(-1, H)
    y, _ = TopTwo().forward(x, np.array(lengths))
    for clip, row in zip(np.split(x, np.cumsum(lengths)[:-1]), y, strict=True):
        top = np.sort(clip, axis=0)[::-1]
        assert np.allclose(row, (1.4 * top[0] + 0.6 * top[min(1, len(top) - 1)]) / 2)
    check(TopTwo(), x, np.array(lengths))


def test_two_equal_values_and_wrong_lengths():
    y, cache = TopTwo().forward(np.array([[2.0], [2.0], [1.0]]), np.array([3]))
    assert y.tolist() == [[2.0]]
    assert TopTwo().backward(np.array([[1.0]]), cache)[0].ravel().tolist() == [0.7, 0.3, 0]
    for lengths in ([1, 1], [3, 0]):
        with pytest.raises(ValueError, match="expected their sum"):
            TopTwo().forward(np.zeros((3, 1)), np.array(lengths))


def test_columns_are_kept_short():
    W = np.array([[3.0, 0.3, 0], [4, 0.4, 0]])
    limit_columns(W, 2.0)
    assert np.allclose(W, [[1.2, 0.3, 0], [1.6, 0.4, 0]])


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 7), seeds)
def test_segments_of_any_clip(T, number, K, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(K), T).reshape(T, K)
    found = segments(p, number)
    assert found.shape == (number, K) and np.allclose(found.sum(axis=1), 1)
    if T == 0:
        assert (found == 1 / K).all()
    elif T % number == 0:
        assert np.allclose(found, p.reshape(number, -1, K).mean(axis=1))      # every frame in one segment
    elif T < number:
        assert all((row == p).all(axis=1).any() for row in found) and (found[0] == p[0]).all() and (found[-1] == p[-1]).all()


def test_patches_are_where_they_should_be():
    faces = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype(np.uint8)
    found = patches(faces)
    assert found.shape == (16, 2, 3 * 5, 192)
    cut = faces[1, 48 + 12 + 2:48 + 12 + 10, 16 + 32 + 4:16 + 32 + 12].astype(np.float32)     # section 6, second row, third
    flat = cut.transpose(2, 0, 1).ravel() - cut.mean()
    assert np.allclose(found[6, 1, 5 + 2], flat / (cut.std() + 10), atol=1e-5)
    with pytest.raises(ValueError, match="96"):
        patches(faces[:, :48])


def test_blocks_of_short_and_long_clips():
    faces = np.random.default_rng(0).integers(0, 256, (23, 96, 96, 3)).astype(np.uint8)
    assert blocks(faces).shape == (3 * 5 * 5, 2560) and blocks(faces[:1]).shape == (25, 2560)
    small = faces.mean(axis=3).reshape(23, 48, 2, 48, 2).mean(axis=(2, 4))
    cut = small[5:15, 8:24, 16:32]
    assert np.allclose(blocks(faces)[25 + 5 + 2], ((cut - cut.mean()) / (cut.std() + 10)).ravel(), atol=1e-4)
    assert evenly(np.arange(3), 4).tolist() == [0, 1, 2]
    for T in range(5, 60):                                                    # a clip and its reverse show the same frames
        chosen = evenly(np.arange(T), 4)
        assert (chosen == evenly(np.arange(T)[::-1], 4)[::-1]).all() and len(set(chosen)) == 4


def test_a_plain_network_has_the_same_parameters_and_no_way_around():
    rng = np.random.default_rng
    net, whole = plain(ResNet(depth=14, width=4, rng=rng(0))), ResNet(depth=14, width=4, rng=rng(0))
    assert net.state_dict().keys() == whole.state_dict().keys()
    x = values(3, 2, 8, 8, 3).astype(np.float32)
    assert not np.allclose(net.forward(x)[0], whole.forward(x)[0])
    block = ResidualBlock(4, 4, rng=rng(1))
    block.shortcut = NoShortcut()
    x = values(3, 2, 5, 5, 4)
    assert np.allclose(block.astype(np.float64).forward(x)[0], np.maximum(block.body.forward(x)[0], 0))
    check(block, x)


# ---- data made for each: a movement, a mouth, a voice ----

def moving(rng, T=20):
    """Frames of a face with a light band that wanders from left to right."""
    x = np.arange(96)[None, None] - 7 * np.arange(T)[:, None, None] * rng.uniform(0.8, 1.2)
    band = 60 * np.sin(2 * np.pi * x / rng.uniform(28, 36) + rng.uniform(0, 6))
    face = 128 + np.broadcast_to(band, (T, 96, 96)) + rng.normal(0, 3, (T, 96, 96))
    return np.clip(face, 0, 255).astype(np.uint8)[..., None].repeat(3, 3)


def mouth(rng, kind, T=6):
    """A still face of noise with a dark line for a mouth: low and flat, or high and tall."""
    face = rng.normal(140, 12, (1, 96, 96)) + rng.normal(0, 3, (T, 96, 96))
    face[:, 74 - 8 * kind:80, 30 + 8 * kind:66 - 8 * kind] -= 70
    return np.clip(face, 0, 255).astype(np.uint8)[..., None].repeat(3, 3)


def voice(rng, kind, D=12):
    """Frames of sound of which some, at one place, are louder in three numbers."""
    T = int(rng.integers(20, 40))
    x, at = rng.standard_normal((T, D)).astype(np.float32), rng.integers(0, T - 6)
    x[at:at + 6, 3 * kind:3 * kind + 3] += 2
    return x


def halves(y):
    return np.arange(len(y)) < len(y) // 2


def accuracy(model, clips, y):
    first = halves(y)
    model.fit([c for c, t in zip(clips, first, strict=True) if t], y[first])
    p = model.predict_proba([c for c, t in zip(clips, first, strict=True) if not t])
    assert p.shape == (len(y) - first.sum(), model.C) and np.allclose(p.sum(axis=1), 1, atol=1e-5)
    return (p.argmax(axis=1) == y[~first]).mean(), p


def test_a_movement_is_seen_by_the_autoencoder_and_by_no_bag_of_mouths():
    """Both classes have the same frames, one of them in the other order."""
    rng = np.random.default_rng(0)
    clips = [clip for _ in range(32) for c in [moving(rng)] for clip in (c, c[::-1])]
    y = np.arange(64) % 2
    model = Activity(2, units=60, words=30, epochs=5)
    assert accuracy(model, clips, y)[0] >= 0.9
    assert model.losses[-1] < 0.8 * model.losses[0]
    blind, p = accuracy(BagOfMouths(2, words=20), clips, y)
    assert np.allclose(p[::2], p[1::2], atol=1e-5) and blind <= 0.6           # a clip and its reverse are one to it


def test_a_mouth_is_seen_by_the_bag_of_mouths():
    rng = np.random.default_rng(0)
    y = np.arange(48) % 2
    clips = [mouth(rng, k) for k in y]
    clips[5], clips[40] = clips[5][:0], clips[40][:0]                         # no face
    found, p = accuracy(BagOfMouths(2, words=30), clips, y)
    assert found >= 0.9 and np.array_equal(p[40 - 24], [0.5, 0.5])
    elsewhere = [np.roll(clip, -50, axis=1) for clip in clips if len(clip)]   # the same line at the eyes
    assert accuracy(BagOfMouths(2, words=30), elsewhere, np.delete(y, [5, 40]))[0] <= 0.7


@pytest.mark.parametrize("pretrain", [True, False])
def test_a_voice_is_heard_by_the_belief_net(pretrain):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    clips = [voice(rng, k) for k in y]
    model = BeliefNet(3, (32, 32), epochs=30, pretrain=pretrain)
    clips[3], clips[110] = clips[3][:0], clips[110][:0]                       # no sound
    found, p = accuracy(model, clips, y)
    assert found >= 0.8 and np.allclose(p[110 - 60], 1 / 3)
    assert all((np.linalg.norm(p.value, axis=0) <= model.longest + 1e-5).all()
               for p in model.body.parameters() if p.value.ndim == 2)
    faces = [mouth(rng, 0) for _ in y]                                        # the class is in the voice only
    assert accuracy(BagOfMouths(3, words=30), faces, y)[0] <= 0.6
    one = model.predict_proba(clips[:1])
    assert np.allclose(one, model.predict_proba(clips[:3])[:1], atol=1e-6)    # a clip does not depend on its company


def test_a_belief_net_begins_as_the_machines_that_were_stacked():
    """Without a step of backpropagation it computes what the second machine says of what the first one does."""
    rng = np.random.default_rng(0)
    clips = [5 + 3 * voice(rng, k % 2) for k in range(12)]
    net = BeliefNet(2, (8, 6), epochs=0).fit(clips, np.arange(12) % 2)
    x = (clips[0] - net.mean) / net.std
    first, second = net.rbms
    frames = first.up(((np.concatenate(clips) - net.mean) / net.std).astype(np.float32))
    assert np.allclose(net.body.forward(x.astype(np.float32))[0], second.up(first.up(x) / frames.std()), atol=1e-4)


def test_face_tubes_tell_apart_what_the_trunk_sees():
    """Faces of one kind for half of a clip each: which half comes first is in no mean over the clip."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (96, 96, 3)).astype(np.uint8) // (1 + 3 * k) for k in (0, 1))
    clips = []
    for k in range(40):
        order = (a, b) if k % 2 else (b, a)
        clips.append(np.stack([np.clip(one + rng.normal(0, 8, one.shape), 0, 255).astype(np.uint8)
                               for one in order for _ in range(3)]))
    found, _ = accuracy(FaceTubes(2), clips, np.arange(40) % 2)
    assert found >= 0.9
    assert np.allclose(FaceTubes(2).describe([clips[0][:0]]), 1 / 7)


# ---- the table ----

@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classics")
    build(folder / "data")
    assert emonet(["compare", "--data", str(folder / "data"), "--out", str(folder / "run"), *QUICK]) == 0
    plain_table = (folder / "run/compare.txt").read_text()
    return folder, plain_table


NEW = ["video, face tubes", "video, mouths", "video, activity", "audio, belief net", "late fusion, EmoNets",
       "video, after Yao", "audio, class or rest", "audio, every pair"]


def test_the_table_has_them_beside_what_was_there(compared, monkeypatch, capsys):
    folder, before = compared
    monkeypatch.setattr(rows, "DRAWS", 3000)
    assert emonet(["compare", "--run", str(folder / "run"), "--classics", "--device", "cpu"]) == 0
    table = (folder / "run/compare.txt").read_text()
    names = [line[:20].strip() for line in table.splitlines()]
    assert all(name in names for name in NEW)
    assert all(line in table for line in before.splitlines()[:7])             # nothing changes in the other rows
    told = json.loads((folder / "run/compare.json").read_text())
    assert len(told["rows"]) == 6 + len(NEW) and all("p" in row for row in told["rows"][1:])
    labels = np.array(told["labels"])
    for row in told["rows"]:
        assert row["accuracy"] == pytest.approx((np.array(told["predicted"][row["method"]]) == labels).mean())
    assert "docs/classics.md" in table and (folder / "run/compare.png").stat().st_size > 10_000


def test_clips_without_any_face_end_in_one_line(compared, monkeypatch, capsys):
    folder, _ = compared
    real = rows.dataset

    def blind(*args):
        data = real(*args)
        for split in data.splits.values():
            split.frames = [np.empty((0, 96, 96, 3), np.uint8) for _ in split.frames]
        return data
    monkeypatch.setattr(rows, "dataset", blind)
    assert emonet(["compare", "--run", str(folder / "run"), "--classics", "--device", "cpu"]) == 1
    assert "shows a face: leave --classics out" in capsys.readouterr().err


def test_without_being_asked_nothing_of_them_is_imported():
    import subprocess
    import sys
    code = "import sys, emonet_scratch.cli; sys.exit(any('classics' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
