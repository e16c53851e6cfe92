"""What is closed at its end, blocking or not, by hand or by `with`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

from majordomo.concurrency import portal


class Closeable(ABC):
    """`async with` and `with` for what has an `aclose`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close it."""

    def close(self) -> None:
        """The same as `aclose`, blocking."""
        portal.run(self.aclose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


async def close_all(things: Iterable[Any]) -> None:
    """Close them all; the first failure is raised after that."""
    failure: Exception | None = None
    for thing in things:
        try:
            await thing.aclose()
        except Exception as error:  # what a plug-in's closing may raise
            failure = failure or error
    if failure is not None:
        raise failure
