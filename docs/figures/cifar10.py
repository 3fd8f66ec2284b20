"""Draw the training of the ResNet on CIFAR-10: python docs/figures/cifar10.py -> docs/images/cifar10.png

The metrics of that run were not kept: cifar10.csv was read off its first picture, to about two thousandths. A new run of
examples/train_cifar10.py draws its own curves.png.
"""

import csv
from pathlib import Path

from emonet_scratch.training.report import curves_figure, save_figure

KINDS = {"epoch": int, "split": str, "loss": float, "accuracy": float}


def main(images: Path = Path(__file__).parents[1] / "images") -> None:
    with open(Path(__file__).with_suffix(".csv"), newline="", encoding="utf-8") as file:
        rows = [{name: KINDS[name](value) for name, value in row.items()} for row in csv.DictReader(file)]
    chance = majority = 1 / 10                                                # a tenth of the test images in each class
    save_figure(images / "cifar10.png", curves_figure, {"resnet": rows}, chance, majority)


if __name__ == "__main__":
    main()
