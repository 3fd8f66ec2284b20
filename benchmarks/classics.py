"""The classics beside the paper's fusion on people that none of them has seen: `python benchmarks/classics.py JAVA_SED`.

`emonet compare --classics --split test` once for each fold of the groups of DATA: one fold is tested, one is chosen by, the
others are trained on, so each group is tested once. All clips in one table: accuracy, its interval by bootstraps over
groups, and McNemar's test against early fusion. A fold that is done is not done again: other settings want another --out.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from emonet_scratch.data.clips import collect
from emonet_scratch.studies.compare import measure, table
from emonet_scratch.training.metrics import chance_and_majority


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a corpus, or a table with groups")
    parser.add_argument("--folds", type=int, default=4, help="of groups")
    parser.add_argument("--out", type=Path, default=Path("runs/classics"))
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of the configuration")
    options = parser.parse_args()
    clips = collect([options.data]).clips
    names = sorted({clip.group for clip in clips})
    fold_of = {name: k % options.folds for k, name in enumerate(names)}
    options.out.mkdir(parents=True, exist_ok=True)
    found, groups = [], []
    for k in range(options.folds):
        file, run = options.out / f"fold-{k}.csv", options.out / f"fold-{k}"
        split = {k: "test", (k + 1) % options.folds: "val"}
        with open(file, "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([["path", "label", "group", "split"], *(
                [clip.path.absolute(), clip.label, clip.group, split.get(fold_of[clip.group], "train")] for clip in clips)])
        if not (run / "compare.json").exists():
            settings = ["--run", run] if (run / "config.json").exists() else [
                "--data", file, "--out", run, "--cache", options.out / "cache",
                *(part for one in options.set for part in ("--set", one))]
            subprocess.run([sys.executable, "-m", "emonet_scratch", "compare", *map(str, settings), "--classics",
                            "--split", "test"], check=True)
        found.append(json.loads((run / "compare.json").read_text(encoding="utf-8")))
        group = {clip.id: clip.group for clip in collect([file]).split("test")}
        groups += [group[id] for id in found[-1]["ids"]]
    labels = np.array([label for one in found for label in one["labels"]])
    predicted = {name: np.array([p for one in found for p in one["predicted"][name]]) for name in found[0]["predicted"]}
    print(f"{len(labels)} clips of {len(names)} groups ({', '.join(names)}), each tested once, by models of others\n")
    print(table(measure(predicted, labels, 1 + labels.max(), np.array(groups)), *chance_and_majority(labels)))


if __name__ == "__main__":
    main()
