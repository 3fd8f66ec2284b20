"""Arguments that several commands have, and what is made of them."""

import argparse
import sys
from collections.abc import Callable

from .. import dispatch
from ..backend import choose_device
from ..files import on_one_line, say


def log(line: str) -> None:
    """Say it on standard error, on one line."""
    say(on_one_line(line), stream=sys.stderr)


def path_of(text: str) -> str:
    """An argument type: "" is a shell variable that was not set, not the folder of that name."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    return text


def integer(least: int) -> Callable[[str], int]:
    """An argument type: an integer from `least`."""
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected an integer from {least}, got {value}")
        return value
    parse.__name__ = "integer"                                                # as argparse says it: invalid integer value
    return parse


def seconds(least: float) -> Callable[[str], float]:
    """An argument type: a length of time from `least` on, and so short that its frames can be kept."""
    def parse(text: str) -> float:
        value = float(text)
        if not least <= value <= 60:
            raise argparse.ArgumentTypeError(f"expected {least:g} to 60 seconds, got {text}")
        return value
    parse.__name__ = "number"
    return parse


def add_device(parser: argparse.ArgumentParser, more: str = "") -> None:
    """--device and --precision."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K" + more)
    parser.add_argument("--precision", choices=dispatch.PRECISIONS,
                        help="of products in the kernels of a GPU (default: EMONET_PRECISION or fp32)" + more)


def device_of(options: argparse.Namespace) -> tuple[str, str]:
    """(the device that the options ask for, a line that says so); its precision is in force from now on."""
    device, line = choose_device(options.device)
    dispatch.use_precision(options.precision, device)
    return device, line
