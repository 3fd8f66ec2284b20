"""Draw the network of the preset `default`: python docs/figures/network.py -> docs/images/network.png"""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

VIDEO, AUDIO, FUSED, DATA = "#dbe8f6", "#fbe6c9", "#d8efdc", "#f1f1f1"
BOXES = [  # x, y, width, colour, title, lines below it
    (0.0, 3, 1.5, DATA, "clip", "frames\n25 a second"),
    (1.9, 3, 2.1, VIDEO, "ResNet-20", "3 stages x 3 blocks\n16, 32, 64 channels"),
    (4.4, 3, 1.5, VIDEO, "pool", "64 numbers\na frame"),
    (6.3, 3, 1.9, VIDEO, "LSTM", "3 layers, BPTT\nlast state"),
    (0.0, 0.6, 1.5, DATA, "sound", "audio vector\n(1582 in AFEW)"),
    (1.9, 0.6, 2.1, AUDIO, "LDA", "$S_B w = \\lambda S_W w$\n6 directions"),
    (4.4, 0.6, 3.8, AUDIO, "3 x (Dense, ReLU, Dropout)", "64 units each"),
    (8.7, 1.8, 2.3, FUSED, "concatenate", "2 x (Dense, ReLU,\nDropout), Dense"),
    (11.4, 1.8, 1.9, DATA, "softmax", "Angry Disgust Fear\nHappy Neutral\nSad Surprise"),
]
ARROWS = [((1.5, 3.6), (1.9, 3.6)), ((4.0, 3.6), (4.4, 3.6)), ((5.9, 3.6), (6.3, 3.6)), ((1.5, 1.2), (1.9, 1.2)),
          ((4.0, 1.2), (4.4, 1.2)), ((8.2, 3.6), (8.9, 3.05)), ((8.2, 1.2), (8.9, 1.75)), ((11.0, 2.4), (11.4, 2.4))]


def main() -> None:
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for x, y, width, colour, title, text in BOXES:
        axes.add_patch(FancyBboxPatch((x + 0.06, y), width - 0.12, 1.2, boxstyle="round,pad=0.06", fc=colour, ec="#777777"))
        axes.text(x + width / 2, y + 0.98, title, ha="center", va="center", fontsize=10, weight="bold")
        axes.text(x + width / 2, y + 0.4, text, ha="center", va="center", fontsize=8)
    for start, end in ARROWS:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#444444"})
    axes.set_xlim(-0.2, 13.5)
    axes.set_ylim(0.3, 4.5)
    axes.axis("off")
    path = Path(__file__).parents[1] / "images" / "network.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
