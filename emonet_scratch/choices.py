"""Choices that are fields of a dataclass, each with a rule for its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """What holds for the value of a field, and the same in words."""

    holds: Callable[[Any], bool]
    words: str


def choice(default: Any, rule: Rule) -> Any:
    """A field with its default and the rule for its values."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def check_choices(chosen: Any) -> None:
    """ValueError, with the name of the field, where a value of a dataclass breaks its rule."""
    for field in dataclasses.fields(chosen):
        value, rule = getattr(chosen, field.name), field.metadata["rule"]
        if not rule.holds(value):
            raise ValueError(f"{field.name} must be {rule.words}, got {value!r}")


def one_of(*allowed: str) -> Rule:
    """One of these words."""
    return Rule(lambda value: isinstance(value, str) and value in allowed, f"one of {', '.join(allowed)}")


def optional(rule: Rule) -> Rule:
    """The same, or None, which JSON calls null."""
    return Rule(lambda value: value is None or rule.holds(value), f"null or {rule.words}")


def whole(value: Any, least: int = 1) -> bool:
    """Is it an integer from `least` to 2**63 - 1?"""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def number(value: Any) -> bool:
    """Is it an integer or a float from 0 to 1e38?"""
    return whole(value, 0) or (isinstance(value, float) and 0 <= value < 1e38)


COUNT = Rule(whole, "a positive integer below 2**63")
OPTIONAL_COUNT = optional(COUNT)
NATURAL = Rule(lambda value: whole(value, 0), "an integer from 0 to 2**63 - 1")
NUMBER = Rule(number, "a number from 0 to 1e38")
SHARE = Rule(lambda value: number(value) and value < 1, "a number in [0, 1)")
OPTIONAL_POSITIVE = optional(Rule(lambda value: number(value) and value > 0, "a positive number"))
SWITCH = Rule(lambda value: isinstance(value, bool), "true or false")
