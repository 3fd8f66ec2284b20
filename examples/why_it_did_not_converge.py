"""Why did the paper's training not converge? Walk from the preset `paper` to `default` and back, one field at a time.

Three things are trained at the same budget: the paper's own runs (SGD and Adam, learning rates 1e-8 to 1e-6); `paper`, with
one field after the other set to its value in `default`; `default`, with one after the other set to its value in `paper`.
Fields go in the order of EmoNetConfig. Without --data it writes a synthetic data set first. rows.jsonl in --out holds what
is finished: the same command goes on, also in several processes at once with other --seeds each. Then it writes walk.md,
walk.csv and walk.png. --trunk adds `default` with 20 layers, from random and from pretrained weights.
"""

import argparse
import dataclasses
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from emonet_scratch.data import DataError, synthetic
from emonet_scratch.data.prepare import Dataset
from emonet_scratch.data.video import sample_frames
from emonet_scratch.files import print_anything, write_csv, write_whole
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.training import NonFiniteError, Settings, Trainer
from emonet_scratch.training.checkpoint import read_metrics
from emonet_scratch.training.metrics import chance_and_majority
from emonet_scratch.training.report import BLUE, INK, MUTED, draw_baselines, label_axes, save_figure
from emonet_scratch.training.run import dataset, projection_of

# What makes it small. Both presets get SIZE; `default`, which sees 50 of a clip's frames, gets FRAMES of the --frames kept.
# The shortcut starts at LDA's rule, before any training, and would hide who learns: both walks go without; it comes last.
# The paper's own runs keep the width of the LSTM: with a narrow one, the fused layer's few inputs make larger first logits.
SIZE = {"frame_size": 32, "fit": "crop", "trunk": "random", "trunk_depth": 8, "trunk_width": 8, "lstm_size": 32,
        "frames_per_chunk": None, "batch_size": 8, "epochs": 8, "audio_shortcut": False}
FRAMES = 3
PAPERS_OWN = [{"optimizer": optimizer, "lr": lr} for optimizer in ("sgd", "adam") for lr in (1e-8, 1e-7, 1e-6)]
OWN = "the paper's runs"


def ends(changes: dict[str, Any]) -> tuple[EmoNetConfig, EmoNetConfig]:
    """`paper` and `default` in the small size, with `changes` in both."""
    paper, default = (EmoNetConfig.preset(name).replace(**SIZE) for name in ("paper", "default"))
    return paper.replace(**changes), default.replace(**{"frames": FRAMES} | changes)


def walk(start: EmoNetConfig, end: EmoNetConfig) -> list[tuple[str, EmoNetConfig]]:
    """(field, configuration with this and all fields before it as in `end`), from `start` on."""
    steps = [("", start)]
    for field in (f.name for f in dataclasses.fields(start)):
        if getattr(start, field) != getattr(end, field):
            steps.append((field, steps[-1][1].replace(**{field: getattr(end, field)})))
    return steps


def train(config: EmoNetConfig, data: Dataset, seed: int, fitted: dict[Any, Any]) -> dict[str, Any]:
    """Loss and accuracy after every epoch; {"error": reason} of a training that broke down. fitted: projections so far."""
    clips, val = data.splits["train"], data.splits["val"]
    key = seed, *(getattr(config, field) for field in ("lda_components", "lda_shrinkage", "lda_cross_fit", "audio_clip"))
    try:
        if key not in fitted:
            fitted[key] = projection_of(config, clips, seed)
        with tempfile.TemporaryDirectory() as folder:
            Trainer(config, clips, val, Path(folder), seed=seed, projection=fitted[key], log=lambda line: None).fit()
            metrics = read_metrics(Path(folder))
    except (NonFiniteError, DataError) as error:
        return {"error": str(error)}
    return {f"{split}_{key}": [row[key] for row in metrics if row["split"] == split]
            for split in ("train", "val") for key in ("loss", "accuracy")}


class Rows:
    """Finished trainings, in a file of one JSON line each; looked up by configuration, seed and data."""

    def __init__(self, path: Path, data: str) -> None:
        self.path, self.data, self.known = path, data, {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self.torn = not text.endswith("\n") and text != ""
        for line in text.splitlines():
            with suppress(ValueError):                                        # half a line, of a process that was killed
                row = json.loads(line)
                self.known[row["key"]] = row

    def key(self, config: EmoNetConfig, seed: int) -> str:
        return json.dumps([dataclasses.asdict(config), seed, self.data])

    def add(self, config: EmoNetConfig, seed: int, result: dict[str, Any]) -> None:
        row = {"key": self.key(config, seed)} | result
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n" * self.torn + json.dumps(row) + "\n")
        self.torn = False
        self.known[row["key"]] = row

    def of(self, config: EmoNetConfig, seeds: list[int]) -> list[dict[str, Any]]:
        """Those of these seeds that are finished and did not break down."""
        rows = (self.known.get(self.key(config, seed), {"error": "missing"}) for seed in seeds)
        return [row for row in rows if "error" not in row]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The last epoch, on average over seeds, and the accuracy of each seed."""
    keys = ("train_loss", "val_loss", "val_accuracy")
    means = {key: sum(r[key][-1] for r in rows) / len(rows) if rows else None for key in keys}
    return {"seeds": len(rows)} | means | {"each": [r["val_accuracy"][-1] for r in rows]}


def report(folder: Path, title: str, walks: dict[str, list[tuple[str, EmoNetConfig]]], rows: Rows, seeds: list[int],
           chance: float, majority: float) -> str:
    """Write the table, twice, and the plot; return the table. chance, majority: what accuracies have to beat."""
    table = []
    for name, steps in walks.items():
        before = None
        for field, config in steps:
            result = summary(rows.of(config, seeds))
            accuracy = result["val_accuracy"]
            gain = accuracy - before if field and None not in (accuracy, before) else None
            value = json.dumps(getattr(config, field)) if field else ""
            if name == OWN:
                field, value, gain = "optimizer, lr", f"{config.optimizer}, {config.lr:g}", None
            table.append({"walk": name, "field": field, "value": value} | result | {"gain": gain})
            before = accuracy
    write_csv(folder / "walk.csv", [list(table[0]), *(row.values() for row in table)])
    lines = [f"{title} Accuracy of chance {chance:.3f}, of the majority class {majority:.3f}."]
    parts = {name: [row for row in table if row["walk"] == name] for name in walks}
    for name, steps in parts.items():
        lines += ["", f"**{name}**", "", *markdown(steps)]
    if short := sum(r["seeds"] < len(seeds) for r in table):
        lines += ["", f"{short} rows lack a seed: its training broke down (rows.jsonl says how)."]
    write_whole(folder / "walk.md", ("\n".join(lines) + "\n").encode())
    save_figure(folder / "walk.png", figure, parts, chance, majority)
    return "\n".join(lines)


def markdown(steps: list[dict[str, Any]]) -> list[str]:
    """The lines of a table of one walk. docs/figures/why.py reads it."""
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = ["| field | becomes | training loss | validation loss | accuracy | gain |",
             "| --- | --- | --- | --- | --- | --- |"]
    for row in steps:
        losses = f"{number(row['train_loss'], '.3f')} | {number(row['val_loss'], '.3f')}"
        accuracy = f"{number(row['val_accuracy'], '.3f')} | {number(row['gain'], '+.3f')}"
        lines.append(f"| {row['field'] or 'start'} | {row['value']} | {losses} | {accuracy} |")
    return lines


def figure(figure_class: Any, walks: dict[str, list[dict[str, Any]]], chance: float, majority: float) -> Any:
    """Validation accuracy, a panel a part and a row a step. A walk between the presets has a column, the others share one.

    walks: rows with field, value, val_loss, val_accuracy and, where it is known, `each` seed's accuracy.
    """
    long = [name for name in walks if name.startswith("from ")]
    short = [name for name in walks if name not in long]
    figure = figure_class(figsize=(16, 8), layout="constrained")
    columns = figure.subfigures(1, len(long) + 1)
    panels = {name: column.subplots() for name, column in zip(long, columns, strict=False)}
    stacked = columns[-1].subplots(len(short), 1, height_ratios=[1 + len(walks[name]) for name in short], squeeze=False)
    panels |= dict(zip(short, stacked[:, 0], strict=True))
    for name, axes in panels.items():
        draw_walk(axes, name, walks[name])
        draw_baselines(axes.axvline, chance, majority)
    figure.suptitle("Which of the paper's choices keep it from learning? Each row of a walk changes one field more; "
                    "the paper's runs stand each by itself.", color=INK)
    figure.legend(*panels[long[0]].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_walk(axes: Any, name: str, steps: list[dict[str, Any]]) -> None:
    """The accuracies of one walk, from above to below; the validation loss of each step stands at the right."""
    seeds = [(accuracy, k) for k, row in enumerate(steps) for accuracy in row.get("each", [])]
    means = [(row["val_accuracy"], k) for k, row in enumerate(steps) if row["val_accuracy"] is not None]
    if seeds:
        axes.plot(*zip(*seeds, strict=True), "o", color=BLUE, alpha=0.4, markersize=4, label="a seed")
    if means:
        axes.plot(*zip(*means, strict=True), "D" if name == OWN else "D-", color=BLUE, markersize=4,
                  label="mean of the seeds")
    axes.set_yticks(range(len(steps)), [f"{row['field']} = {row['value']}" if row["field"] else "start" for row in steps],
                    fontsize=8)
    losses = axes.secondary_yaxis("right")
    losses.set_yticks(range(len(steps)), ["" if row["val_loss"] is None else f"{row['val_loss']:.3f}" for row in steps],
                      fontsize=8, color=MUTED)
    losses.set_ylabel("validation loss (nats)", color=MUTED)
    losses.spines["right"].set_visible(False)
    losses.tick_params(length=0)
    label_axes(axes, name, "validation accuracy after the last epoch")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(steps) - 0.5, -0.5)


def walks_of(changes: dict[str, Any], trunk: bool) -> dict[str, list[tuple[str, EmoNetConfig]]]:
    """All that is trained, by the name of its part; with `changes` everywhere. trunk: with 20 layers, too."""
    paper, default = ends(changes)
    wide = paper.replace(**{"lstm_size": EmoNetConfig().lstm_size} | changes)
    walks = {OWN: [("", wide.replace(**change)) for change in PAPERS_OWN],
             "from paper to default": walk(paper, default), "from default to paper": walk(default, paper),
             "default with its shortcut": walk(default, default.replace(audio_shortcut=True))}
    if trunk:
        deep = default.replace(trunk_depth=20, trunk_width=16, trunk="random")
        walks["default with 20 layers"] = walk(deep, deep.replace(trunk="pretrained", trunk_lr=1.0))
    return walks


def train_missing(walks: dict[str, list[tuple[str, EmoNetConfig]]], data: Dataset, rows: Rows, seeds: list[int]) -> None:
    """Train what has no row yet; every training that ends is a row at once."""
    fitted: dict[Any, Any] = {}
    for seed in seeds:
        for name, steps in walks.items():
            for field, config in steps:
                if rows.key(config, seed) not in rows.known:
                    result = train(config, data, seed, fitted)
                    rows.add(config, seed, result)
                    accuracy = result.get("error") or f"validation accuracy {result['val_accuracy'][-1]:.3f}"
                    print(f"seed {seed}, {name}, {field or 'start'}: {accuracy}", flush=True)


def main() -> None:
    """Train what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a data set in AFEW's layout")
    parser.add_argument("--clips-per-class", type=int, nargs=3, default=(30, 20, 1), help="size of the synthetic data set")
    parser.add_argument("--out", type=Path, default=Path("runs/why"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field at both ends")
    parser.add_argument("--frames", type=int, default=8, help="kept of each clip, evenly spread, before anything else")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--trunk", action="store_true", help="train default with 20 layers, too: slow")
    options = parser.parse_args()
    print_anything()
    changes = {name: json.loads(value) for name, _, value in (item.partition("=") for item in options.set)}
    walks = walks_of(changes, options.trunk)

    options.out.mkdir(parents=True, exist_ok=True)
    where = options.data or str(options.out / ("data-" + "-".join(map(str, options.clips_per_class))))
    if options.data is None:
        synthetic.write(where, tuple(options.clips_per_class), seed=0, exist_ok=True)
    _, default = ends(changes)
    data = dataset(Settings((where,), default, ("fused",), cache=str(options.out / "cache")))
    for split in data.splits.values():
        split.frames = [clip[sample_frames(len(clip), options.frames)] for clip in split.frames]
    rows = Rows(options.out / "rows.jsonl", f"{where}, {options.frames} frames")
    train_missing(walks, data, rows, options.seeds)
    size = json.dumps(SIZE | changes).strip("{}").replace('"', "")
    title = (f"Both ends: {size}; {options.frames} frames a clip, of which default sees {default.frames}. "
             f"{len(data.splits['train'])} training and {len(data.splits['val'])} validation clips, "
             f"seeds {', '.join(map(str, options.seeds))}. After the last epoch. "
             f"The paper's runs: lstm_size {walks[OWN][0][1].lstm_size}.")
    print(report(options.out, title, walks, rows, options.seeds, *chance_and_majority(data.splits["val"].labels)))


if __name__ == "__main__":
    main()
