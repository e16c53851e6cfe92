"""Close an abandoned stream, and release its slot, when its event loop shuts down.

Theory of operation:

* asyncio.run and trio.run close suspended async generators before the event loop ends, while the
  loop still works. `close_with_loop` starts a generator that suspends at once and does its work in
  `finally`.
* The owner of a stream keeps the generator (the loop guard) and closes it with `aclose`. That
  closes the stream and releases the admission. If the owner is abandoned, the event loop closes
  the generator instead, at the latest when the loop ends.
* The generator refers to the stream and the admission only, never to their owner, which may be
  collected earlier.
* Releasing matters beyond the loop: other event loops may wait for the slot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

LoopGuard = AsyncGenerator[None, None]
"""A suspended generator; its `aclose` closes the stream and releases the admission."""


class SupportsAclose(Protocol):
    """A stream that can be closed at any point."""

    async def aclose(self) -> None:
        """Close the stream."""
        ...


class SupportsRelease(Protocol):
    """An admission that is released once."""

    def release(self) -> None:
        """Release the admission."""
        ...


async def close_with_loop(
    stream: SupportsAclose, admission: SupportsRelease | None = None
) -> LoopGuard:
    """Bind a stream and its admission to the running event loop.

    Returns:
        A guard. Its `aclose`, or the end of the loop, closes the stream and then releases the
        admission.
    """
    guard = _until_loop_ends(stream, admission)
    await guard.__anext__()
    return guard


async def _until_loop_ends(stream: SupportsAclose, admission: SupportsRelease | None) -> LoopGuard:
    try:
        yield
    finally:
        try:
            await stream.aclose()
        finally:
            if admission is not None:
                admission.release()
