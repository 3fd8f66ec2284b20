"""A trained network, with all that stands before and behind it, as one ONNX graph.

    frames (T, H, W, 3) uint8, has_frames bool        features (D,) float64, has_sound bool
    -> probabilities (C,) float32, calibrated

What the graph computes is `Model.probabilities` of one clip: pixels normalised, ResNet, pooling or statistics by quarters,
LSTM over evenly spaced frames in `test_windows` windows; descriptors standardised, clipped, projected by LDA; fusion,
softmax, the mean over windows, the temperature. Operators: https://onnx.ai/onnx/operators, set 18; a map is (N, C, H, W)
there, where it is (N, H, W, C) here.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, WeightsError
from ..files import read_whole, write_whole
from ..layers import LSTM, BatchNorm, Conv2d, Dense, Dropout, GlobalAveragePool, PadShortcut, ReLU, ResidualBlock, Sequential
from ..models import EmoNet, ResNet
from ..training.inference import Model
from ..training.projection import AudioProjection
from ..version import __version__
from ..weights import Bounded

OPSET = 18
#: From our order of gates, i f g o, to that of ONNX: i o f c, where c is our g.
GATES = (0, 3, 1, 2)


def import_onnx() -> Any:
    """The package onnx, or a DataError that says how to get it."""
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise DataError(f"an ONNX graph needs the package onnx ({error}): pip install 'emonet_scratch[onnx]'") from error


class Graph:
    """Nodes and constants of a graph that grows; values go by name.

    fold: batch norm behind a convolution becomes part of its filters and bias.
    """

    def __init__(self, fold: bool) -> None:
        self.onnx, self.fold = import_onnx(), fold
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def __call__(self, kind: str, *inputs: str | np.ndarray, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """A node; the name of its output, or of its outputs. Arrays among the inputs become constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        given = [name or f"{kind}_{len(self.nodes)}{f'_{k}' * (outputs > 1)}" for k in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, names, given, **attributes))
        return given[0] if outputs == 1 else given

    def constant(self, value: Any, name: str = "") -> str:
        """The name of a constant: of a parameter its own, of equal ones the same."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        name = name or next((known for known, other in self.constants.items() if known.startswith("c_") and
                             other.dtype == array.dtype and np.array_equal(other, array)), f"c_{len(self.constants)}")
        self.constants.setdefault(name, array)
        return name

    # ---- layers, in evaluation mode ----

    def row(self, layer: Sequential, x: str, name: str) -> str:
        """Layers in a row; a convolution and the batch norm behind it at once."""
        parts = list(layer.children())
        while parts:
            path, part = parts.pop(0)
            if isinstance(part, Conv2d):                                      # of a ResNet: a norm is behind it
                norm, after = parts.pop(0)
                x = self.convolution(part, after, x, f"{name}.{path}", f"{name}.{norm}")
            else:
                x = self.layer(part, x, f"{name}.{path}")
        return x

    def layer(self, layer: Any, x: str, name: str) -> str:
        """Any layer but a convolution: x (N, C, H, W) or (N, D); DataError for one that has no counterpart."""
        if isinstance(layer, Sequential):
            return self.row(layer, x, name)
        if isinstance(layer, ResidualBlock):
            return self("Relu", self("Add", self.row(layer.body, x, f"{name}.body"),
                                     self.layer(layer.shortcut, x, f"{name}.shortcut")))
        if isinstance(layer, PadShortcut):
            view = self("Slice", x, i64(0, 0), i64(2**31, 2**31), i64(2, 3), i64(layer.stride, layer.stride))
            after = layer.F - layer.C - layer.before
            return self("Pad", view, i64(0, layer.before, 0, 0, 0, after, 0, 0))
        if isinstance(layer, Dense):
            return self("Gemm", x, self.constant(layer.W.value, f"{name}.W"), self.constant(layer.b.value, f"{name}.b"))
        if isinstance(layer, ReLU):
            return self("Relu", x)
        if isinstance(layer, Dropout):
            return x
        if isinstance(layer, GlobalAveragePool):
            return self("ReduceMean", x, i64(2, 3), keepdims=0)
        if isinstance(layer, BatchNorm):
            return self("BatchNormalization", x, *(self.constant(a, f"{name}.{key}") for key, a in (
                ("gamma", layer.gamma.value), ("beta", layer.beta.value), ("running_mean", layer.running_mean),
                ("running_var", layer.running_var))), epsilon=layer.eps)
        raise DataError(f"{layer!r} has no counterpart in ONNX")

    def convolution(self, conv: Conv2d, norm: BatchNorm, x: str, name: str, name_of_norm: str) -> str:
        """conv (no bias) and the norm behind it: y = conv(x) g + (beta - mean g), g = gamma / sqrt(var + eps)."""
        W = conv.W.value.transpose(3, 2, 0, 1)                                # (KH, KW, C, F) -> (F, C, KH, KW)
        sizes = {"strides": [conv.stride] * 2, "pads": [conv.padding] * 4}
        if not self.fold:
            return self.layer(norm, self("Conv", x, self.constant(W, f"{name}.W"), **sizes), name_of_norm)
        g = norm.gamma.value / np.sqrt(norm.running_var + norm.eps)
        return self("Conv", x, self.constant(W * g[:, None, None, None], f"{name}.W"),
                    self.constant(norm.beta.value - norm.running_mean * g, f"{name}.b"), **sizes)

    def lstm(self, lstm: LSTM, x: str) -> list[str]:
        """x (T, N, D) -> the last state of each layer, (N, H)."""
        states = []
        for k, cell in enumerate(lstm.cells):
            H = cell.H
            order = np.concatenate([np.arange(g * H, (g + 1) * H) for g in GATES])
            W, R, b = (a[..., order].T[None] for a in (cell.W_ih.value, cell.W_hh.value, cell.b.value))
            y, h, _ = self("LSTM", x, *(self.constant(a, f"lstm.{k}.{key}") for key, a in (
                ("W", W), ("R", R), ("B", np.concatenate([b, np.zeros_like(b)], axis=1)))), outputs=3, hidden_size=H)
            x = self("Squeeze", y, i64(1))                                    # (T, 1 direction, N, H)
            states.append(self("Squeeze", h, i64(0)))
        return states


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def video(g: Graph, net: EmoNet, T: str) -> tuple[str, str | None]:
    """(features of frames (T, D); looks (1, 2 4 D) float64, where the network has any)"""
    config, parts = net.config, dict(net.trunk.layer.children())
    normalize = parts["normalize"]
    x = g("Add", g("Mul", g("Cast", "frames", to=1), normalize.scale), normalize.shift)
    x = g.row(parts["resnet"], g("Transpose", x, perm=[0, 3, 1, 2]), "trunk")
    looks = None
    if config.trunk_statistics:
        side = (config.frame_size + 3) // 4
        half, cuts = (side + 1) // 2, []
        for top, left in ((0, 0), (0, 1), (1, 0), (1, 1)):                    # as training.trunk.quarters
            start, end = ([(side - half) * at for at in (top, left)], [half + (side - half) * at for at in (top, left)])
            cuts.append(g("ReduceMean", g("Slice", x, i64(*start), i64(*end), i64(2, 3)), i64(2, 3), keepdims=0))
        looks = statistics(g, g("Cast", g("Concat", *cuts, axis=1), to=11), T)
        x = g("ReduceMean", g("Concat", *(g("Unsqueeze", cut, i64(1)) for cut in cuts), axis=1), i64(1), keepdims=0)
    elif config.trunk_pooling == "average":
        x = g.layer(parts["pool"], x, "pool")
    else:
        x = g("Reshape", g("Transpose", x, perm=[0, 2, 3, 1]), i64(-1, net.lstm.D))
    return (g.layer(parts["norm"], x, "norm") if "norm" in parts else x), looks


def statistics(g: Graph, x: str, T: str) -> str:
    """Mean and range, 90th less 10th percentile, of x (T, D) over time -> (1, 2 D), as `training.trunk.statistics`."""
    ordered, _ = g("TopK", x, g("Reshape", T, i64(1)), outputs=2, axis=0, largest=0, sorted=1)
    last, ends = g("Sub", T, i64(1)[0]), []
    for q in (0.1, 0.9):
        at = g("Mul", g("Cast", last, to=11), np.float64(q))
        low = g("Floor", at)
        below, above = (g("Gather", ordered, g("Cast", which, to=7), axis=0) for which in (low, g("Ceil", at)))
        ends.append(g("Add", below, g("Mul", g("Sub", above, below), g("Sub", at, low))))
    both = g("Concat", g("ReduceMean", x, i64(0), keepdims=0), g("Sub", ends[1], ends[0]), axis=0)
    return g("Unsqueeze", both, i64(0))


def windows(g: Graph, x: str, T: str, count: int | None, number: int) -> str:
    """x (T, D) -> (steps, windows, D), the frames that `sample_frames` takes for each window; all, once, of a short clip."""
    if count is None:
        return g("Unsqueeze", x, i64(1))
    steps = g("Range", i64(0)[0], g("Min", T, i64(count)[0]), i64(1)[0])
    parts = g("Add", g("Mul", g("Unsqueeze", steps, i64(1)), i64(2 * number)[0]), i64(*range(1, 2 * number, 2)))
    spaced = g("Div", g("Mul", parts, T), i64(2 * number * count)[0])         # (steps, windows)
    every = g("Add", g("Unsqueeze", steps, i64(1)), i64(*[0] * number))
    return g("Gather", x, g("Where", g("LessOrEqual", T, i64(count)[0]), every, spaced), axis=0)


def project(g: Graph, projection: AudioProjection, x: str, has: str) -> str:
    """`AudioProjection.transform` of x (1, D) float64 -> (1, K) float32; zeros where there is nothing to project."""
    z = g("Div", g("Sub", x, projection.mean[None]), projection.spread[None])
    if projection.clip is not None:
        z = g("Clip", z, np.float64(-projection.clip), np.float64(projection.clip))
    lda = projection.lda
    z = g("Div", g("MatMul", g("Sub", z, lda.mean_[None]), lda.scalings_), projection.scale[None])
    return g("Where", has, g("Cast", z, to=1), np.float32(0))


def graph_of(model: Model, fold: bool = False) -> Any:
    """The ONNX model of a trained network: inputs, outputs and metadata as this module's text says.

    fold: filters with batch norm in them: fewer nodes, other roundings. DataError without the package onnx.
    """
    g, net, config = Graph(fold), model.net.eval(), model.config
    helper, number, branches, heard = g.onnx.helper, 1, [], []
    sees = "video" in config.modalities
    inputs = []
    if sees:
        inputs += [("frames", 2, ["T", config.frame_size, config.frame_size, 3]), ("has_frames", 9, [])]
        T = g("Gather", g("Shape", "frames"), i64(0)[0])
        x, looks = video(g, net, T)
        number = config.test_windows if config.frames is not None else 1
        states = g.lstm(net.lstm, windows(g, x, T, config.frames, number))
        states = states if config.lstm_output == "all" else states[-1:]
        branches.append(g("Where", "has_frames", g("Concat", *states, axis=1), np.float32(0)))
    if model.projection:
        inputs += [("features", 11, [len(model.projection.mean)]), ("has_sound", 9, [])]
        heard.append(project(g, model.projection, g("Unsqueeze", "features", i64(0)), "has_sound"))
    if model.looks:
        heard.append(project(g, model.looks, looks, "has_frames"))
    if heard:
        audio = g("Concat", *heard, axis=1)
        branches.append(g("Expand", g.row(net.audio, audio, "audio"), i64(number, 1)))
    logits = g.row(net.fusion, g("Concat", *branches, axis=1), "fusion")
    if net.shortcut is not None:
        logits = g("Add", logits, g.layer(net.shortcut, audio, "shortcut"))
    p = g("ReduceMean", g("Softmax", logits, axis=1), i64(0), keepdims=0)
    if model.temperature != 1:
        least = np.float32(np.finfo(np.float32).tiny)
        p = g("Softmax", g("Div", g("Log", g("Max", p, least)), np.float32(model.temperature)), axis=0)
    g("Identity", p, name="probabilities")
    made = helper.make_graph(
        g.nodes, "emonet", [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info("probabilities", 1, [len(model.classes)])],
        [g.onnx.numpy_helper.from_array(a, name) for name, a in g.constants.items()])
    result = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="emonet_scratch",
                               producer_version=__version__, ir_version=9)
    helper.set_model_props(result, {
        "classes": json.dumps(model.classes), "config": json.dumps(config.__dict__), "extractor": model.extractor,
        "feature_names": json.dumps(model.feature_names), "batch_norm": "folded" if fold else "as trained"})
    g.onnx.checker.check_model(result, full_check=True)
    return result


def read_trunk(path: Path) -> ResNet:
    """The trunk of an exported network, for --set trunk=FILE; its classifier, which an EmoNet has none of, is zeros.

    WeightsError: no ONNX file, one that was not exported here, without a trunk, or with batch norm folded.
    """
    onnx, message = import_onnx(), importlib.import_module("google.protobuf.message")
    try:
        found = onnx.load_model_from_string(read_whole(path, 2**31))
        told = {one.key: one.value for one in found.metadata_props}
        arrays = {one.name: onnx.numpy_helper.to_array(one) for one in found.graph.initializer
                  if one.name.startswith("trunk.")}
        if "trunk.conv.W" not in arrays or told.get("batch_norm") != "as trained":
            raise ValueError("it has no trunk of ours" if "trunk.conv.W" not in arrays else "batch norm is folded into it")
        state = {f"features.{name.removeprefix('trunk.')}": a.transpose(2, 3, 1, 0) if a.ndim == 4 else a
                 for name, a in arrays.items()}
        width = state["features.conv.W"].shape[3]
        blocks = {name.split(".")[2] for name in state if name.startswith("features.stage1.")}
        state |= {"dense.W": np.zeros((4 * width, 2)), "dense.b": np.zeros(2)}
        net = ResNet(6 * len(blocks) + 2, num_classes=2, width=width, rng=Bounded(state))
        net.load_state_dict(state)
        return net
    except (ValueError, IndexError, TypeError, message.DecodeError) as error:
        raise WeightsError(f"{str(path)!r} holds no trunk that can be read ({error}): export it without --fold") from error


def export(model: Model, target: Path, fold: bool = False, card: str = "") -> Any:
    """Write `graph_of(model)`, with a text about it as its description, to a file, whole or not at all."""
    result = graph_of(model, fold)
    result.doc_string = card
    write_whole(target, result.SerializeToString())
    return result
