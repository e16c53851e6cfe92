"""Run a function together with a companion task, or with a clean-up at the backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

from anyio import create_task_group, get_cancelled_exc_class, move_on_after

from majordomo.errors import DeadlineExceededError, MajordomoError

T = TypeVar("T")
# Time limit for withdrawing a job from the backend.
CLEANUP_SECONDS = 2.0


async def run_with_companion(
    function: Callable[[], Awaitable[T]], companion: Callable[[], Coroutine[Any, Any, None]]
) -> T:
    """Return the result of `function()`, running `companion()` in a task until it is over.

    The companion must not raise. An exception of `function` is raised as it is, without an
    exception group.
    """
    result: T | None = None
    failure: Exception | None = None
    async with create_task_group() as group:
        group.start_soon(companion)
        try:
            result = await function()
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return cast("T", result)


async def run_or_withdraw(
    function: Callable[[], Awaitable[T]], withdraw_job: Callable[[], Awaitable[None]]
) -> T:
    """Return the result of `function()`; call `withdraw_job()` if it is cancelled or out of time.

    `withdraw_job` stops the job at the backend. It may take at most CLEANUP_SECONDS.
    """
    try:
        return await function()
    except (get_cancelled_exc_class(), DeadlineExceededError):
        with move_on_after(CLEANUP_SECONDS, shield=True):
            # The reason to stop matters more than an error of stopping.
            with suppress(MajordomoError):
                await withdraw_job()
        raise
