"""What nuisance in S_W gives: LDA alone on strangers in a known room and in another corpus, with recordings of a clip and
corpora of a class as what no direction may see, and without.

    python benchmarks/nuisance.py RAVDESS EmoDB Java-SED --cache runs/cache

Speakers: five folds of whole speakers of one corpus, trained on that corpus alone; corpora: each left out, trained on the
others; mean recall over the classes that are there, and the share of wrong answers with p > .9. Labels: calm counts as
Neutral, boredom is left out.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import log_softmax

from emonet_scratch.data.batches import Split
from emonet_scratch.data.folds import groups_of, held_out
from emonet_scratch.lda import LDA
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.studies.cross_validate import everything
from emonet_scratch.training import Settings
from emonet_scratch.training.metrics import confusion_matrix, unweighted_recall
from emonet_scratch.training.projection import AudioProjection, nuisance

Found = tuple[np.ndarray, np.ndarray]       # log probabilities (N, C), labels (N,)


def answers(split: Split, out: np.ndarray, shrinkage: float, recordings: bool, corpora: bool,
            speaker: bool = False) -> Found:
    """Of the clips `out` (N,) by LDA of the others; speaker: less what a speaker's clips say on average."""
    train = split.take(np.flatnonzero(~out))
    place = AudioProjection(clip=6.0)
    place.mean, place.spread = train.audio.mean(axis=0), np.maximum(train.audio.std(axis=0), 1e-12)
    Z, varied = place.standardise(train.audio), None
    if recordings:
        varied = place.standardise(train.varied.reshape(-1, Z.shape[1])).reshape(train.varied.shape)
    rows = nuisance(Z, train.labels, np.array(train.corpora) if corpora else None, varied)
    lda = LDA(None, shrinkage).fit(Z, train.labels, rows)
    log_p = np.full((int(out.sum()), len(split.classes)), -50.0)
    log_p[:, lda.classes_] = lda.predict_log_proba(place.standardise(split.audio[out]))
    if speaker:
        groups = groups_of(split)[out]
        for who in np.unique(groups):
            log_p[groups == who] -= log_p[groups == who].mean(axis=0)
        log_p = log_softmax(log_p, axis=1)
    return log_p, split.labels[out]


def figures(found: list[Found]) -> str:
    """Mean recall, and the share of wrong answers with p > .9."""
    log_p, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    said, sure = log_p.argmax(axis=1), np.exp(log_p.max(axis=1)) > 0.9
    recall = unweighted_recall(confusion_matrix(labels, said, log_p.shape[1]))
    return f"{recall:.3f} ({sure[said != labels].mean():.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+")
    parser.add_argument("--cache", required=True)
    options = parser.parse_args()
    settings = Settings(tuple(options.corpora), EmoNetConfig(), ("audio",), cache=options.cache,
                        labels="calm=Neutral, -boredom")
    _, split = everything(settings)
    corpora = np.array(split.corpora)
    names = np.unique(corpora)
    print("| | shrinkage | " + " | ".join([*(f"{name}, speakers" for name in names), *(f"{name} left out" for name in names),
                                            *(f"{name} left out, by speaker" for name in names)]) + " |")
    print("| --- " * (2 + 3 * len(names)) + "|")
    for title, *flags in (("S_W", False, False), ("S_W + S_V", True, False), ("S_W + S_V + S_C", True, True)):
        for shrinkage in (0.1, 0.4):
            row = []
            for name in names:
                part = split.take(np.flatnonzero(corpora == name))
                folds = held_out(part.labels, 5, 0, groups_of(part))
                row.append(figures([answers(part, out, shrinkage, flags[0], False) for out in folds]))
            for speaker in (False, True):
                row += [figures([answers(split, corpora == name, shrinkage, *flags, speaker)]) for name in names]
            print(f"| {title} | {shrinkage} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
