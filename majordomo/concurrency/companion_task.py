"""Work with company: something that runs beside it, and what stops the backend when the work is given up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

from anyio import create_task_group, get_cancelled_exc_class, move_on_after

from majordomo.errors import DeadlineExceededError, MajordomoError

T = TypeVar("T")
CLEANUP_SECONDS = 2.0  # seconds that withdrawing a job may take


async def run_with_companion(
    work: Callable[[], Awaitable[T]], companion: Callable[[], Coroutine[Any, Any, None]]
) -> T:
    """`work()`, with `companion()` running until it is over. The companion raises nothing; what the work raises comes out as it is."""
    result: T | None = None
    failure: Exception | None = None
    async with create_task_group() as group:
        group.start_soon(companion)
        try:
            result = await work()
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return cast("T", result)


async def run_or_withdraw(
    work: Callable[[], Awaitable[T]], withdraw: Callable[[], Awaitable[None]]
) -> T:
    """`work()`; when it is cancelled or runs out of time, `withdraw()` at most CLEANUP_SECONDS seconds, so that the backend stops as well."""
    try:
        return await work()
    except (get_cancelled_exc_class(), DeadlineExceededError):
        with move_on_after(CLEANUP_SECONDS, shield=True):
            with suppress(MajordomoError):  # the reason to stop is the news
                await withdraw()
        raise
