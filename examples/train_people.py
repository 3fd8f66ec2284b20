"""Train the weights for people that come with the package: `python examples/train_people.py --help`.

    python examples/train_people.py --faces fer2013.csv --voices RAVDESS EmoDB --clips Java-SED --out runs/people

What comes out, below OUT/weights: faces (ResNet-20 on pictures of faces), voices (LDA and the audio network on all sounds),
fused (face and voice, on the clips that show a face; LDA of the voice on all sounds). Each step is resumed where it was
stopped; the same seed gives the same weights on the same machine. --check SPEAKERS|CORPORA|CLIPS measures instead what
strangers get: folds by speaker and by corpus for the voices, for the fused network one person of the clips left out at a
time.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from emonet_scratch.data.folds import a_fifth, groups_of
from emonet_scratch.data.video import Frames
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError, EmonetError
from emonet_scratch.layers import Normalize, Sequential
from emonet_scratch.layers.input import IMAGENET_MEAN, IMAGENET_STD
from emonet_scratch.losses import softmax
from emonet_scratch.models import EmoNetConfig, ResNet
from emonet_scratch.studies.cross_validate import everything
from emonet_scratch.training import Settings, load_model, run, write_checkpoint
from emonet_scratch.training.answer import of_one_speaker
from emonet_scratch.training.calibration import calibration
from emonet_scratch.training.checkpoint import read_checkpoint
from emonet_scratch.training.inference import score
from emonet_scratch.training.metrics import bootstrap_interval
from emonet_scratch.training.run import on_device, projection_of, train_network

LABELS = "calm=Neutral, -boredom"                   # of RAVDESS and EmoDB: what the others have no word for
CONFIG = EmoNetConfig().replace(crop="faces", frame_size=48, freeze_trunk=True, trunk_statistics=True, lstm_size=32,
                                frames_per_chunk=32, lda_shrinkage=0.4, dropout=0.5, lr=1e-4, epochs=5, modality_dropout=0.2)
FIXED = ("progress", "data", "seed", "format")


def settings_of(options: argparse.Namespace, network: str) -> Settings:
    """On all sounds, and for the fused network on the trunk that was trained first."""
    sources = tuple(str(Path(path).absolute()) for path in (*options.voices, *options.clips))
    trunk = str((options.out / "weights" / "faces.safetensors").absolute())
    return Settings(sources, CONFIG.replace(trunk=trunk, epochs=options.epochs or CONFIG.epochs), (network,), options.seed,
                    cache=str((options.out / "cache").absolute()), labels=LABELS)


def export(source: Path, target: Path) -> None:
    """A checkpoint without what only a training needs, in float32."""
    groups, meta = read_checkpoint(source, lambda name: not name.startswith("optimizer/"))
    groups.get("projection", {}).pop("training", None)
    groups.get("looks", {}).pop("training", None)
    meta["config"]["trunk"] = "faces"                                         # by name, wherever it lies
    write_checkpoint(target, groups, {key: value for key, value in meta.items() if key not in FIXED})


def train(options: argparse.Namespace) -> None:
    """All three, one after the other."""
    weights = options.out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    if not (weights / "faces.safetensors").exists():
        if options.faces is None:
            raise DataError("--faces is wanted, or OUT/weights/faces.safetensors of an earlier run")
        script = Path(__file__).with_name("train_faces.py")
        subprocess.run([sys.executable, script, "--data", options.faces, "--out", options.out / "faces", "--resume",
                        "--seed", str(options.seed)], check=True)
        groups, meta = read_checkpoint(options.out / "faces" / "resnet.safetensors")
        write_checkpoint(weights / "faces.safetensors", groups, {key: meta[key] for key in ("resnet", "mean", "std")})
    for name, network in (("voices", "audio"), ("fused", "fused")):
        folder = options.out / name
        if not (folder / "results.json").exists():
            run(settings_of(options, network), folder, resume=(folder / "config.json").exists())
        export(folder / network / "best.safetensors", weights / f"{name}.safetensors")
    print("\n".join(f"{path}: {path.stat().st_size} bytes" for path in sorted(weights.glob("*.safetensors"))))


def reported(p: np.ndarray, labels: np.ndarray, group: np.ndarray, corpus: np.ndarray) -> dict:
    """How good probabilities (N, C) are: clip by clip, and with the other clips of the speaker, by corpus and over all."""
    alike = np.empty_like(p)
    for who in np.unique(group):
        alike[group == who] = of_one_speaker(p[group == who])

    def figures(q: np.ndarray) -> dict:
        right = q.argmax(axis=1) == labels
        wrong = q.max(axis=1)[~right]
        by_corpus = {str(name): {"recall": round(score(labels[o], q[o])["recall"], 3),
                                 "accuracy": round(float(right[o].mean()), 3)}
                     for name in np.unique(corpus) for o in [corpus == name]}
        by_class = {CLASSES[k]: [float(right[o].mean()), *bootstrap_interval(right[o], group[o])]
                    for k in np.unique(labels) for o in [labels == k]}
        return by_corpus | {"accuracy": float(right.mean()), "interval": bootstrap_interval(right, group),
                            "recall": score(labels, q)["recall"], "by class": by_class,
                            "confusion": score(labels, q)["confusion"],
                            "wrong above .9": float((wrong > 0.9).mean()), "ece": calibration(q, labels)["ece"],
                            "brier": calibration(q, labels)["brier"]}
    return {"one by one": figures(p), "with the speaker's other clips": figures(alike)}


def averaged(config: EmoNetConfig, frames: Frames) -> np.ndarray:
    """(7,): what the network for pictures says of frames (T, H, W, 3), on average; of the clips nothing is learnt."""
    net = Sequential(normalize=Normalize(IMAGENET_MEAN, IMAGENET_STD), resnet=ResNet.from_torch(config.trunk)).eval()
    return softmax(net.forward(np.asarray(frames))[0]).mean(axis=0)


def check(options: argparse.Namespace) -> None:
    """Networks that have not seen a speaker, a corpus, a person of the clips, on these; in OUT/check-*.json."""
    networks = {"speakers": ["audio"], "corpora": ["audio"], "clips": ["audio", "video", "fused"]}[options.check]
    settings = on_device(settings_of(options, networks[-1]))
    data, split = everything(replace(settings, modalities=tuple(networks)))
    people, corpora = groups_of(split), np.array(split.corpora)
    wanted = corpora == corpora[-1] if options.check == "clips" else np.ones(len(split), bool)
    if options.check == "clips":
        wanted = np.array([len(clip) > 0 for clip in split.frames])
    key = corpora if options.check == "corpora" else people
    found: dict[str, list] = {"ids": [], "label": [], "group": [], "corpus": []} | {name: [] for name in networks}
    for out in (wanted & (key == k) for k in np.unique(key[wanted])):
        inner = np.flatnonzero(key != key[out][0])
        _, kinds = np.unique(list(zip(corpora, split.labels.astype(str), strict=True)), axis=0, return_inverse=True)
        val = a_fifth(kinds.ravel()[inner], settings.seed, people[inner])     # of each corpus, as for a training
        parts = {"train": split.take(inner[~val]), "val": split.take(inner[val])}
        test, folder = split.take(np.flatnonzero(out)), options.out / "check" / options.check / str(key[out][0])
        projection = projection_of(settings.config, parts["train"], settings.seed)
        for name in networks:
            train_network(settings, replace(data, splits=parts), name, folder / name, projection, True, lambda line: None)
            found[name] += load_model(folder / name).probabilities(test)[1].tolist()
        found["ids"] += test.ids
        found["label"] += test.labels.tolist()
        found["group"] += people[out].tolist()
        found["corpus"] += test.corpora
        print(key[out][0], {name: round(float((np.array(found[name])[-len(test):].argmax(1) == test.labels).mean()), 3)
                            for name in networks}, flush=True)
    if options.check == "clips":                                              # what needs no fused network
        product = np.array(found["audio"]) * np.array(found["video"])
        found["late fusion"] = (product / product.sum(axis=1, keepdims=True)).tolist()
        at = {clip: k for k, clip in enumerate(split.ids)}
        found["frames averaged"] = [averaged(settings.config, split.frames[at[clip]]).tolist() for clip in found["ids"]]
        networks += ["late fusion", "frames averaged"]
    file = options.out / f"check-{options.check}.json"
    report = {name: reported(np.array(found[name]), *(np.array(found[k]) for k in ("label", "group", "corpus")))
              for name in networks}
    file.write_text(json.dumps({"report": report, "clips": found}, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", help="FER2013 with the votes of FER+, as examples/train_faces.py takes it")
    parser.add_argument("--voices", nargs="*", default=[], help="folders of sounds: RAVDESS, EmoDB")
    parser.add_argument("--clips", nargs="+", required=True, help="folders of clips of faces with their voices: Java-SED")
    parser.add_argument("--out", type=Path, default=Path("runs") / "people", help="where all of it goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help=f"of voices and of the fused network (default: {CONFIG.epochs})")
    parser.add_argument("--check", choices=["speakers", "corpora", "clips"])
    try:
        options = parser.parse_args()
        (check if options.check else train)(options)
    except (EmonetError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"train_people: {error}")
