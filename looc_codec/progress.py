"""How far the work on one picture is. The codec says it, and whoever listens shows it.

    with progress.listening(lambda share: bar.update(completed=share)):
        codec.compress_picture(picture)

Work is nested: inside `part(0.25, 1.0)` a report of 0.5 is heard as 0.625. Nobody need listen; reports then cost nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Listener = Callable[[float], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Calls `listener` with the share, 0..1, of the work inside that is done. In this thread only."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(share: float) -> None:
    """Says that `share`, 0..1, of the innermost part is done."""
    listener = _listener.get()
    if listener is not None:
        listener(share)


@contextlib.contextmanager
def part(start: float, end: float) -> Iterator[None]:
    """The work inside is that from `start` to `end` of the part around it."""
    listener = _listener.get()
    if listener is None:
        yield
        return
    with listening(lambda share: listener(start + share * (end - start))):
        yield
    listener(end)
