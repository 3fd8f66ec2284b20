"""Deeper networks on CIFAR-10, with and without shortcuts: `python benchmarks/deeper.py --data cifar10_jpeg.npz`.

ResNets of 20, 56 and 110 layers and plain networks of 20 and 56 for as many epochs; ResNet-20 also for three times as many,
which on a CPU is about the time of ResNet-56. One recipe, one seed. A run that was stopped goes on. The rows of all epochs
so far end in docs/figures/deeper.csv, which docs/figures/deeper.py draws, with the norms of gradients by depth.
"""

import argparse
import csv
import json
from pathlib import Path

from emonet_scratch import dispatch
from emonet_scratch.backend import choose_device
from emonet_scratch.classics.plain import plain
from emonet_scratch.data.cifar10 import read_cifar10
from emonet_scratch.training.images import ImageTrainer, Recipe

CSV = Path(__file__).parents[1] / "docs/figures/deeper.csv"
HEAD = ["network", "epoch", "split", "loss", "accuracy", "seconds"]


class PlainTrainer(ImageTrainer):
    """Trains a network that has no shortcuts."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        plain(self.resnet)


#: By folder: name, trainer, depth, how many times the epochs.
NETWORKS = {"resnet-20": ("ResNet-20", ImageTrainer, 20, 1), "resnet-56": ("ResNet-56", ImageTrainer, 56, 1),
            "plain-20": ("plain-20", PlainTrainer, 20, 1), "plain-56": ("plain-56", PlainTrainer, 56, 1),
            "resnet-20-long": ("ResNet-20, 3 x the epochs", ImageTrainer, 20, 3),
            "resnet-110": ("ResNet-110", ImageTrainer, 110, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 in any form")
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=dispatch.PRECISIONS)
    parser.add_argument("--limit", type=int, help="images of each split, for a trial")
    parser.add_argument("--out", type=Path, default=Path("runs/deeper"))
    parser.add_argument("--csv", type=Path, default=CSV)
    options = parser.parse_args()
    device, line = choose_device(options.device)
    print(line, dispatch.use_precision(options.precision, device), flush=True)
    train, test = (tuple(a[:options.limit] for a in read_cifar10(options.data, split)) for split in ("train", "test"))
    for folder in options.only:
        name, trainer, depth, times = NETWORKS[folder]
        print(name, flush=True)
        trainer(train, test, options.out / folder, Recipe(depth=depth, epochs=times * options.epochs, lr=0.1),
                device=device).fit(resume=True)
        rows = []
        for other, (name, *_) in NETWORKS.items():
            if (file := options.out / other / "metrics.jsonl").exists():
                rows += [{"network": name} | json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        with open(options.csv, "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, HEAD, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
