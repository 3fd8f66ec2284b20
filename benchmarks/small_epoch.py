"""One epoch of training EmoNet `small`, against the same network in PyTorch: same weights, same batches, same steps.

    python benchmarks/small_epoch.py [--threads 1 2] [--clips 490]

490 clips of 4 frames, 32 x 32, with audio vectors, in memory, in batches of 8. A step is forward, weighted cross-entropy,
backward, gradient clipping and AdamW with a cosine schedule; ours is the step of `Trainer`, with its checks for numbers
that are not finite. Before anything is timed, the first step without dropout must give the same loss and gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from peers import arguments, contestants, measure
from report import summarise, table


def _trainer(case: dict, dropout: float | None = None) -> Any:
    from emonet_scratch.data.batches import Split
    from emonet_scratch.models import EmoNetConfig
    from emonet_scratch.training.projection import AudioProjection
    from emonet_scratch.training.trainer import Trainer

    config = EmoNetConfig.preset("small").replace(epochs=10_000)      # a schedule that timing does not come to the end of
    if dropout is not None:
        config = config.replace(dropout=dropout)
    split = Split([str(i) for i in range(len(case["labels"]))], case["labels"], list(case["frames"]), case["audio"])
    projection = AudioProjection(config.lda_components, config.lda_shrinkage).fit(split.audio, split.labels)
    return Trainer(config, split, split, Path("unused"), projection=projection)


def _step_of(trainer: Any) -> Callable:
    """Trainer.step, which had another name in checkouts from before."""
    return trainer.step if hasattr(trainer, "step") else trainer._step


def _batches(case: dict, trainer: Any) -> list[Any]:
    from emonet_scratch.data.batches import batches

    c = trainer.config
    return list(batches(trainer.train, c.batch_size, c.frames, training=True, jitter=c.augment))


def ours(case: dict) -> tuple[Callable, Callable]:
    """The trainer's step on every batch; the environment says with which kernels."""
    trainer = _trainer(case)
    drawn, step = _batches(case, trainer), _step_of(trainer)

    def answer() -> dict:
        calm = _trainer(case, dropout=0.0)
        calm.config = calm.config.replace(clip_norm=None)
        loss, _, _ = _step_of(calm)(drawn[0])
        return {"loss": np.array(loss), "gradients": {p.name: p.grad.copy() for p in calm.model.parameters()}}

    def epoch() -> None:
        for batch in drawn:
            step(batch)
    return epoch, answer


def theirs(case: dict, variant: str = "eager", half: bool = False) -> tuple[Callable, Callable]:
    """The same epoch in PyTorch; half: autocast."""
    import math

    import torch
    import torch_nets

    c, weights = case["config"], torch.from_numpy(case["class_weights"])
    drawn = [[torch.from_numpy(a) for a in batch] for batch in case["batches"]]

    def network(dropout: float) -> torch.nn.Module:
        return torch_nets.load(torch_nets.EmoNet(c | {"dropout": dropout}, drawn[0][1].shape[1]), case["state"])

    net = network(c["dropout"])
    run = torch_nets.as_run(net, variant)
    optimizer = torch.optim.AdamW(net.parameters(), c["lr"], weight_decay=c["weight_decay"], fused=variant != "eager")
    steps = c["epochs"] * len(drawn)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * min(1, t / (steps - 1)))) / 2)

    def epoch() -> None:
        for *inputs, labels in drawn:
            _, loss = torch_nets.training_step(run, optimizer, inputs, labels, weights, c["clip_norm"], half)
            loss.item()
            schedule.step()

    def answer() -> dict:
        calm, (*inputs, labels) = network(0.0), drawn[0]
        _, loss = torch_nets.forward_backward(calm, inputs, labels, weights, half)
        return {"loss": loss.numpy(), "gradients": torch_nets.gradients(calm, case["state"])}
    return epoch, answer


def _case(clips: int) -> dict:
    """Pixels and vectors with a trace of the label; and for the peer, what the trainer makes of them."""
    rng = np.random.default_rng(0)
    labels = np.arange(clips) % 7
    base = rng.integers(0, 256, (7, 1, 32, 32, 3))
    frames = (0.3 * base[labels] + 0.7 * rng.integers(0, 256, (clips, 4, 32, 32, 3))).astype(np.uint8)
    audio = rng.standard_normal((7, 100))[labels] + 3 * rng.standard_normal((clips, 100))
    case = {"labels": labels, "frames": frames, "audio": audio}
    trainer = _trainer(case)
    return case | {"config": dataclasses.asdict(trainer.config), "state": trainer.model.state_dict(),
                   "class_weights": trainer.class_weights,
                   "batches": [(b.frames, b.audio, b.labels) for b in _batches(case, trainer)]}


def main() -> None:
    options = arguments(__doc__, ("--clips", dict(type=int, default=490)))
    machine()
    clips, rows = 16 if options.quick else options.clips, []
    for threads in options.threads:
        title = f"EmoNet `small`, one epoch of {clips} clips, {threads} thread(s)"
        found = measure(contestants(ours, theirs), _case(clips), options, threads, {"loss": 1e-4, "gradients": 5e-2})
        table(title, found, unit=("clips", clips))
        rows.append((title, found))
    summarise(rows)


if __name__ == "__main__":
    main()
