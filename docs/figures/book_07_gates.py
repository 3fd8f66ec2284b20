"""Draw gradients over time, and an LSTM's gates: python docs/figures/book_07_gates.py -> docs/images/book_07_gates.png"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.data.synthetic import draw_clip
from emonet_scratch.explain.gates import Gates, gates_of
from emonet_scratch.layers import LSTM, Dense
from emonet_scratch.losses import softmax, softmax_cross_entropy
from emonet_scratch.optim import Adam
from emonet_scratch.training.report import BLUE, GREEN, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
FPS = 25
UNITS = 6


def rnn_norms(x: np.ndarray, gain: float, dh: np.ndarray) -> np.ndarray:
    """|dL/dx_t| by distance from the last step, relative to that at the last; L depends on h_T alone."""
    rng = np.random.default_rng(1)
    D, H = x.shape[2], dh.shape[1]
    W_ih = rng.standard_normal((D, H)) * D**-0.5
    W_hh = gain * np.linalg.qr(rng.standard_normal((H, H)))[0]
    states, norms = [np.zeros_like(dh)], []
    for x_t in x:
        states.append(np.tanh(x_t @ W_ih + states[-1] @ W_hh))
    for h in states[:0:-1]:
        da = dh * (1 - h**2)
        norms.append(np.linalg.norm(da @ W_ih.T))
        dh = da @ W_hh.T
    return np.array(norms) / norms[0]


def lstm_norms(x: np.ndarray, forget_bias: float, dh: np.ndarray) -> np.ndarray:
    lstm = LSTM(x.shape[2], dh.shape[1], forget_bias=forget_bias, rng=np.random.default_rng(1)).astype(np.float64)
    _, cache = lstm.forward(x)
    dx, _ = lstm.backward(None, (dh[None], np.zeros_like(dh)[None]), cache)
    norms = np.linalg.norm(dx, axis=(1, 2))[::-1]
    return norms / norms[0]


def features(label: str, seed: int) -> np.ndarray:
    """Grey means of 4 x 4 fields of 24 x 32 pixels, as change from the first frame: (T, 16)."""
    frames, _ = draw_clip(label, np.random.default_rng(seed))
    fields = frames.mean(axis=3).reshape(len(frames), 4, 24, 4, 32).mean(axis=(2, 4)).reshape(len(frames), 16)
    return (fields - fields[0]) / 10


def read_clips() -> tuple[Gates, np.ndarray, np.ndarray]:
    """Train on eight clips; the gates of an unseen Surprise, and p(Surprise) along it and along an unseen Neutral."""
    clips = [features(("Neutral", "Surprise")[k % 2], k) for k in range(10)]
    lengths = np.array([len(clip) for clip in clips[:8]])
    x = np.zeros((max(lengths), 8, 16))
    for k, clip in enumerate(clips[:8]):
        x[:len(clip), k] = clip
    net = LSTM(16, UNITS, rng=np.random.default_rng(0)).astype(np.float64)
    dense = Dense(UNITS, 2, np.random.default_rng(1)).astype(np.float64)
    adam = Adam(net.parameters() + dense.parameters(), lr=0.02)
    for _ in range(60):
        net.zero_grad()
        dense.zero_grad()
        (_, (h, c)), cache = net.forward(x, lengths)
        logits, dense_cache = dense.forward(h[0])
        _, dlogits = softmax_cross_entropy(logits, np.arange(8) % 2)
        net.backward(None, (dense.backward(dlogits, dense_cache)[None], np.zeros_like(c)), cache)
        adam.step()
    neutral, surprise = (softmax(dense.forward(net.forward(clip[:, None])[0][0][:, 0])[0])[:, 1] for clip in clips[8:])
    return gates_of(net, clips[9]), surprise, neutral


def figure(figure_class: Any, norms: dict[str, np.ndarray], gates: Gates, surprise: np.ndarray, neutral: np.ndarray) -> Any:
    canvas = figure_class(figsize=(12, 5.5), layout="constrained")
    grid = canvas.add_gridspec(5, 2)
    axes = canvas.add_subplot(grid[:, 0])
    styles = ((VERMILION, "-"), (VERMILION, ":"), (BLUE, ":"), (BLUE, "-"), (GREEN, "-"))
    for (name, values), (colour, line) in zip(norms.items(), styles, strict=True):
        axes.semilogy(values, line, color=colour, label=name)
    axes.set_ylim(1e-13, 1e3)
    label_axes(axes, "how far a gradient comes, before training", "distance from the last step, steps",
               "norm of dL/dx, relative to the last step")
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    end = len(surprise) / FPS
    rows = [canvas.add_subplot(grid[k, 1]) for k in range(5)]
    order = np.argsort(np.abs(np.diff(gates.c[0], axis=0, prepend=0)).argmax(axis=0), kind="stable")
    for k, (name, values) in enumerate(zip("ifoc", (*gates[:3], np.tanh(gates.c)), strict=True)):
        low, high, colours = (-1, 1, "RdBu_r") if name == "c" else (0, 1, "viridis")
        image = rows[k].imshow(values[0].T[order], aspect="auto", vmin=low, vmax=high, cmap=colours, interpolation="nearest",
                               extent=(0, end, UNITS + .5, .5))
        rows[k].set_ylabel("tanh c, unit" if name == "c" else f"{name}, unit")
        rows[k].set_yticks([1, UNITS])
        rows[k].tick_params(labelbottom=False)
        canvas.colorbar(image, ax=rows[k], fraction=.04, pad=.01)
    rows[0].set_title("gates along an unseen clip that turns to Surprise", fontsize=10)
    rows[4].plot((np.arange(len(surprise)) + .5) / FPS, surprise, color=BLUE, label="this clip")
    rows[4].plot((np.arange(len(neutral)) + .5) / FPS, neutral, ":", color=BLUE, label="an unseen Neutral")
    label_axes(rows[4], "", "seconds", "p(Surprise)")
    rows[4].set_xlim(0, end)
    rows[4].set_ylim(-.05, 1.05)
    rows[4].legend(fontsize=8, frameon=False, loc="center right")
    return canvas


def main(images: Path = IMAGES) -> None:
    rng = np.random.default_rng(0)
    x, dh = rng.standard_normal((80, 16, 8)), rng.standard_normal((16, 32))
    norms = {f"tanh RNN, orthogonal W_hh x {gain}": rnn_norms(x, gain, dh) for gain in (1, 2)}
    norms |= {f"LSTM, forget bias {bias}": lstm_norms(x, bias, dh) for bias in (0, 1, 3)}
    save_figure(images / "book_07_gates.png", figure, norms, *read_clips())


if __name__ == "__main__":
    main()
