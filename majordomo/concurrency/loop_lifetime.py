"""What a stream holds ends with its event loop, whoever forgets it: its connection is closed, its place goes to calls in other loops."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

LoopGuard = AsyncGenerator[None, None]


class Closable(Protocol):
    """A stream that can be closed at any point."""

    async def aclose(self) -> None: ...


class Releasable(Protocol):
    """An admission that is released once."""

    def release(self) -> None: ...


async def close_with_loop(stream: Closable, place: Releasable | None = None) -> LoopGuard:
    """To the loop that runs now, until the tie's `aclose`, which closes and leaves them too."""
    tie = _until_loop_ends(stream, place)
    await tie.__anext__()
    return tie


async def _until_loop_ends(stream: Closable, place: Releasable | None) -> LoopGuard:
    """Event loops close suspended async generators before they end. It holds the stream, and nobody who may be forgotten before that."""
    try:
        yield
    finally:
        try:
            await stream.aclose()
        finally:
            if place is not None:
                place.release()
