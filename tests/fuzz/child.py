"""A process with 1 GB of memory, 10 seconds and 64 files, and what is wrong with its end.

The seconds are those of small files. Where chunks are missing, ffmpeg looks for the next one byte by byte, 100 MB a second
on an idle core: 33 seconds for the 3 GB of a download that was broken off. So what a file may take grows with its size.
"""

import os
import re
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from emonet_scratch.errors import EmonetError
from emonet_scratch.files import print_anything, say

MEMORY, SECONDS, FILES = 2**30, 10, 64
BYTES_A_SECOND = 2**25           # two passes, on a core that others use, too


def outcome(work: Callable[[], int], folder: Path, seconds: float = SECONDS) -> str:
    """What is wrong with the end of a process that does `work` in `folder`; "" where nothing is."""
    said = folder.with_name(f"{folder.name}.said")
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        _limited(work, folder, said)
    ended, _, _ = select.select([watch := os.pidfd_open(process)], [], [], seconds)
    os.close(watch)
    try:
        os.killpg(process, signal.SIGKILL)                                    # what it has started ends with it
    except (ProcessLookupError, PermissionError):
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    text = said.read_text(encoding="utf-8", errors="surrogateescape")
    said.unlink()
    return f"no end within {seconds:g} seconds" if not ended else _judged(os.waitstatus_to_exitcode(status), text)


def seconds_for(folder: Path) -> float:
    """How long the work on the files of `folder` may take."""
    return SECONDS + sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file()) / BYTES_A_SECOND


def _limited(work: Callable[[], int], folder: Path, said: Path) -> None:
    """In the child: the limits, then the work; the process ends here."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        with open(said, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", closefd=False)   # a test has put others in their place
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        for what, most in ((resource.RLIMIT_AS, has + MEMORY), (resource.RLIMIT_NOFILE, FILES),
                           (resource.RLIMIT_FSIZE, MEMORY), (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(what, (most, most))
        code = work()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def _judged(code: int, text: str) -> str:
    lines = text.splitlines() or [""]
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    if re.search("MemoryError|Unable to allocate|Cannot allocate|out of memory", text):
        return "more memory than the limit"
    if "Too many open files" in text:
        return "more files than the limit"
    if "Traceback (most recent" in text or "Exception ignored" in text:
        return f"traceback: {re.sub(r'[0-9]+', '0', lines[-1])[:150]}"
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if re.search("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text):
        return "what a terminal obeys"
    if warned := re.search(r"^.*\w+Warning: .*$", text, re.MULTILINE):
        return f"a warning of a library: {warned[0][-100:]}"
    if code and not re.search("error|problems found", text):
        return f"exit code {code} without a reason"
    return ""


def answer(read: Callable[[], object]) -> int:
    """What the command line does with errors, for readers that have no command."""
    print_anything()
    try:
        read()
        return 0
    except (EmonetError, OSError) as error:
        say(f"error: {error}")
        return 1 if "\n" not in str(error) else 71
