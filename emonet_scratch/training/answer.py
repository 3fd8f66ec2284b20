"""What the weights that come with the package say of a file of which nothing else is known."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..backend import to_device
from ..data.afew import Clip
from ..data.batches import Split
from ..data.blas import one_blas_thread
from ..data.faces import import_cv2
from ..data.left_out import attempt
from ..data.prepare import Reader, Reading
from ..errors import DataError
from ..layers import Normalize
from ..layers.input import IMAGENET_MEAN, IMAGENET_STD
from ..losses import softmax
from .calibration import temper
from .inference import load_model, reading
from .trunk import with_sights

FOLDER = Path(models.__file__).parent
#: Weights that come with the package: a network for pictures of faces, one for voices, one for both.
SHIPPED = {name: FOLDER / f"{name}.safetensors" for name in ("faces", "voices", "fused")}
UNKNOWN = "unknown"
LOUDNESS, SECONDS = "pcm_loudness_sma_amean", "F0final__Turn_duration"     # descriptors: 0 in silence; of the sound
READERS, AHEAD = 2, 4               # threads that read, and clips that they have read before these are asked about
SHORT = 0.1         # seconds: no syllable is shorter
PRIOR_CLIPS = 4     # of one speaker: as many clips of nobody in particular stand beside theirs


@dataclass(frozen=True)
class Answer:
    """What is said of one clip.

    weights: which of SHIPPED have spoken, "" where there is neither a face nor a voice; label: a class, or UNKNOWN then;
    probabilities (C,), calibrated, of a still picture shares of people who would say so; novelty: how unlike all training
    clips it is, above 1: unlike (see novelty.py), or None where nobody knows; face, voice: whether there is one (a voice: at
    least a sound, neither silence nor a click); fault: why its sound cannot be decoded.
    """

    clip: str
    weights: str
    label: str
    probabilities: np.ndarray
    novelty: float | None
    face: bool
    voice: bool
    fault: str = ""

    @property
    def unlike(self) -> bool | None:
        """Whether it is unlike all that the weights know."""
        return None if self.novelty is None else self.novelty > 1

    @property
    def facts(self) -> dict[str, Any]:
        """What there is to say beside label and probabilities, for a program."""
        novelty = None if self.novelty is None else round(self.novelty, 6)
        return {"weights": self.weights, "novelty": novelty, "unlike": self.unlike, "face": self.face, "voice": self.voice}

    @property
    def remarks(self) -> str:
        """The same in words, "" for nothing."""
        has = f"no {'voice' if self.face else 'face'} in it" if self.face != self.voice and self.weights != "faces" else ""
        unlike = f"unlike what the weights know: novelty {self.novelty:.2f}" if self.unlike else ""
        return "neither a face nor a voice in it" if not self.weights else "; ".join(filter(None, (has, unlike)))


class Answerer:
    """Reads clips and answers with the shipped weights."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.models = {name: load_model(SHIPPED[name], device) for name in ("voices", "fused")}
        self.faces = models.ResNet.pretrained("faces").to_device(device)
        self.classes = self.models["fused"].classes
        self.blind = ""                                                       # why it looks for no face
        try:
            import_cv2()
        except DataError as error:
            self.blind = str(error)
        self.reader = Reader(None if self.blind else reading(self.models["fused"].config), True)

    def __call__(self, path: Path) -> Answer:
        """DataError: a file that cannot be read."""
        with one_blas_thread():                                               # as `answers`: the same bits
            return self.say(path, self.read(path))

    def answers(self, paths: Iterable[Path]) -> Iterator[Answer | DataError]:
        """What is said of each, in their order, while the next ones are read."""
        waiting: deque[tuple[Path, Future]] = deque()
        with one_blas_thread(), ThreadPoolExecutor(READERS) as pool:
            try:
                for path in paths:
                    waiting.append((path, pool.submit(attempt, self.read, path)))
                    if len(waiting) > AHEAD:
                        yield self._told(*waiting.popleft())
                while waiting:
                    yield self._told(*waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _told(self, path: Path, future: Future) -> Answer | DataError:
        found = future.result()
        return found if isinstance(found, DataError) else self.say(path, found)

    def read(self, path: Path) -> Reading:
        """Face and sound of a file. DataError: it cannot be read."""
        return self.reader(Clip("test", path.stem, path, None))

    @property
    def size(self) -> int:
        """Side of the faces that it looks at, pixels."""
        return self.models["fused"].config.frame_size

    def say(self, path: Path, found: Reading) -> Answer:
        """The answer to what was read."""
        heard = dict(zip(self.models["fused"].feature_names, found.audio, strict=True))
        face = found.frames is not None and len(found.frames) > 0
        voice = bool(heard[LOUDNESS] > 0 and heard[SECONDS] >= SHORT)         # neither, if they are nan: no sound
        if not voice:
            found = replace(found, audio=np.full(len(found.audio), np.nan))
        name = "faces" if face and len(found.frames) == 1 else "fused" if face else "voices" if voice else ""
        p, novelty = self._ask(name, found) if name else (np.full(len(self.classes), 1 / len(self.classes)), None)
        label = self.classes[int(p.argmax())] if name else UNKNOWN
        return Answer(str(path), name, label, p, novelty, face, voice, found.fault)

    def _ask(self, name: str, found: Reading) -> tuple[np.ndarray, float | None]:
        """(probabilities (C,), novelty); what is unlike everything known is believed less: the temperature rises with it."""
        if name == "faces":
            x, _ = Normalize(IMAGENET_MEAN, IMAGENET_STD).forward(np.asarray(found.frames))
            return to_device(softmax(self.faces.forward(to_device(x, self.device))[0]), "cpu")[0].astype(np.float64), None
        model, split = self.models[name], self.split(name, found)
        novelty = float(model.novelty(split)[0])
        return temper(model.probabilities(split, self.device)[1], max(1.0, novelty) ** 2)[0], novelty

    def split(self, name: str, found: Reading) -> Split:
        """What the network `name`, voices or fused, reads of one clip, after its trunk."""
        model, one = self.models[name], Split([""], np.array([-1]), None, found.audio[None])
        if name != "fused":
            return one
        one = replace(one, frames=[found.frames])
        return (model.looked_at(one, self.device) if found.sights is None else
                with_sights(one, model.net, [found.sights], self.device))


def of_one_speaker(probabilities: np.ndarray) -> np.ndarray:
    """(N, C) -> (N, C): what of clips of one speaker is left when what they say on average is taken to be how one looks and
    speaks, not what one feels.

        log q_i = log p_i - (sum_j log p_j + PRIOR_CLIPS log(1 / C)) / (N + PRIOR_CLIPS),   normalised
    """
    log_p = np.log(np.maximum(probabilities, 1e-12))
    usual = log_p.sum(axis=0) / (len(log_p) + PRIOR_CLIPS)                    # a uniform part changes no difference
    q = np.exp(log_p - usual - (log_p - usual).max(axis=1, keepdims=True))
    return q / q.sum(axis=1, keepdims=True)


def summary(name: str) -> str:
    """The second paragraph of the card of SHIPPED weights: one line on what they know and what for they may be used."""
    card = SHIPPED[name].with_suffix(".md").read_text(encoding="utf-8")
    return " ".join(card.split("\n\n")[1].split())


def figures(name: str, rows: Sequence[str] = ("data", "licence", "accuracy", "calibration")) -> list[str]:
    """Lines of the table in a card whose first cell begins with one of these words, "accuracy: ..."."""
    lines = SHIPPED[name].with_suffix(".md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split("|", 1)] for line in lines if line.startswith("| ")]
    return [": ".join(row) for row in cells if row[0].startswith(tuple(rows))]
