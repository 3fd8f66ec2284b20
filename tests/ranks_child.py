"""What a rank does in tests/test_ranks.py: `mpiexec -n N python -m tests.ranks_child WHAT [ARGUMENT ...]`."""

import io
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from emonet_scratch import shards
from emonet_scratch.cli import main
from emonet_scratch.data import prepare as prepare_module
from emonet_scratch.models import EmoNet
from emonet_scratch.shards import ALONE, Alone
from emonet_scratch.training import ranks as ranks_module
from emonet_scratch.training.gradients import Gradients
from emonet_scratch.training.ranks import Ranks
from tests.tiny import TINY, make, split


def gradients(ranks: Alone, folder: str) -> None:
    """Those of 4 shards by all ranks and of the whole batch by each alone, in float64, and how far they are apart."""
    from tests.test_shards import STILL, batches, gradients_of
    config = TINY.replace(**STILL, shards=4)
    batch = next(batches(split(0, n=11), 11, 3, training=True))
    model = EmoNet(config, 9, np.random.default_rng(5)).astype(np.float64)
    rng = np.random.default_rng(6)
    for p in model.parameters():
        p.value[...] = 0.3 * rng.standard_normal(p.value.shape)
    Gradients(model, model.parameters(), None, "cpu", ranks)(batch, 3, model.save_buffers())
    whole = gradients_of(config, batch, 1)[2]
    apart = max(np.abs(p.grad - whole[p.name]).max() / max(1, np.abs(whole[p.name]).max()) for p in model.parameters())
    Path(folder, f"{ranks.rank}.json").write_text(json.dumps(float(apart)))


def train(ranks: Alone, folder: str, shards: str = "4") -> None:
    """A training of some seconds."""
    make(Path(folder), TINY.replace(shards=int(shards), epochs=12), seed=3, save_every=2, ranks=ranks).fit(resume=True)


def raises(ranks: Alone, folder: str) -> None:
    """Rank 1 fails in the middle of an epoch; nobody catches it."""
    trainer = make(Path(folder), TINY.replace(shards=4), ranks=ranks)
    step = trainer.step

    def failing(batch):
        if ranks.rank == 1 and trainer.optimizer.t == 3:
            raise RuntimeError("the disk of rank 1 is gone")
        return step(batch)
    trainer.step = failing
    trainer.fit()


def other_data(ranks: Alone, folder: str) -> None:
    """Rank 1 has one clip of another label."""
    trainer = make(Path(folder), TINY.replace(shards=4), ranks=ranks)
    trainer.data["train"]["labels"] = f"those of rank {ranks.rank}"
    trainer.fit()


def exchanges(ranks: Alone, folder: str) -> None:
    """Messages of all lengths, and of none."""
    for round in range(3):
        mine = [bytes([ranks.rank]) * k for k in range(ranks.rank * round)]
        want = [bytes([rank]) * k for rank in range(ranks.size) for k in range(rank * round)]
        assert list(map(bytes, ranks.exchange(mine))) == want, round
    assert ranks.told(f"of rank {ranks.rank}: \udcff\u00e9") == "of rank 0: \udcff\u00e9"
    assert [int(row[0]) for row in ranks.spread(lambda k: k * k, range(7))] == [k * k for k in range(7)]
    for S, P in ((4, 10), (7, 1), (1, 3)):
        parts = np.random.default_rng(S).standard_normal((S, P)).astype(np.float32)
        found = ranks.total((parts[k].copy() for k in ranks.owned(S)), S, P, parts)
        assert found.tobytes() == ALONE.total(iter(parts.copy()), S, P, parts).tobytes(), (S, P)
    ranks.agree("words", "the same")
    Path(folder, str(ranks.rank)).touch()


def direct(ranks: Alone) -> None:
    """The sum where MPI reads the memory of GPUs, played by NumPy: it waits for the GPU before each message."""
    waits, stream = [], SimpleNamespace(synchronize=lambda: waits.append(1))
    fake = SimpleNamespace(__name__="cupy", empty=np.empty, concatenate=np.concatenate,
                           cuda=SimpleNamespace(get_current_stream=lambda: stream))
    ranks_module.array_module, ranks.direct = (lambda like: fake), True
    for S in (4, 7, 1):
        parts = np.random.default_rng(S).standard_normal((S, 10)).astype(np.float32)
        found = ranks.total((parts[k].copy() for k in ranks.owned(S)), S, 10, parts)
        assert found.tobytes() == ALONE.total(iter(parts.copy()), S, 10, parts).tobytes(), S
    assert len(waits) == 6


def reads(ranks: Alone, data: str, cache: str, log: str) -> None:
    """Prepare a data set, and note every start of ffmpeg."""
    read_media = prepare_module.read_media

    def noted(path, *arguments, **options):
        with open(log, "a") as file:
            file.write(f"{path}\n")
        return read_media(path, *arguments, **options)
    prepare_module.read_media = noted
    found = prepare_module.prepare(data, frame_size=8, cache=cache, log=lambda line: None, ranks=ranks)
    assert {name: len(part) for name, part in found.splits.items()} == {"train": 21, "val": 7}
    assert all(len(clip) == 5 for part in found.splits.values() for clip in part.frames)


def stops_reading(ranks: Alone, folder: str) -> None:
    """Predict, rank 0 with nobody who takes what it prints."""
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError
    shards.ROUND = 1                                                          # so that there is a second one
    if ranks.rank == 0:
        sys.stdout = Closed()
    sys.exit(main(["predict", "--ranks", "--device", "cpu", folder]))


def sleeps(ranks: Alone) -> None:
    """Rank 0 waits for one that never comes: what a hang looks like."""
    if ranks.rank:
        time.sleep(600)
    ranks.wait()


if __name__ == "__main__":
    os.environ.pop("EMONET_CHILD", None)
    several = Ranks() if sys.argv[1] != "alone" else ALONE
    globals()[sys.argv[1]](several, *sys.argv[2:])
