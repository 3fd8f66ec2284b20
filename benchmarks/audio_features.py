"""Our 1582 features beside openSMILE's on RAVDESS: agreement by group, accuracy of LDA by actor, speed.

    python benchmarks/audio_features.py --data FOLDER/ravdess          (needs: pip install opensmile, for research only)

Prints the tables of docs/audio.md. Without openSMILE only the accuracy and the speed of ours are measured.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from emonet_scratch import LDA
from emonet_scratch.data.sound import is10
from emonet_scratch.data.video import read_sound
from emonet_scratch.training.metrics import wilson_interval

FOLDS = ((0, 1), (2, 3), (4, 5), (6, 7))        # actors tested; the others train. Odd actors are male, even ones female


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with Actor_01/*.flac to Actor_08/*.flac")
    parser.add_argument("--every", type=int, default=1, help="use every n-th file only")
    parser.add_argument("--quick", action="store_true", help="every 20th file: shows that the script works")
    options = parser.parse_args()
    if options.quick:
        options.every = 20
    files = sorted(options.data.glob("Actor_0[1-8]/*.flac"))[::options.every]
    sounds = [read_sound(path) for path in files]
    emotion = np.array([int(path.stem.split("-")[2]) for path in files])
    actor = np.unique([path.parent.name for path in files], return_inverse=True)[1]
    seconds, started = sum(map(len, sounds)) / is10.RATE, time.process_time()
    ours = np.array([is10.features(sound) for sound in sounds])
    print(f"{len(files)} files, {seconds / 60:.1f} minutes, {seconds / (time.process_time() - started):.0f} x real time "
          "(processor time, all threads)\n")
    sets = {"ours": ours}
    try:
        import opensmile
    except ImportError:
        print("opensmile is not installed: no comparison")
    else:
        config = Path(opensmile.__file__).parent / "core/config/is09-13/IS10_paraling_compat.conf"
        oracle = opensmile.Smile(feature_set=str(config), feature_level="func")
        sets["openSMILE"] = np.array([oracle.process_signal(sound, is10.RATE).to_numpy()[0] for sound in sounds], float)
        agreement(ours, sets["openSMILE"])
    for name, X in sets.items():
        right = sum(by_actor(X, emotion, actor))
        low, high = wilson_interval(right, len(files))
        print(f"LDA by actor, {name}: {right} of {len(files)}, {right / len(files):.3f} ({low:.3f} - {high:.3f})")


def agreement(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The table of agreement (N, D) by group: correlation across files and greatest difference over greatest value."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(is10.FEATURE_NAMES):
        groups.setdefault(name.split("_sma")[0].split("[")[0] + (", change" if "_sma_de" in name else ""), []).append(i)
    constant = (ours.std(axis=0) == 0) | (theirs.std(axis=0) == 0)
    r = np.array([float(np.allclose(a, b)) if c else np.corrcoef(a, b)[0, 1]
                  for a, b, c in zip(ours.T, theirs.T, constant, strict=True)])
    error = np.abs(ours - theirs).max(axis=0) / np.maximum(np.abs(theirs).max(axis=0), 1e-12)
    print("| descriptor | columns | r > .99 | median r | least r | relative error |\n| --- | --- | --- | --- | --- | --- |")
    for name, i in groups.items():
        print(f"| {name} | {len(i)} | {(r[i] > 0.99).sum()} | {np.median(r[i]):.4f} | {r[i].min():.4f} | "
              f"{error[i].max():.1e} |")
    print(f"| all | {len(r)} | {(r > 0.99).sum()} | {np.median(r):.4f} | {r.min():.4f} | |\n")


def by_actor(X: np.ndarray, y: np.ndarray, actor: np.ndarray) -> list[int]:
    """How many clips of the actors left out LDA is right about, fold by fold."""
    right = []
    for fold in FOLDS:
        test = np.isin(actor, fold)
        if test.any() and not test.all():
            mean, spread = X[~test].mean(axis=0), X[~test].std(axis=0)
            Z = np.clip((X - mean) / np.where(spread > 1e-9, spread, 1), -6, 6)
            right.append(int((LDA(None, "auto").fit(Z[~test], y[~test]).predict(Z[test]) == y[test]).sum()))
    return right


if __name__ == "__main__":
    main()
