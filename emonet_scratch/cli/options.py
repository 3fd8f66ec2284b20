"""Arguments that several commands have, and what is made of them."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .. import dispatch
from ..backend import choose_device
from ..data.video import ffmpeg_version
from ..files import on_one_line, say
from ..shards import ALONE, Alone
from ..training.run import versions


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
                        help="of factors; bf16 wants a CPU or GPU that has it (default: EMONET_PRECISION or fp32)" + more)


def add_ranks(parser: argparse.ArgumentParser, what: str) -> None:
    """--ranks."""
    parser.add_argument("--ranks", action="store_true", help=f"with all processes that mpiexec or srun has started: {what} "
                        "(extra mpi; asked for by itself where a launcher has started several)")


@contextmanager
def together(options: argparse.Namespace) -> Iterator[Alone]:
    """The ranks that the command has; from then on rank 0 alone speaks, and each has a GPU of its own if there are any."""
    from ..training.ranks import Ranks, launched  # an optional room
    if not (options.ranks or launched()):
        yield ALONE
        return
    options.together = ranks = Ranks()
    options.ranks, options.device = True, ranks.device(options.device)
    with ranks.quiet():
        log(ranks.line(options.device))
        ranks.agree("arguments", json.dumps(options.typed))
        ranks.agree("versions", json.dumps(versions() | {"machine": "", "command": "", "ffmpeg": ffmpeg_version()}))
        yield ranks


def device_of(options: argparse.Namespace) -> tuple[str, str]:
    """(the device that the options ask for, a line that says so); its precision is in force from now on."""
    device, line = choose_device(options.device)
    dispatch.use_precision(options.precision, device)
    return device, line
