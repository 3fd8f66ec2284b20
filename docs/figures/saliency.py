"""Draw where planted classes are seen: python docs/figures/saliency.py -> docs/images/saliency.png

On the left faces whose class is what the mouth does, on the right faces whose class is what the brows do; the other of
the two moves as well, and says nothing. Below each face: Grad-CAM, occlusion, and Grad-CAM of the same network with
shuffled weights.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.explain.saliency import grad_cam, occlusion
from emonet_scratch.models import ResNet
from emonet_scratch.training.images import ImageTrainer, Recipe
from emonet_scratch.training.report import INK, save_figure

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from tests.test_saliency import REGIONS, planted, shuffled  # noqa: E402

FACES = 3


def draw(figure_class: Any, nets: dict[str, ResNet]) -> Any:
    """A column a face, a row a way to look at it."""
    figure = figure_class(figsize=(1.5 * FACES * len(nets) + 1, 6.6), layout="constrained")
    axes = figure.subplots(4, FACES * len(nets))
    for n, (moves, net) in enumerate(nets.items()):
        images, labels = planted(60, 2, moves)
        images = images[labels == 1][:FACES]
        heats = (None, grad_cam(net, images, 1), occlusion(net, images, 1, side=8), grad_cam(shuffled(net), images, 1))
        for row, heat in zip(axes[:, n * FACES:(n + 1) * FACES], heats, strict=True):
            for k, panel in enumerate(row):
                panel.imshow(images[k])
                panel.set_xticks([])
                panel.set_yticks([])
                if heat is not None:
                    panel.imshow(np.maximum(heat[k], 0), cmap="inferno", alpha=0.6, vmin=0, vmax=max(1e-9, heat[k].max()))
                    for edge in REGIONS[moves]:
                        panel.axhline(edge - 0.5, color="white", linestyle=":", linewidth=1)
        axes[0, n * FACES + FACES // 2].set_title(f"the class is in the {moves}", color=INK, fontsize=11)
    for panel, name in zip(axes[:, 0], ("face", "Grad-CAM", "occlusion", "shuffled weights"), strict=True):
        panel.set_ylabel(name, color=INK)
    return figure


def main(folder: Path = ROOT / "docs" / "images", clips: int = 800, epochs: int = 4) -> None:
    """Train a network for each region, and draw."""
    nets, recipe = {}, Recipe(depth=8, width=8, epochs=epochs, batch_size=32, lr=0.05)
    with tempfile.TemporaryDirectory() as place:
        for moves in REGIONS:
            trainer = ImageTrainer(planted(clips, 0, moves), planted(50, 1, moves), Path(place, moves), recipe)
            trainer.fit()
            nets[moves] = trainer.resnet.eval()
    save_figure(folder / "saliency.png", draw, nets)


if __name__ == "__main__":
    main()
