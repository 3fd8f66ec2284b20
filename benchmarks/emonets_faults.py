"""Three faults of the code that EmoNets 2013 was published with, each run beside what it should be.

`python benchmarks/emonets_faults.py RUN`, a finished run of `emonet compare`: models see its training clips, figures are
accuracies of its validation clips.

    dropout that subtracts 1/2      y = x (m - 1/2): no unit is dropped, half of them change their sign
    sounds centred by themselves    validation clips are standardised by their own mean in place of the training clips'
    a sum that is missing           the local phase of the weights' search does not bring each class's weights to a sum of 1
"""

import argparse
from pathlib import Path

import numpy as np

from emonet_scratch.classics import belief, rows
from emonet_scratch.data.folds import held_out
from emonet_scratch.files import say
from emonet_scratch.layers import Dropout
from emonet_scratch.studies.late_fusion import find_weights, fuse
from emonet_scratch.training.inference import load_model
from emonet_scratch.training.run import dataset
from emonet_scratch.training.settings import read_settings

SEEDS = range(3)


class Subtracting(Dropout):
    """m - 1/2 in place of m / (1 - rate)."""

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        y, mask = super().forward(x)
        return (y, None) if mask is None else (x * (m := (mask > 0) - np.float32(0.5)), m)


def search(p: np.ndarray, labels: np.ndarray, whole: bool, seed: int = 0, draws: int = 30_000) -> np.ndarray:
    """`find_weights` in its plainest form; with whole=False its local phase sums nothing."""
    rng = np.random.default_rng(seed)
    M, _, K = p.shape

    def right(w: np.ndarray) -> int:
        return int((np.einsum("mnk,mk->nk", p, w).argmax(axis=1) == labels).sum())
    best = max((w / w.sum(axis=0) for w in rng.random((draws, M, K))), key=right)
    for _ in range(draws // 3):
        w = np.maximum(0, best + 0.2 * rng.standard_normal((M, K))) + 1e-9
        w = w / w.sum(axis=0) if whole else w
        best = max(best, w, key=right)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    settings = read_settings(run := parser.parse_args().run)
    data = dataset(settings)
    projection = load_model(run / "audio", "cpu").projection
    material = rows.read(settings, data, ("train", "val"), projection, lambda line: None)
    train, val = material["train"], material["val"]
    C = len(data.splits["train"].classes)

    def score(p: np.ndarray) -> float:
        return float((p.argmax(axis=1) == val.labels).mean())
    nets = {"as it should be": [], "subtracting": []}
    for name, layer in (("as it should be", Dropout), ("subtracting", Subtracting)):
        belief.Dropout = layer
        nets[name] = [belief.BeliefNet(C, seed=seed).fit(train.sounds, train.labels) for seed in SEEDS]
        belief.Dropout = Dropout
        say(f"dropout {name}: " + " ".join(f"{score(net.predict_proba(val.sounds)):.3f}" for net in nets[name]))
    for net in nets["as it should be"]:
        mean, every = net.mean, np.concatenate(val.sounds).mean(axis=0)
        found = [score(net.predict_proba(val.sounds))]
        net.mean = every
        found.append(score(net.predict_proba(val.sounds)))
        alone = np.empty((len(val.labels), C))
        for k in range(C):                                                    # somebody's test holds one emotion
            own = np.flatnonzero(val.labels == k)
            net.mean = np.concatenate([val.sounds[i] for i in own]).mean(axis=0)
            alone[own] = net.predict_proba([val.sounds[i] for i in own])
        net.mean = mean
        say(f"centred by the training clips {found[0]:.3f}, by all validation clips {found[1]:.3f}, "
            f"by those of one class at a time {score(alone):.3f}")
    said = rows.probabilities(train, {"val": val}, C, settings.seed, lambda line: None)
    both = np.stack([p["val"] for p in said.values()]) + 1e-6
    for name, find in (("ours", lambda p, y: find_weights(p, y, 0, rows.DRAWS)),
                       ("plain, each class's weights sum to 1", lambda p, y: search(p, y, True)),
                       ("plain, without that sum", lambda p, y: search(p, y, False))):
        fused = np.empty(both.shape[1:])
        for out in held_out(val.labels, 5, settings.seed, val.groups):
            w = find(both[:, ~out], val.labels[~out])
            fused[out] = fuse(both[:, out], w) if name == "ours" else np.einsum("mnk,mk->nk", both[:, out], w)
        say(f"fusion, {name}: {score(fused):.3f}")


if __name__ == "__main__":
    main()
