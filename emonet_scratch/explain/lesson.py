"""One clip for who studies: what face and voice add, which descriptors, where in the face, and what the LSTM does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import owned, shown
from ..training.answer import Answerer
from ..training.report import INK, save_figure
from .clip_page import terms
from .gates import gates_figure, gates_of
from .page import thinned
from .saliency import grad_cam, occlusion
from .timeline import FPS, shares_of


def explain(answerer: Answerer, path: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Say it, and draw gates.png and face.png in `folder`. DataError: the clip cannot be read, the folder is a file."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{str(folder)!r} is a file: name a folder with --out")
    found = answerer.read(path)
    if found.fault:
        say(f"without sound: {found.fault}")
    answer = answerer.say(path, found)
    label = int(answer.probabilities.argmax())
    remarks = f"  ({answer.remarks})" if answer.remarks else ""
    say(f"{shown(path)}: {answer.label}  p = {answer.probabilities[label]:.3f}{remarks}")
    features, shares = shares_of(answerer, found, answer)
    if shares is not None:
        face, voice = shares.face[label], shares.voice[label]
        say(f"log-odds of {answer.label} in nats: the face adds {face:+.2f}, the voice {voice:+.2f}")
    if answer.voice and (listed := terms(answerer, answer.weights, found.audio, label)):
        say(f"in the voice, LDA's largest terms for (+) and against (-) {answer.label}, in nats:")
        for words, moves in listed:
            say(f"  {moves:+7.2f}  {words}")
    if not answer.face:
        return
    with owned(folder):
        if features is not None:
            net = answerer.models["fused"].net
            save_figure(folder / "gates.png", gates_figure, gates_of(net.lstm, np.asarray(features, np.float32)), FPS)
        faces = np.stack(thinned(found.frames, 6))
        save_figure(folder / "face.png", face_figure, faces, grad_cam(answerer.faces, faces, label),
                    occlusion(answerer.faces, faces, label), answer.label)
    say(f"in {shown(folder)}: face.png{', gates.png' if features is not None else ''}")


def face_figure(figure_class: type, faces: np.ndarray, cam: np.ndarray, hidden: np.ndarray, label: str) -> Any:
    """Rows: faces (N, H, W, 3), Grad-CAM (N, H, W) over them, by how much the log-odds fall where a place is hidden."""
    figure = figure_class(figsize=(1.7 * len(faces) + 1.5, 5.6), layout="constrained")
    axes = figure.subplots(3, len(faces), squeeze=False)
    most = max(1e-9, float(np.abs(hidden).max()))
    for k, face in enumerate(faces):
        for row in axes[:, k]:
            row.imshow(face)
            row.set_xticks([])
            row.set_yticks([])
        axes[1, k].imshow(cam[k], cmap="inferno", alpha=0.55, vmin=0, vmax=max(1e-9, float(cam.max())))
        image = axes[2, k].imshow(hidden[k], cmap="RdBu_r", alpha=0.55, vmin=-most, vmax=most)
    for row, name in zip(axes[:, 0], ("the face", "Grad-CAM", "occlusion"), strict=True):
        row.set_ylabel(name, color=INK)
    figure.colorbar(image, ax=axes[2, :], label="nats")
    figure.suptitle(f"where in the face {label} is seen, from the first frame to the last", color=INK, fontsize=11)
    return figure
