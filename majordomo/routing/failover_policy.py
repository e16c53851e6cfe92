"""What the error of a member means for a chain: call the next member, or raise it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from majordomo import imagegen, llm
from majordomo.errors import (
    AuthenticationError,
    ChainExhaustedError,
    ConfigurationError,
    ContentRefusedError,
    FailedAttempt,
    InvalidRequestError,
    MajordomoError,
    PermissionDeniedError,
    StreamBrokenError,
    UnsupportedError,
    plain_text,
)

Reason = type[MajordomoError] | str
COOLING_DOWN = "COOLING_DOWN"
NEVER_FAIL_OVER = (
    AuthenticationError,
    ConfigurationError,
    ContentRefusedError,
    InvalidRequestError,
    PermissionDeniedError,
)
# Failures that the message lists; the error's `failures` holds all of them.
MAX_SHOWN_FAILURES = 8


def as_reasons(fallback_on: object) -> tuple[Reason, ...]:
    """Return `fallback_on` as a tuple.

    Raises ConfigurationError for an item that is neither a class of the error tree nor a code.
    """
    reasons = (
        (fallback_on,)
        if isinstance(fallback_on, (str, type)) or not isinstance(fallback_on, Iterable)
        else tuple(fallback_on)
    )
    for reason in reasons:
        if not (isinstance(reason, str) and reason) and not (
            isinstance(reason, type) and issubclass(reason, MajordomoError)
        ):
            raise ConfigurationError(
                f"fallback_on must contain error classes or error codes; got {reason!r}",
                details={"field": "fallback_on"},
            )
    return reasons


def should_fail_over(error: MajordomoError, fallback_on: Sequence[Reason]) -> bool:
    """Return whether the next member is called after this error."""
    if any(
        error.code == reason if isinstance(reason, str) else isinstance(error, reason)
        for reason in fallback_on
    ):
        return True
    if isinstance(error, ChainExhaustedError) and error.failures:
        return all(should_fail_over(failure, fallback_on) for failure in error.failures)
    if is_unsupported(error):
        return True
    # A server may mark a refusal as retryable. That concerns this server only, and its response is
    # untrusted input.
    return error.retryable and not isinstance(error, NEVER_FAIL_OVER)


def is_unsupported(error: MajordomoError) -> bool:
    """Return whether it was known before anything was sent that the member cannot do this."""
    return isinstance(error, UnsupportedError) and error.status is None


def was_skipped(error: MajordomoError) -> bool:
    """Return whether nothing was sent to the member; in a nested chain, to any of its members."""
    if isinstance(error, ChainExhaustedError) and error.failures:
        return all(was_skipped(failure) for failure in error.failures)
    return error.code == COOLING_DOWN or is_unsupported(error)


def failed_attempts(errors: Iterable[MajordomoError]) -> tuple[FailedAttempt, ...]:
    """Return the failed attempts in order. A nested chain is replaced by its own attempts."""
    attempts: list[FailedAttempt] = []
    for error in errors:
        if isinstance(error, ChainExhaustedError) and error.failures:
            attempts += failed_attempts(error.failures)
        else:
            attempts.append(
                FailedAttempt(
                    error.provider or "",
                    error.model or "",
                    error.code,
                    plain_text(error.message, 300),
                    was_skipped(error),
                )
            )
    return tuple(attempts)


def exhausted_error(failures: Sequence[MajordomoError], chain: str) -> ChainExhaustedError:
    """Return the error for a chain in which no member answered.

    It is retryable if any member's error is.
    """
    messages = [
        f"{error.provider}/{error.model}: {plain_text(error.message, 200)}"
        for error in failures[:MAX_SHOWN_FAILURES]
    ]
    if len(failures) > MAX_SHOWN_FAILURES:
        messages.append(f"and {len(failures) - MAX_SHOWN_FAILURES} more")
    waits = [error.retry_after for error in failures if error.retry_after is not None]
    return ChainExhaustedError(
        f"no member answered: {'; '.join(messages)}",
        failures=failures,
        provider="chain",
        model=chain,
        retryable=any(error.retryable for error in failures),
        retry_after=min(waits) if waits else None,
        details={
            "failures": [
                {"provider": error.provider, "model": error.model, "code": error.code}
                for error in failures
            ]
        },
    )


def broken_stream_error(
    error: MajordomoError, partial: Any, before: tuple[FailedAttempt, ...]
) -> StreamBrokenError:
    """Return the error for an answer that was interrupted after a part of it was delivered.

    `partial` is that part: a reply, a result or None. `before` are the earlier failed attempts.
    """
    if isinstance(error, StreamBrokenError) and error.partial is not None:
        partial = error.partial
    if isinstance(partial, (llm.Reply, imagegen.Result)):
        provider, model = (
            partial.provider or error.provider or "",
            partial.model or error.model or "",
        )
        partial = replace(
            partial,
            provider=provider,
            model=model,
            failed_attempts=before + partial.failed_attempts,
        )
    if isinstance(error, StreamBrokenError):
        error.partial = partial
        return error
    return StreamBrokenError(
        f"the answer was interrupted: {error.message}",
        partial=partial,
        provider=error.provider,
        model=error.model,
        status=error.status,
        retryable=error.retryable,
        retry_after=error.retry_after,
        details={**error.details, "cause": error.code},
    )
