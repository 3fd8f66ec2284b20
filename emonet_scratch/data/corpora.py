"""Corpora that are known by the names of their files: where a name has the emotion and who speaks, and what it means.

A name is a path below the folder of the corpus, with "/", without suffix; a pattern has to match its end. The classes are
those of emotions.py where the corpus means the same, else the corpus' own.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..emotions import CLASSES


class Corpus(NamedTuple):
    """One corpus; group: who is the same in clips of one group."""

    name: str
    pattern: str
    labels: dict[str, str]
    group: str
    source: str
    licence: str


CORPORA = (
    Corpus("RAVDESS", r"0[123]-0[12]-(?P<label>0[1-8])-0[12]-0[12]-0[12]-(?P<group>\d\d)",
           {"01": "Neutral", "02": "Calm", "03": "Happy", "04": "Sad", "05": "Angry", "06": "Fear", "07": "Disgust",
            "08": "Surprise"}, "actor", "Livingstone and Russo 2018, PLOS ONE 13(5)", "CC BY-NC-SA 4.0: not for commerce"),
    Corpus("CREMA-D", r"(?P<group>1\d{3})_[A-Z]{3}_(?P<label>ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX|X)",
           {"ANG": "Angry", "DIS": "Disgust", "FEA": "Fear", "HAP": "Happy", "NEU": "Neutral", "SAD": "Sad"}, "actor",
           "Cao et al. 2014, IEEE Trans. Affective Computing 5(4)", "Open Database License"),
    Corpus("SAVEE", r"(?P<group>DC|JE|JK|KL)[/_](?P<label>sa|su|a|d|f|h|n)\d\d",
           {"a": "Angry", "d": "Disgust", "f": "Fear", "h": "Happy", "n": "Neutral", "sa": "Sad", "su": "Surprise"}, "actor",
           "Haq and Jackson 2010, Machine Audition", "for research"),
    Corpus("EmoDB", r"(?P<group>\d\d)[ab]\d\d(?P<label>[WLEAFTN])[a-z]",
           {"W": "Angry", "L": "Boredom", "E": "Disgust", "A": "Fear", "F": "Happy", "T": "Sad", "N": "Neutral"}, "speaker",
           "Burkhardt et al. 2005, Interspeech", "for research"),
    Corpus("TESS", r"(?P<group>OAF|YAF|OA|YA)_[A-Za-z]+_(?P<label>angry|disgust|fear|happy|neutral|ps|sad)",
           {"angry": "Angry", "disgust": "Disgust", "fear": "Fear", "happy": "Happy", "neutral": "Neutral",
            "ps": "Surprise", "sad": "Sad"}, "actress",
           "Pichora-Fuller and Dupuis 2020, Borealis, doi:10.5683/SP2/E8H2MF", "CC BY-NC-ND 4.0: not for commerce"),
    Corpus("Java-SED", r"(?P<group>\d\d?)-\d\d?-(?P<label>0[1-6])_\d\d?",
           {"01": "Neutral", "02": "Sad", "03": "Happy", "04": "Surprise", "05": "Fear", "06": "Angry"}, "actor",
           "Arifin et al. 2022", "sounds and images MIT, of the videos none is named"),
    Corpus("AFEW", rf"(?i:(?P<label>{'|'.join(CLASSES)}))/\d{{9}}", {name: name for name in CLASSES},
           "film, which names do not say", "Dhall et al. 2012, IEEE MultiMedia 19(3)", "on request, for research"),
)
SAME = {"OA": "OAF", "YA": "YAF"}               # TESS has OA_bite_neutral among the names of OAF
ENOUGH = 0.5                                    # so many of the names have to fit
FIELDS = re.compile(r"\{(\w*)\}")


def recognise(names: Sequence[str]) -> tuple[Corpus, int] | None:
    """The corpus that most of these names are of, and of how many; None where it is no half of them."""
    fits = [(sum(parse(corpus.pattern, name) is not None for name in names), corpus) for corpus in CORPORA]
    number, corpus = max(fits, key=lambda fit: fit[0])
    return (corpus, number) if number and number >= ENOUGH * len(names) else None


def parse(pattern: str, name: str) -> dict[str, str] | None:
    """What the parts of a pattern are in the end of a name, without the empty ones; None where it does not match."""
    found = re.search(rf"(?:^|[/_])(?:{pattern})$", name)
    return {part: text for part, text in found.groupdict().items() if text} if found else None


def pattern_of(name: str) -> str:
    r"""The pattern of a name as a user writes it: {label}, {group}, {split} and {} for anything else.

    >>> parse(pattern_of("{group}-{}-{label}_{}"), "below/7-02-03_1")
    {'group': '7', 'label': '03'}

    ValueError: another word in braces, one twice, or no {label}.
    """
    words = [word for word in FIELDS.findall(name) if word]
    if wrong := [word for word in words if word not in ("label", "group", "split")]:
        raise ValueError(f"{{{wrong[0]}}} in {name!r}: expected {{label}}, {{group}}, {{split}}, or {{}} for anything")
    if "label" not in words or len(set(words)) < len(words):
        raise ValueError(f"{name!r}: expected {{label}} in it, and nothing twice")
    literals = FIELDS.split(name)
    return "".join(re.escape(text) if k % 2 == 0 else f"(?P<{text}>[^/]+?)" if text else "[^/]*?"
                   for k, text in enumerate(literals))
