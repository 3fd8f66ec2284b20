"""Training on images: the jitter, a run that learns, a resume that changes nothing, and the example's command line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch.data import cifar10
from emonet_scratch.training.checkpoint import CheckpointError, read_checkpoint
from emonet_scratch.training.images import ImageTrainer, Recipe, shift_and_flip

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_cifar10.py"
RECIPE = Recipe(depth=8, width=8, epochs=3, batch_size=16, lr=0.05)


def stripes(n, seed):
    """Images of vertical (class 0) or horizontal (class 1) stripes, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    wave = np.where(np.arange(32) // 2 % 2, 200, 50)
    pictures = np.where(labels[:, None, None] == 0, wave[None, None, :], wave[None, :, None])
    return (pictures[..., None] + rng.integers(-40, 40, (n, 32, 32, 3))).astype(np.uint8), labels


def test_an_image_is_moved_by_up_to_four_pixels_and_mirrored_or_not():
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (32, 32, 3), dtype=np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = {padded[i:i + 32, j:j + 32][:, ::step].tobytes(): (i, j, step)
             for i in range(9) for j in range(9) for step in (1, -1)}
    found = [crops[one.tobytes()] for one in shift_and_flip(np.stack([image] * 2000), rng)]
    assert set(found) == set(crops.values())                       # 162 cases, each about 12 times
    again = shift_and_flip(np.stack([image] * 4), np.random.default_rng(1))
    np.testing.assert_array_equal(again, shift_and_flip(np.stack([image] * 4), np.random.default_rng(1)))
    assert (padded[4:36, 4:36] == image).all()


def test_it_learns_and_the_card_says_how(tmp_path):
    trainer = ImageTrainer(stripes(96, 0), stripes(40, 1), tmp_path, RECIPE, facts={"data": "stripes"}, log=len)
    last = trainer.fit()
    assert last["accuracy"] >= 0.9 and last["split"] == "test" and last["epoch"] == 3
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == trainer.rows and [row["split"] for row in rows] == ["train", "test"] * 3
    groups, card = read_checkpoint(tmp_path / "resnet.safetensors")
    assert card["resnet"] == {"depth": 8, "num_classes": 2, "width": 8} and card["data"] == "stripes"
    assert card["recipe"] == dataclasses.asdict(RECIPE) and card["test"] == last
    assert groups["weights"].keys() == trainer.resnet.state_dict().keys()


def test_a_run_stopped_after_any_epoch_ends_with_the_same_weights(tmp_path, monkeypatch):
    data = stripes(32, 0), stripes(16, 1)
    ImageTrainer(*data, tmp_path / "whole", RECIPE, log=len).fit()
    for stop in (1, 2):
        folder = tmp_path / str(stop)
        stopped = ImageTrainer(*data, folder, RECIPE, log=len)
        step, calls = stopped._step, []

        def until(images, labels, step=step, calls=calls, stop=stop):
            calls.append(1)
            if len(calls) == 2 * stop + 2:                          # two steps an epoch: in the middle of the next one
                raise KeyboardInterrupt
            return step(images, labels)
        monkeypatch.setattr(stopped, "_step", until)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit()
        ImageTrainer(*data, folder, RECIPE, log=len).fit(resume=True)
        whole, resumed = (read_checkpoint(f / "last.safetensors")[0] for f in (tmp_path / "whole", folder))
        for group in whole:
            for name, a in whole[group].items():
                np.testing.assert_array_equal(a, resumed[group][name], err_msg=name)
    for change, other in ((dataclasses.replace(RECIPE, lr=0.1), data), (RECIPE, (stripes(32, 5), data[1]))):
        with pytest.raises(CheckpointError, match="of another recipe or of other images"):
            ImageTrainer(*other, folder, change, log=len).fit(resume=True)


def test_numbers_that_explode_are_named(tmp_path):
    recipe = dataclasses.replace(RECIPE, lr=1e30, schedule="constant")
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"in step \d+: a smaller lr than 1e\+30"):
        ImageTrainer(stripes(64, 0), stripes(16, 1), tmp_path, recipe, log=len).fit()


def example(*arguments):
    return subprocess.run([sys.executable, str(EXAMPLE), *map(str, arguments)], capture_output=True, text=True)


def test_the_example_and_what_it_says_to_wrong_input(tmp_path):
    images, labels = stripes(120, 0)
    for kind, part in (("train", slice(0, 100)), ("test", slice(100, 120))):
        planes = images[part].transpose(0, 3, 1, 2).reshape(-1, 3072)
        rows = np.hstack([labels[part, None].astype(np.uint8), planes])
        for name, piece in zip(cifar10.FILES["bin"][kind], np.split(rows, len(cifar10.FILES["bin"][kind])), strict=True):
            (tmp_path / name).write_bytes(piece.tobytes())
    arguments = ["--data", tmp_path, "--out", tmp_path / "run", "--depth", 8, "--width", 8, "--epochs", 1, "--lr", 0.05,
                 "--device", "cpu", "--limit", 60]
    run = example(*arguments)
    assert run.returncode == 0, run.stderr
    assert "test accuracy" in run.stdout and (tmp_path / "run" / "curves.png").stat().st_size > 5000
    for extra, reason in [((), "holds a run: --resume goes on with it"), (("--resume", "--lr", 1), "of another recipe"),
                          (("--data", tmp_path / "no"), "does not exist"), (("--device", "cuda"), "cannot be used"),
                          (("--out", tmp_path / "x", "--depth", 9), "6n + 2"),
                          (("--out", tmp_path / "x", "--schedule", "best"), "schedule must be one of")]:
        run = example(*arguments, *extra)
        assert run.returncode == 1 and run.stderr.startswith("train_cifar10: ") and reason in run.stderr
        assert run.stderr.count("\n") == 1
    assert example(*arguments, "--resume").returncode == 0

