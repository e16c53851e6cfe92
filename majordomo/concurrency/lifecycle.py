"""Closing resources: async or sync, explicitly or with a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

from majordomo.concurrency import portal


class Closeable(ABC):
    """Base class that adds `close`, `async with` and `with` to a class with `aclose`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release all resources."""

    def close(self) -> None:
        """Release all resources; the blocking version of `aclose`."""
        portal.run(self.aclose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


async def close_all(resources: Iterable[Any]) -> None:
    """Close all resources, then raise the first exception that occurred."""
    failure: Exception | None = None
    for resource in resources:
        try:
            await resource.aclose()
        except Exception as error:
            # Any exception: a plug-in's `aclose` may raise what it likes.
            failure = failure or error
    if failure is not None:
        raise failure
