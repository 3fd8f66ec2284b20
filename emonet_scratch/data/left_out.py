"""A clip that cannot be read is named and counted, never dropped in silence; `on_error` decides what follows."""

import errno
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ..errors import DataError
from .progress import progress


def attempt(read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` gives, or the DataError that it raises: a thread or process of many hands it over and goes on."""
    try:
        return read(*arguments)
    except DataError as error:
        return error


def usable(results: Iterable[tuple[Any, Any]], on_error: str, log: Callable[[str], None]) -> Iterator[tuple[Any, Any]]:
    """Of (clip, what `attempt` gave) those that could be read; on_error "skip" logs each other one, "stop" raises it."""
    for clip, result in results:
        if not isinstance(result, DataError):
            yield clip, result
        elif on_error == "stop":
            raise DataError(f"{result} (--on-error skip leaves such clips out)")
        else:
            log(f"left out: {result}")


def attempt_all(read: Callable[..., Any], clips: Sequence[Any], workers: int) -> Generator[Any, None, None]:
    """What `attempt` gives of each clip, many at once, in their order, with a line or bar of progress."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from progress(pool.map(partial(attempt, read), clips), "reading clips", len(clips))
        except RuntimeError as error:
            if "new thread" not in str(error):
                raise
            raise OSError(errno.EAGAIN, str(error)) from error
        finally:
            pool.shutdown(cancel_futures=True)
