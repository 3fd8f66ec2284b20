"""From labels to classes: what a user renames, merges and drops, in any script, and the order of the classes."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.labels import MOST, classes_of, parse_labels, rename, same
from emonet_scratch.emotions import CLASSES
from tests.test_afew import refused

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters=",=-"), min_size=1,
                max_size=8).filter(same)


@pytest.mark.parametrize(("text", "changes"), [
    ("", {}), (" , ,", {}), ("a=b", {"a": "b"}), (" Calm = Neutral ,-Contempt, ", {"calm": "Neutral", "contempt": None}),
    ("a=x, b=x", {"a": "x", "b": "x"}), ("01=Neutral", {"01": "Neutral"}), ("a=b=c", {"a": "b=c"}), ("a=b c", {"a": "b c"}),
    ("- a", {"a": None}), ("-a=b", {"-a": "b"}), ("--a", {"-a": None}), ("a=-b", {"a": "-b"}),
    ("грусть=Sad, 悲伤=Sad, حزن=Sad, -СТРАХ", {"грусть": "Sad", "悲伤": "Sad", "حزن": "Sad", "страх": None})])
def test_changes(text, changes):
    assert parse_labels(text) == changes


@pytest.mark.parametrize(("text", "words"), [
    ("calm", ["OLD=NEW", "-OLD", "'calm'"]), ("a=", ["'a='"]), ("=a", ["'=a'"]), ("-", ["'-'"]), ("=", ["'='"]),
    ("a=b, a=c", ["'a' is there twice"]), ("a=b, -A", ["'A' is there twice"]), ("é=b, -e\u0301", ["twice"]),
    ("a=b,\nc", ["'c'"]), ("ok=1, \x1b[2J", ["'\\x1b[2J'"])])
def test_changes_that_are_refused(text, words):
    refused(lambda: parse_labels(text), "--labels", *words)


@given(st.dictionaries(NAMES, st.none() | NAMES, max_size=5))
def test_any_names_go_through_the_option(changes):
    text = ", ".join(f"-{old}" if new is None else f"{old}={new}" for old, new in changes.items())
    if len({same(old) for old in changes}) < len(changes):
        refused(lambda: parse_labels(text), "twice")
    else:
        assert parse_labels(text) == {same(old): new and new.strip() for old, new in changes.items()}


@given(NAMES)
def test_names_are_the_same_in_any_composition_and_with_blanks_around(name):
    assert same(name) == same(f" {name}\t")
    assert {same(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")} == {same(name)}


@pytest.mark.parametrize(("one", "other"), [("Angry", "ANGRY"), ("Ärger", "A\u0308RGER"), ("ГРУСТЬ", "грусть"), ("ß", "SS"),
                                            ("Ελλάς", "ΕΛΛΆΣ")])
def test_names_are_the_same_in_any_case(one, other):
    assert same(one) == same(other)


def test_a_label_is_renamed_as_it_was_read_or_as_it_is_meant():
    assert rename("02", "Calm", {}) == "Calm"
    assert rename("02", "Calm", parse_labels("calm=neutral")) == "Neutral"                 # AFEW's own spelling
    assert rename("02", "Calm", parse_labels("02=Relaxed, calm=neutral")) == "Relaxed"
    assert rename("02", "Calm", parse_labels("-CALM")) is None and rename("02", "Calm", parse_labels("-02")) is None
    assert rename("angry", "angry", {}) == "Angry" and rename(" Joy ", " Joy ", {}) == "Joy"
    assert rename("e\u0301", "e\u0301", {}) == "é"


def test_changes_are_made_once_so_that_names_can_be_swapped():
    changes = parse_labels("happy=Sad, sad=Happy")
    assert (rename("happy", "happy", changes), rename("Sad", "Sad", changes)) == ("Sad", "Happy")
    changes = parse_labels("a=b, b=c, -c")
    assert [rename(name, name, changes) for name in "abc"] == ["b", "c", None]


def test_labels_that_are_the_same_are_one_class_spelled_as_the_first():
    assert classes_of(["joy", "JOY", "Sad", "sad", "é", "e\u0301"]) == ("joy", "Sad", "é")


def test_the_order_is_alphabetical_without_case_and_AFEW_has_its_own():
    assert classes_of(["b", "A", "c", "B"]) == ("A", "b", "c")
    assert classes_of(reversed(CLASSES)) == CLASSES
    assert classes_of(["悲伤", "فرح", "Грусть", "zzz", "01"]) == ("01", "zzz", "Грусть", "فرح", "悲伤")


@given(st.lists(NAMES, min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_that_of_the_clips(names, random):
    names = list({same(name): name for name in names}.values())
    if len(names) > 1:
        classes = classes_of(names)
        assert sorted(classes) == sorted(names) and list(classes) == sorted(names, key=same)
        assert classes_of([*names, *random.sample(names, len(names))]) == classes
        assert classes_of(random.sample(names, len(names))) == classes


@pytest.mark.parametrize("number", [2, 3, 7, 99, MOST])
def test_2_to_100_classes(number):
    assert len(classes_of(f"class {k}" for k in range(number) for _ in range(2))) == number == len(
        classes_of(f"class {k}" for k in range(number)))


def test_fewer_and_more_are_refused():
    assert MOST == 100
    refused(lambda: classes_of([]), "expected 2 to 100 classes, got 0 (none)")
    refused(lambda: classes_of(["Sad", "sad", "SAD"]), "got 1 (Sad)")
    refused(lambda: classes_of(f"c{k:03}" for k in range(101)), "got 101 (c000, c001, c002, c003, c004)")
    assert classes_of([], least=0) == () and classes_of(["Sad", "sad"], least=0) == ("Sad",)
