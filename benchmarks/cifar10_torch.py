"""The recipe of examples/train_cifar10.py in PyTorch: the anchor for its accuracy.

    python benchmarks/cifar10_torch.py --data cifar10_jpeg.npz [--out runs/cifar10_torch] [--compile]

Same initial weights, same images in the same order with the same shifts, mirrors and cuts, SGD with Nesterov momentum,
schedule, weight decay and number of epochs; eager, channels last. Before it trains, loss and gradients of the first batch
must be ours. Goes on where a run in OUT stopped. What is compared is the test accuracy of the last epoch, of the images
alone and of the mean of ten views.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import difference

from emonet_scratch.data.cifar10 import read_cifar10
from emonet_scratch.files import write_whole
from emonet_scratch.layers.input import IMAGENET_MEAN, IMAGENET_STD
from emonet_scratch.losses import softmax_cross_entropy
from emonet_scratch.training.images import ImageTrainer, Recipe, ten_views


def pixels(images: np.ndarray) -> Any:
    """(N, H, W, 3) bytes to a normalised tensor (N, 3, H, W), channels last in memory."""
    import torch
    import torch_nets

    mean, std = (torch.tensor(a).reshape(3, 1, 1) for a in (IMAGENET_MEAN, IMAGENET_STD))
    return torch_nets.normalize(torch_nets.images(images), mean, std)


def check_first_batch(trainer: ImageTrainer, net: Any) -> None:
    """Both compute the same from the same weights."""
    import torch
    import torch_nets

    images, labels = next(trainer.batches(0))
    _, loss = torch_nets.forward_backward(net, [pixels(images)], torch.from_numpy(labels))
    buffers, model = trainer.model.save_buffers(), trainer.model
    logits, cache = model.train().forward(images)
    mine, dlogits = softmax_cross_entropy(logits, labels)
    model.zero_grad()
    model.backward(dlogits, cache)
    model.restore_buffers(buffers)
    theirs = torch_nets.gradients(net, trainer.resnet.state_dict())
    off = difference({p.name.removeprefix("resnet."): p.grad for p in model.parameters()}, theirs)
    if not (abs(mine - loss.item()) < 1e-4 and off < 5e-2):
        raise SystemExit(f"not the same network: losses {mine} and {loss.item()}, gradients differ by {off:.1e}")


def accuracy(net: Any, images: np.ndarray, labels: np.ndarray, views: Any = lambda x: [x]) -> float:
    """As ImageTrainer.evaluate has it."""
    import torch

    net.eval()
    with torch.no_grad():
        right = sum(int((sum(net(pixels(view)) for view in views(images[i:i + 500])).argmax(1).numpy()
                         == labels[i:i + 500]).sum()) for i in range(0, len(labels), 500))
    return right / len(labels)


def train_epoch(trainer: ImageTrainer, epoch: int, run: Any, optimizer: Any) -> float:
    """The images of one epoch, with the rates of their steps; the share that was right in passing."""
    import torch
    import torch_nets

    N, correct = len(trainer.train[1]), 0
    steps = math.ceil(N / trainer.recipe.batch_size)
    for k, (images, labels) in enumerate(trainer.batches(epoch)):
        torch_nets.set_rate(optimizer, trainer.rate(epoch * steps + k))
        y = torch.from_numpy(labels)
        logits, _ = torch_nets.training_step(run, optimizer, [pixels(images)], y)
        correct += int((logits.argmax(1) == y).sum())
    return correct / N


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10_torch"))
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--limit", type=int, help="the first images of both splits only, for a trial")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--quick", action="store_true", help="few images, one epoch: shows that the script works")
    options = parser.parse_args()
    if options.quick:
        options.limit, options.epochs = 256, 1

    import torch
    import torch_nets

    train, test = (tuple(a[:options.limit] for a in read_cifar10(options.data, split)) for split in ("train", "test"))
    trainer = ImageTrainer(train, test, options.out / "unused", Recipe(epochs=options.epochs))
    r, file = trainer.recipe, options.out / "last.pt"
    net = torch_nets.load(torch_nets.ResNet(r.depth, r.width), trainer.resnet.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), r.lr, r.momentum, weight_decay=r.weight_decay, nesterov=True)
    rows: list[dict] = []
    if file.exists():
        saved = torch.load(file, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        rows = json.loads(saved["rows"])
    else:
        check_first_batch(trainer, torch_nets.load(torch_nets.ResNet(r.depth, r.width), trainer.resnet.state_dict()))
    run = torch_nets.as_run(net, "compile" if options.compile else "eager")
    for epoch in range(len(rows), r.epochs):
        started = time.perf_counter()
        net.train()
        right = train_epoch(trainer, epoch, run, optimizer)
        seconds = time.perf_counter() - started
        rows.append({"epoch": epoch + 1, "train": right, "test": accuracy(net, *test), "seconds": round(seconds, 1)})
        memory = io.BytesIO()
        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "rows": json.dumps(rows)}, memory)
        options.out.mkdir(parents=True, exist_ok=True)
        write_whole(file, memory.getvalue())
        print(json.dumps(rows[-1]), flush=True)
    print(f"PyTorch {torch.__version__}: test accuracy {rows[-1]['test']:.4f} after {r.epochs} epochs, "
          f"mean of ten views {accuracy(net, *test, ten_views):.4f}, "
          f"{sum(row['seconds'] for row in rows) / 60:.0f} minutes of training")


if __name__ == "__main__":
    main()
