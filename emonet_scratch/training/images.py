"""Training a ResNet on labelled images of one size, for a trunk that knows pictures before it sees clips."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..backend import to_device
from ..data.vary import vary
from ..errors import CheckpointError, NonFiniteError
from ..files import owned, say
from ..layers import Normalize, Sequential
from ..layers.input import IMAGENET_MEAN, IMAGENET_STD
from ..losses import softmax_cross_entropy
from ..models import ResNet
from ..models.resnet import TRUNKS
from ..optim import SGD, schedule
from .checkpoint import check_rows, expected_of, read_checkpoint, write_checkpoint, write_metrics
from .fingerprint import sha256
from .inference import count_right

PAD = 4

Images = tuple[np.ndarray, np.ndarray]      # (N, H, W, 3) uint8, (N,) labels or (N, K) probabilities


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with Nesterov momentum on images that are shifted by up to 4 pixels and mirrored.

    start: weights to start from, a name of TRUNKS or a file as `ResNet.from_torch` reads it; "" for random ones. Where it
    knows other classes, its last layer is not taken.
    turn, zoom, light, blur: with any of them, images are varied as by data/vary.py instead.
    cutout: side in pixels of a square that is blotted out of every image; 0 for none. The last tenth of the epochs shows
    whole images, as the test does, so that the running statistics of batch norm are those of whole images (He et al.
    2019, arXiv:1909.09148).
    """

    start: str = ""
    depth: int = 20
    width: int = 16
    epochs: int = 64
    batch_size: int = 128
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    warmup: int = 0             # steps
    cutout: int = 0             # 8 is no better: docs/results.md
    seed: int = 0
    turn: float = 0.0           # degrees
    zoom: float = 0.0
    light: float = 0.0
    blur: float = 0.0          # pixels


def shift_and_flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by -4..4 pixels in both directions, black coming in, and mirrored or not (He et al. 2016, 4.2)."""
    N, H, W, _ = images.shape
    padded = np.zeros((N, H + 2 * PAD, W + 2 * PAD, 3), np.uint8)
    padded[:, PAD:PAD + H, PAD:PAD + W] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (H, W), axis=(1, 2))      # (N, 9, 9, 3, H, W)
    down, across = rng.integers(0, 2 * PAD + 1, (2, N))
    chosen = np.ascontiguousarray(windows[np.arange(N), down, across].transpose(0, 2, 3, 1))
    mirrored = rng.random(N) < 0.5
    chosen[mirrored] = chosen[mirrored, :, ::-1]
    return chosen


def cut_out(images: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """images (N, H, W, 3) uint8, changed in place: a square of `size` pixels in the mean colour around a random pixel of
    each; what of it lies outside is lost (DeVries and Taylor 2017, arXiv:1708.04552)."""
    N, H, W, _ = images.shape
    top, left = rng.integers(0, H, N) - size // 2, rng.integers(0, W, N) - size // 2
    down, across = np.arange(H) - top[:, None], np.arange(W) - left[:, None]              # (N, H), (N, W)
    inside = ((0 <= down) & (down < size))[:, :, None] & ((0 <= across) & (across < size))[:, None]
    images[inside] = np.round(np.array(IMAGENET_MEAN) * 255).astype(np.uint8)
    return images


def ten_views(images: np.ndarray) -> Iterator[np.ndarray]:
    """The images (N, H, W, 3) and their shifts by one pixel up, down, left and right, black coming in as in training, each
    also mirrored: ten arrays of that shape, for test-time averaging."""
    _, H, W, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for down, across in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2)):
        view = padded[:, down:down + H, across:across + W]
        yield np.ascontiguousarray(view)
        yield np.ascontiguousarray(view[:, :, ::-1])


def likeliest(labels: np.ndarray) -> np.ndarray:
    """(N,) labels of those, or of probabilities (N, K)."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


class ImageTrainer:
    """Trains one ResNet; keeps `last.safetensors`, `metrics.jsonl` and, at the end, `resnet.safetensors` in `folder`.

    train, test: images and labels. No choice is made by the test split: the last epoch counts. What an epoch does follows
    from the seed, the epoch and the state at its start, so a run that was stopped and resumed ends with the same weights.
    facts: JSON written beside the weights.
    """

    def __init__(self, train: Images, test: Images, folder: Path, recipe: Recipe, *, device: str = "cpu",
                 facts: dict[str, Any] | None = None, log: Callable[[str], None] = say) -> None:
        self.train, self.test, self.folder, self.recipe, self.device, self.log = train, test, folder, recipe, device, log
        self.facts, r = facts or {}, recipe
        classes = int(train[1].max()) + 1 if train[1].ndim == 1 else train[1].shape[1]
        self.resnet = ResNet(r.depth, classes, r.width, rng=np.random.default_rng(r.seed))
        self.grey = (train[0] == train[0][..., :1]).all()
        if r.start:
            known = ResNet.from_torch(TRUNKS.get(r.start, r.start))
            last = {name: a for name, a in self.resnet.state_dict().items() if name.startswith("dense.")}
            self.resnet.load_state_dict(known.state_dict() | (last if known.dense.M != classes else {}))
        self.resnet.features.conv.input_gradient = False                      # pixels have none
        self.model = Sequential(normalize=Normalize(IMAGENET_MEAN, IMAGENET_STD), resnet=self.resnet).to_device(device)
        self.optimizer = SGD(self.model.parameters(), r.lr, r.momentum, nesterov=True, weight_decay=r.weight_decay)
        steps = r.epochs * math.ceil(len(train[1]) / r.batch_size)
        self.rate = schedule(r.schedule, r.lr, steps, r.warmup)
        self.data = sha256([a for pair in (train, test) for a in pair])
        self.rows: list[dict[str, Any]] = []
        self.averaged: dict[str, float] = {}

    def fit(self, resume: bool = False) -> dict[str, Any]:
        """Train to the last epoch and return its test row: loss, accuracy. resume: go on where last.safetensors is."""
        with owned(self.folder):
            return self._fit(resume)

    def _fit(self, resume: bool) -> dict[str, Any]:
        if resume and (self.folder / "last.safetensors").exists():
            self._load()
        while len(self.rows) < 2 * self.recipe.epochs:
            self._epoch(len(self.rows) // 2)
        loss, accuracy = self.evaluate(self.test, ten_views)
        self.averaged = {"loss": round(loss, 6), "accuracy": round(accuracy, 6)}
        write_checkpoint(self.folder / "resnet.safetensors", {"weights": self.resnet.state_dict()}, self.card())
        return self.rows[-1]

    def card(self) -> dict[str, Any]:
        """What anybody who uses the weights should know."""
        arguments = {"depth": self.resnet.depth, "num_classes": self.resnet.dense.M, "width": self.recipe.width}
        return {"resnet": arguments, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "recipe": dataclasses.asdict(self.recipe),
                "test": self.rows[-1], "test, mean of ten views": self.averaged,
                "seconds": round(sum(row["seconds"] for row in self.rows), 1)} | self.facts

    def evaluate(self, data: Images,
                 views: Callable[[np.ndarray], Iterable[np.ndarray]] = lambda x: [x]) -> tuple[float, float]:
        """(mean cross-entropy in nats, accuracy) of the mean logits over the views of an image, itself alone by default."""
        self.model.eval()
        loss, correct = 0.0, 0
        for first in range(0, len(data[1]), 512):
            images, labels = (a[first:first + 512] for a in data)
            seen = [self.model.forward(to_device(view, self.device))[0] for view in views(images)]
            logits = sum(seen) / len(seen)
            loss += softmax_cross_entropy(logits, labels)[0] * len(labels)
            correct += count_right(logits, likeliest(labels))
        return loss / len(data[1]), correct / len(data[1])

    def _epoch(self, epoch: int) -> None:
        for split in ("train", "test"):
            started = time.perf_counter()
            loss, accuracy = self._train_epoch(epoch) if split == "train" else self.evaluate(self.test)
            self.rows.append({"epoch": epoch + 1, "split": split, "lr": self.optimizer.lr, "loss": round(loss, 6),
                              "accuracy": round(accuracy, 6), "seconds": round(time.perf_counter() - started, 6)})
        self._save()
        train, test = self.rows[-2:]
        self.log(f"epoch {epoch + 1:3}/{self.recipe.epochs}  loss {train['loss']:.3f}  accuracy {train['accuracy']:.3f}  "
                 f"test loss {test['loss']:.3f}  test accuracy {test['accuracy']:.4f}  "
                 f"{len(self.train[1]) / train['seconds']:.0f} images/s")

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """(mean loss, accuracy) of the images as they were shown, each before the step that it was part of."""
        loss, correct, shown = 0.0, 0, 0
        self.model.train()
        with tqdm(total=len(self.train[1]), unit="image", desc=f"epoch {epoch + 1}/{self.recipe.epochs}", leave=False,
                  disable=None) as bar:
            for images, labels in self.batches(epoch):
                part, right = self.step(images, labels)
                loss, correct, shown = loss + part * len(labels), correct + right, shown + len(labels)
                bar.update(len(labels))
                bar.set_postfix(loss=f"{loss / shown:.3f}")
        return loss / shown, correct / shown

    def batches(self, epoch: int) -> Iterator[Images]:
        """The training images of an epoch as they are shown: they follow from the recipe's seed and the epoch."""
        r, (images, labels) = self.recipe, self.train
        rng = np.random.default_rng([r.seed, epoch])
        order = rng.permutation(len(labels))
        for first in range(0, len(labels), r.batch_size):
            chosen = order[first:first + r.batch_size]
            varied = r.turn or r.zoom or r.light or r.blur
            shown = self._varied(images[chosen], rng) if varied else shift_and_flip(images[chosen], rng)
            yield cut_out(shown, r.cutout, rng) if r.cutout and epoch < 0.9 * r.epochs else shown, labels[chosen]

    def _varied(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Grey ones in one channel, which is the same thing three times as fast."""
        r = self.recipe
        varied = vary(images[..., :1] if self.grey else images, rng, r.turn, r.zoom, PAD / images.shape[1], r.light, r.blur)
        return np.repeat(varied, 3, axis=3) if self.grey else varied

    def step(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
        """One optimizer step: (loss, number of images right). NonFiniteError where the loss is not finite."""
        logits, cache = self.model.forward(to_device(images, self.device))
        loss, dlogits = softmax_cross_entropy(logits, labels)
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is not finite in step {self.optimizer.t + 1}: a smaller lr than "
                                 f"{self.recipe.lr:g} is the usual remedy")
        self.model.zero_grad()
        self.model.backward(dlogits, cache)
        self.optimizer.lr = self.rate(self.optimizer.t)
        self.optimizer.step()
        return loss, count_right(logits, likeliest(labels))

    def _save(self) -> None:
        groups = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        meta = {"recipe": dataclasses.asdict(self.recipe), "data": self.data, "rows": self.rows}
        write_metrics(self.folder, self.rows)
        write_checkpoint(self.folder / "last.safetensors", groups, meta)

    def _load(self) -> None:
        path = self.folder / "last.safetensors"
        groups, meta = read_checkpoint(path)
        with expected_of(path):
            if meta["recipe"] != dataclasses.asdict(self.recipe) or meta["data"] != self.data:
                raise CheckpointError(f"checkpoint {str(path)!r} is of another recipe or of other images: "
                                      f"resume with those, or train anew with another --out")
            self.model.load_state_dict(groups["model"])
            self.optimizer.load_state_dict(groups["optimizer"])
            self.rows = check_rows(meta["rows"])
            if self.optimizer.t * 2 != len(self.rows) * math.ceil(len(self.train[1]) / self.recipe.batch_size):
                raise ValueError(f"it has {len(self.rows)} rows after {self.optimizer.t} steps")
