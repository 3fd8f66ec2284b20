"""One clip as a CUDA graph: gpu/graph.py on the stand-in of tests/device.py, whose graphs note every operation.

What is replayed are the noted operations alone, in their own memory; a capture with anything in it that CUDA or CuPy would
refuse is an error of the stand-in.
"""

import numpy as np
import pytest

from emonet_scratch import dispatch, layers
from emonet_scratch.gpu import graph
from emonet_scratch.models import EmoNet, EmoNetConfig, ResNet
from tests import device

CONFIG = EmoNetConfig.preset("small").replace(frame_size=8, trunk_width=16, lstm_size=8, lstm_layers=2, audio_layers=[8],
                                              fusion_layers=[8])
VARIANTS = {"small": {}, "both": {"frames_per_chunk": 2, "trunk_norm": "running"},
            "average": {"trunk_pooling": "average", "frames_per_chunk": 3},
            "frozen": {"freeze_trunk": True, "frames_per_chunk": 2, "trunk_pooling": "average"},
            "audio": {"modalities": ["audio"]}, "shortcut": {"audio_shortcut": True},
            "video": {"modalities": ["video"], "lstm_output": "top", "feature_norm": False}}


@pytest.fixture(autouse=True)
def enabled(shim, monkeypatch):
    monkeypatch.setattr(graph, "enabled", True)
    graph._graphs.clear()


@pytest.fixture
def replays(monkeypatch):
    """How often a graph was replayed."""
    count, replay = [], graph._Graph.replay
    monkeypatch.setattr(graph._Graph, "replay", lambda self, *inputs: (count.append(1), replay(self, *inputs))[1])
    return count


def clip(shim, T=5, seed=0):
    rng = np.random.default_rng(seed)
    return (shim.asarray(rng.integers(0, 256, (T, 8, 8, 3), np.uint8)), [T],
            shim.asarray(rng.standard_normal((1, 6)).astype(np.float32)))


def plain(model, inputs):
    """The same kernels, launched one by one."""
    with graph.own_products():
        return EmoNet.forward.__wrapped__(model, *inputs)[0].get()


def make(changes=None, seed=0):
    model = EmoNet(CONFIG.replace(**(changes or {})), rng=np.random.default_rng(seed)).to_device("cuda:0").eval()
    for _, layer in model.walk():
        if isinstance(layer, layers.BatchNorm):
            layer.running_var[...] = 0.7
    if hasattr(model, "shortcut"):                                            # which is 0 at first
        model.shortcut.W.value[...] = 0.3
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_cuda_twin_EmoNet(shim, replays, variant):
    """The third clip of a shape and all that follow are replays, with the bits of single launches."""
    model = make(VARIANTS[variant])
    for seed in range(4):
        inputs = clip(shim, seed=seed)
        logits, _ = model.forward(*inputs)
        if seed:
            assert logits.get().tobytes() == plain(model, inputs).tobytes()
    assert len(replays) == 3
    near = EmoNet.forward.__wrapped__(model, *inputs)[0].get()                # with cuBLAS
    assert np.allclose(logits.get(), near, rtol=1e-4, atol=1e-5)


def test_cuda_twin_ResNet(shim, replays):
    """One image; two are launched one by one."""
    model, rng = ResNet(8, width=16, rng=np.random.default_rng(0)).to_device("cuda:0").eval(), np.random.default_rng(1)
    for _ in range(3):
        x = shim.asarray(rng.standard_normal((1, 5, 7, 3)).astype(np.float32))
        y, _ = model.forward(x)
    with graph.own_products():
        want = ResNet.forward.__wrapped__(model, x)[0].get()
    assert len(replays) == 2 and y.get().tobytes() == want.tobytes()
    for _ in range(3):
        assert model.forward(shim.asarray(np.zeros((2, 5, 7, 3), np.float32)))[0].shape == (2, 10)
    assert len(replays) == 2


def test_a_replay_sees_parameters_that_changed_and_a_new_graph_those_that_were_replaced(shim, replays):
    model, inputs = make(), clip(shim)
    for _ in range(2):
        before = model.forward(*inputs)[0].get()
    for p in model.parameters():
        p.value *= 1.5
    model.trunk.layer.resnet.bn.running_var[...] = 0.3                        # folded into filters inside of the graph
    after = model.forward(*inputs)[0].get()
    assert len(replays) == 2 and not np.array_equal(before, after) and np.array_equal(after, plain(model, inputs))
    model.to_device("cpu").to_device("cuda:0")
    for value in model.trunk.layer.resnet.conv.W, model.fusion.dense1.W:
        value.value *= 2.0
    assert np.array_equal(model.forward(*inputs)[0].get(), EmoNet.forward.__wrapped__(model, *inputs)[0].get())
    assert len(replays) == 2
    assert np.array_equal(model.forward(*inputs)[0].get(), plain(model, inputs)) and len(replays) == 3


def test_results_do_not_change_with_the_next_clip(shim):
    model = make()
    for seed in range(3):
        first = model.forward(*clip(shim, seed=seed))[0]
    kept = first.get()
    model.forward(*clip(shim, seed=9))
    assert np.array_equal(first.get(), kept)


def test_only_so_many_graphs_are_kept(shim, monkeypatch):
    monkeypatch.setattr(graph, "MOST_GRAPHS", 2)
    model = make({"modalities": ["audio"]})
    frames, _, audio = clip(shim)
    for T in (1, 1, 2, 2, 1, 3, 3, 1):                                        # 2 was used longest ago when 3 came
        model.forward(frames, [T], audio)
    kept = graph._graphs[model]
    assert [key[0][1] for key in kept] == [(3,), (1,)] and all(isinstance(g, graph._Graph) for g in kept.values())
    del model
    assert len(graph._graphs) == 0


@pytest.mark.parametrize("why", ["off", "training", "two clips", "on the host"])
def test_everything_else_goes_on_as_before(shim, monkeypatch, replays, why):
    model, (frames, lengths, audio) = make({"modalities": ["audio"]}), clip(shim)
    if why == "off":
        monkeypatch.setattr(graph, "enabled", False)
    elif why == "training":
        model.train()
    elif why == "two clips":
        lengths, audio = [2, 3], shim.asarray(np.ones((2, 6), np.float32))
    else:
        model, audio = model.to_device("cpu"), np.ones((1, 6), np.float32)
    for _ in range(3):
        assert model.forward(frames, lengths, audio)[0].shape == (len(lengths), 7)
    assert not replays and len(graph._graphs.get(model, ())) == 0


def test_backward_of_a_replay(shim):
    model, inputs = make(), clip(shim)
    for _ in range(2):
        model.forward(*inputs)
    _, cache = model.forward(*inputs)
    assert isinstance(cache, dispatch.TwinCache)
    found = []
    for kept in (cache, EmoNet.forward.__wrapped__(model, *inputs)[1]):
        model.zero_grad()
        _, daudio = model.backward(shim.asarray(np.ones((1, 7), np.float32)), kept)
        found.append([daudio.get(), *(p.grad.get() for p in model.parameters())])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


PLANTED = {"a copy to the host": lambda x: x.get(), "a number for the host": lambda x: float(x.sum()),
           "a copy from the host": lambda x: device.cupy.asarray(np.ones(3)), "cuBLAS": lambda x: x.T @ x}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_work_that_cannot_be_captured_is_found_and_said_once(shim, monkeypatch, recwarn, replays, what):
    """The stand-in refuses it, so a capture without a warning has none of it; the clip is still evaluated."""
    model, inputs = make({"modalities": ["audio"]}), clip(shim)
    forward = layers.ReLU.forward
    monkeypatch.setattr(layers.ReLU, "forward", lambda self, x: (PLANTED[what](x), forward(self, x))[1])
    for _ in range(4):
        logits, _ = model.forward(*inputs)
    assert [str(w.message) for w in recwarn] == [
        f"EMONET_GRAPH: no graph of this EmoNet(audio), its kernels are launched one by one: {what} while a stream captures"]
    assert not replays and device.recording is None
    assert np.array_equal(logits.get(), EmoNet.forward.__wrapped__(model, *inputs)[0].get())


def test_planted_memory_of_the_common_pool_is_found(shim, monkeypatch):
    monkeypatch.setattr(device.cupy.cuda, "using_allocator", lambda allocator: device.Stream())
    model, inputs = make({"modalities": ["audio"]}), clip(shim)
    with pytest.warns(UserWarning, match="memory of the common pool while a stream captures"):
        for _ in range(2):
            model.forward(*inputs)


def test_a_planted_graph_that_cannot_be_launched_is_found_when_it_is_made(shim, monkeypatch, replays):
    def refuse(self, stream):
        raise RuntimeError("cudaErrorInvalidValue")
    monkeypatch.setattr(device.Graph, "launch", refuse)
    model, inputs = make({"modalities": ["audio"]}), clip(shim)
    model.forward(*inputs)
    with pytest.warns(UserWarning, match="cudaErrorInvalidValue"):
        logits, _ = model.forward(*inputs)
    assert not replays and np.array_equal(logits.get(), EmoNet.forward.__wrapped__(model, *inputs)[0].get())
