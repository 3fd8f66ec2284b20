"""Training on images: the jitter, a run that learns, a resume that changes nothing, and the example's command line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch.data import cifar10
from emonet_scratch.errors import CheckpointError, NonFiniteError
from emonet_scratch.layers.input import IMAGENET_MEAN
from emonet_scratch.training.checkpoint import read_checkpoint
from emonet_scratch.training.images import ImageTrainer, Recipe, cut_out, shift_and_flip, ten_views

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


def test_a_square_in_the_mean_colour_is_cut_out_anywhere():
    rng, mean = np.random.default_rng(0), np.round(np.array(IMAGENET_MEAN) * 255)
    images = cut_out(np.zeros((3000, 32, 32, 3), np.uint8), 8, rng)
    gone = images.any(axis=3)
    assert (images[gone] == mean).all()
    rows, columns = gone.any(axis=2), gone.any(axis=1)
    np.testing.assert_array_equal(gone, rows[:, :, None] & columns[:, None, :])                # a rectangle, and an edge
    for edge in (rows, columns):                                                               # is shorter at a border only
        first, length = edge.argmax(axis=1), edge.sum(axis=1)
        np.testing.assert_array_equal(np.diff(edge.astype(int), axis=1).clip(0).sum(axis=1) + edge[:, 0], 1)
        assert ((length == 8) | (first == 0) | (first + length == 32)).all() and set(length) == {4, 5, 6, 7, 8}
        assert set(first) == set(range(28))
    assert not cut_out(np.zeros((9, 32, 32, 3), np.uint8), 0, rng).any()


def test_the_last_tenth_of_the_epochs_shows_whole_images():
    recipe = dataclasses.replace(RECIPE, epochs=20, cutout=8)
    white = np.full((16, 32, 32, 3), 255, np.uint8), np.zeros(16, int)
    trainer = ImageTrainer(white, white, Path("unused"), recipe, log=len)
    cut = [np.isin(next(trainer.batches(epoch))[0], (0, 255)).all() for epoch in range(20)]
    assert cut == [False] * 18 + [True] * 2
    whole = ImageTrainer(white, white, Path("unused"), dataclasses.replace(recipe, cutout=0), log=len)
    assert np.isin(next(whole.batches(0))[0], (0, 255)).all()


def test_ten_views_and_their_mean(tmp_path):
    images = np.random.default_rng(0).integers(1, 256, (3, 32, 32, 3), dtype=np.uint8)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = {view.tobytes() for view in ten_views(images)}
    for i, j in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2)):
        crop = padded[:, i:i + 32, j:j + 32]
        found -= {crop.tobytes(), crop[:, :, ::-1].tobytes()}
    assert len(list(ten_views(images))) == 10 and not found
    labels = np.array([0, 1, 1])
    trainer = ImageTrainer(stripes(32, 0), (images, labels), tmp_path, RECIPE, log=len)
    trainer.model.eval()
    logits = np.mean([trainer.model.forward(view)[0] for view in ten_views(images)], axis=0)
    loss = np.mean([np.log(np.exp(z - z[k]).sum()) for z, k in zip(logits, labels, strict=True)])
    expected = loss, (logits.argmax(axis=1) == labels).mean()
    assert trainer.evaluate((images, labels), ten_views) == pytest.approx(expected, rel=1e-5)


def test_it_learns_and_the_card_says_how(tmp_path):
    trainer = ImageTrainer(stripes(96, 0), stripes(40, 1), tmp_path, RECIPE, facts={"data": "stripes"}, log=len)
    last = trainer.fit()
    assert last["accuracy"] >= 0.9 and last["split"] == "test" and last["epoch"] == 3
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == trainer.rows and [row["split"] for row in rows] == ["train", "test"] * 3
    groups, card = read_checkpoint(tmp_path / "resnet.safetensors")
    assert card["resnet"] == {"depth": 8, "num_classes": 2, "width": 8} and card["data"] == "stripes"
    assert card["recipe"] == dataclasses.asdict(RECIPE) and card["test"] == last
    assert card["test, mean of ten views"]["accuracy"] >= 0.9
    assert groups["weights"].keys() == trainer.resnet.state_dict().keys()


def test_a_run_stopped_after_any_epoch_ends_with_the_same_weights(tmp_path, monkeypatch):
    data = stripes(32, 0), stripes(16, 1)
    ImageTrainer(*data, tmp_path / "whole", RECIPE, log=len).fit()
    for stop in (1, 2):
        folder = tmp_path / str(stop)
        stopped = ImageTrainer(*data, folder, RECIPE, log=len)
        step, calls = stopped.step, []

        def until(images, labels, step=step, calls=calls, stop=stop):
            calls.append(1)
            if len(calls) == 2 * stop + 2:                          # two steps an epoch: in the middle of the next one
                raise KeyboardInterrupt
            return step(images, labels)
        monkeypatch.setattr(stopped, "step", until)
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
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match=r"in step \d+: a smaller lr than 1e\+30"):
        ImageTrainer(stripes(64, 0), stripes(16, 1), tmp_path, recipe, log=len).fit()


def test_training_goes_on_from_other_weights(tmp_path):
    data = stripes(64, 0), stripes(40, 1)
    first = ImageTrainer(*data, tmp_path / "one", RECIPE, log=len)
    first.fit()
    start = str(tmp_path / "one" / "resnet.safetensors")
    second = ImageTrainer(*data, tmp_path / "two", dataclasses.replace(RECIPE, start=start), log=len)
    np.testing.assert_equal(second.resnet.state_dict(), first.resnet.state_dict())
    with pytest.raises(ValueError, match="conv"):
        ImageTrainer(*data, tmp_path / "two", dataclasses.replace(RECIPE, start=start, width=4), log=len)


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

