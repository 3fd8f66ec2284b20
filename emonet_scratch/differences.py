"""The derivative of a function of one number by differences, and how far it may be off."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Slope(NamedTuple):
    """A derivative, what it may be off by, and the largest step in it."""

    value: float
    error: float
    step: float


class Comparison(NamedTuple):
    """The derivative along one direction in one array, by backward and by differences."""

    name: str
    shape: tuple[int, ...]
    analytic: float
    numeric: float
    tolerance: float
    step: float                 # the largest that `numeric` is made of

    def __str__(self) -> str:
        return (f"{self.name}, shape {self.shape}: backward gives {self.analytic:.12g}, central differences "
                f"give {self.numeric:.12g} (difference {self.analytic - self.numeric:.3g}, tolerance "
                f"{self.tolerance:.3g}) with step {self.step:g}")


class Report(list[Comparison]):
    """What was compared; `skipped` says what was not."""

    def __init__(self, compared: Iterable[Comparison], skipped: list[str]) -> None:
        super().__init__(compared)
        self.skipped = skipped

    def __repr__(self) -> str:
        return "\n".join([*map(str, self), *(f"not compared: {what}" for what in self.skipped)])


def derivative(phi: Callable[[float], float], eps: float, rtol: float, rounding: float) -> Slope:
    """phi'(0) where phi(0) is 0 and no phi is more exact than `rounding`.

    From the steps eps, eps / 2 and eps / 4, which do for most, and where phi does not move at all; where they leave an error
    of more than rtol |phi'(0)|, from 4096 eps down to eps / 2048: where phi' is small beside phi, long steps drown the
    rounding, and where phi bends within eps, short ones see it straight.
    """
    quick = slope(phi, eps, 3, rounding)
    if quick.error <= rtol * abs(quick.value) or quick == slope(lambda s: 0.0, eps, 3, rounding):
        return quick
    return min(quick, slope(phi, 4096 * eps, 24, rounding), key=lambda found: found.error)


def slope(phi: Callable[[float], float], first: float, count: int, rounding: float) -> Slope:
    """The same from the steps first, first / 2, ..., `count` of them.

    With D(s) = (phi(s) - phi(-s)) / 2s = phi'(0) + c_1 s^2 + c_2 s^4
    + ..., a halved step gives R = (4 D(s/2) - D(s)) / 3 without s^2, from two such one without s^4, and so on (Richardson
    1911; Ridders 1982). |R - D(s/2)| is the error of D(s/2), which is more than that of R.

    An error e in each phi is about e / s in R. It shows in what no smooth phi leaves: with o(s) = phi(s) - phi(-s) and
    g(s) = phi(s) + phi(-s), in o(s) - 10 o(s/2) + 16 o(s/4), where s and s^3 are gone, and in g(s) - 4 g(s/2), where s^2
    is. Divided by 27 and 8, the roots of the sums of squares of their weights, these are samples of e. Because rounding is
    there whatever s is, the largest of this and all smaller steps counts, five times. A kink within the steps leaves more
    there than it moves R. Of all R the one is taken for which the sum of both is least. What is not finite is left out.
    """
    steps = first * 0.5 ** np.arange(count)
    values = np.array([(phi(s), phi(-s)) for s in steps])
    odd = values[:, 0] - values[:, 1]
    even = values[:, 0] + values[:, 1]
    left = np.maximum(abs(odd[:-2] - 10 * odd[1:-1] + 16 * odd[2:]) / 27, abs(even[:-2] - 4 * even[1:-1]) / 8)
    noise = np.maximum.accumulate(np.append(left, [left[-1], rounding])[::-1])[:0:-1]
    best = Slope(np.nan, np.inf, first)
    row = odd / (2 * steps)
    for m in range(1, min(count, 6)):
        finer = row[1:]
        row = (4**m * finer - row[:-1]) / (4**m - 1)
        errors = np.nan_to_num(abs(row - finer) + 5 * noise[m - 1:] / steps[m:], nan=np.inf)
        k = int(errors.argmin())
        best = min(best, Slope(float(row[k]), float(errors[k]), float(steps[k])), key=lambda found: found.error)
    return best
