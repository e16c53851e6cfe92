"""What a stream holds ends with its event loop, whoever forgets it: its connection is closed, its place goes to calls in other loops."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from majordomo.flows.gate import Place
from majordomo.wire import WireStream

Tie = AsyncGenerator[None, None]


async def tied(stream: WireStream, place: Place | None = None) -> Tie:
    """To the loop that runs now, until the tie's `aclose`, which closes and leaves them too."""
    tie = _until_loop_ends(stream, place)
    await tie.__anext__()
    return tie


async def _until_loop_ends(stream: WireStream, place: Place | None) -> Tie:
    """Event loops close suspended async generators before they end. It holds the stream, and nobody who may be forgotten before that."""
    try:
        yield
    finally:
        try:
            await stream.aclose()
        finally:
            if place is not None:
                place.leave()
