"""How near an exported graph is to the network that it came from: `python benchmarks/export.py`, with onnx and onnxruntime.

For each network the largest difference of a probability between ONNX Runtime and the package, over clips of 1 to 60 frames
of noise and drawn descriptors, each also without face and without sound. Networks of presets have drawn weights, and frames
of 32 pixels.
"""

import numpy as np
import onnxruntime

from emonet_scratch import models
from emonet_scratch.data.batches import Split
from emonet_scratch.export.onnx import graph_of
from emonet_scratch.training.answer import SHIPPED
from emonet_scratch.training.inference import Model, load_model
from emonet_scratch.training.projection import AudioProjection


def drawn(preset: str) -> Model:
    """A network of a preset with random weights, and a projection of random descriptors."""
    rng = np.random.default_rng(0)
    config = models.EmoNetConfig.preset(preset).replace(trunk="random", frame_size=32)
    X = rng.standard_normal((60, 40)) * 10.0 ** rng.uniform(-3, 4, 40)
    projection = AudioProjection(clip=6.0).fit(X, np.arange(60) % 7)
    net = models.EmoNet(config, len(projection.scale), rng, False).eval()
    return Model(net, projection, tuple(map(str, range(40))), "drawn", None, tuple("ABCDEFG"), 1.3)


def difference(model: Model, fold: bool) -> float:
    """The largest one."""
    session = onnxruntime.InferenceSession(graph_of(model, fold).SerializeToString())
    rng, projection, worst = np.random.default_rng(1), model.projection, 0.0
    sees, size = "video" in model.config.modalities, model.config.frame_size
    for T in (*range(1, 61, 7), 50):
        frames = rng.integers(0, 256, (T, size, size, 3)).astype(np.uint8)
        features = projection.mean + projection.spread * rng.standard_normal(len(projection.mean))
        for seen, heard in ((True, True), (False, True), (True, False)):
            audio = (features if heard else np.full_like(features, np.nan))[None]
            split = Split(["clip"], np.array([-1]), [frames if seen else frames[:0]] if sees else None, audio)
            given = {"features": features, "has_sound": np.array(heard)}
            given |= {"frames": frames, "has_frames": np.array(seen)} if sees else {}
            worst = max(worst, float(np.abs(session.run(None, given)[0] - model.probabilities(split)[1][0]).max()))
    return worst


def main() -> None:
    print("| network | batch norm | largest difference |\n| --- | --- | --- |")
    for name in ("paper", "default", "small", "fused", "voices"):
        model = load_model(SHIPPED[name]) if name in SHIPPED else drawn(name)
        for fold in (False, True)[:1 + ("video" in model.config.modalities)]:
            print(f"| `{name}` | {'folded' if fold else 'as trained'} | {difference(model, fold):.0e} |", flush=True)


if __name__ == "__main__":
    main()
