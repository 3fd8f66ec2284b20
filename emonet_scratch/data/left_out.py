"""A clip that cannot be read is named and counted, never dropped in silence; `on_error` decides what follows."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import DataError


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
