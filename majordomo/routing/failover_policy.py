"""What a member's error means for the chain: ask the next, or tell the caller."""

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
MAX_SHOWN_FAILURES = 8  # failures in a message; `failures` has them all


def as_reasons(on: object) -> tuple[Reason, ...]:
    """`on` as a tuple. Raises ConfigurationError for what is neither a class of the error tree nor a code."""
    given = (on,) if isinstance(on, (str, type)) or not isinstance(on, Iterable) else tuple(on)
    for reason in given:
        if not (isinstance(reason, str) and reason) and not (
            isinstance(reason, type) and issubclass(reason, MajordomoError)
        ):
            raise ConfigurationError(
                "fallback_on names classes of errors, or their codes",
                details={"field": "fallback_on"},
            )
    return given


def should_fail_over(error: MajordomoError, on: Sequence[Reason]) -> bool:
    """Whether the next member is asked."""
    if any(
        error.code == reason if isinstance(reason, str) else isinstance(error, reason)
        for reason in on
    ):
        return True
    if isinstance(error, ChainExhaustedError) and error.failures:
        return all(should_fail_over(failure, on) for failure in error.failures)
    if is_unsupported(error):
        return True
    # A server's word that a refusal may be asked again is about that server, and a stranger's
    return error.retryable and not isinstance(error, NEVER_FAIL_OVER)


def is_unsupported(error: MajordomoError) -> bool:
    """Whether it was known before anything was sent that the member cannot do this."""
    return isinstance(error, UnsupportedError) and error.status is None


def was_skipped(error: MajordomoError) -> bool:
    """Whether the member was not asked at all; of a chain within, nobody."""
    if isinstance(error, ChainExhaustedError) and error.failures:
        return all(was_skipped(failure) for failure in error.failures)
    return error.code == COOLING_DOWN or is_unsupported(error)


def failed_attempts(errors: Iterable[MajordomoError]) -> tuple[FailedAttempt, ...]:
    """Who failed, the members of chains within in their place."""
    found: list[FailedAttempt] = []
    for error in errors:
        if isinstance(error, ChainExhaustedError) and error.failures:
            found += failed_attempts(error.failures)
        else:
            found.append(
                FailedAttempt(
                    error.provider or "",
                    error.model or "",
                    error.code,
                    plain_text(error.message, 300),
                    was_skipped(error),
                )
            )
    return tuple(found)


def exhausted_error(failures: Sequence[MajordomoError], chain: str) -> ChainExhaustedError:
    """Nobody answered. It may be tried again if any member's failure may."""
    words = [
        f"{error.provider}/{error.model}: {plain_text(error.message, 200)}"
        for error in failures[:MAX_SHOWN_FAILURES]
    ]
    if len(failures) > MAX_SHOWN_FAILURES:
        words.append(f"and {len(failures) - MAX_SHOWN_FAILURES} more")
    waits = [error.retry_after for error in failures if error.retry_after is not None]
    return ChainExhaustedError(
        f"no member answered: {'; '.join(words)}",
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
    """The error of an answer of which the caller has had a part. `partial` is that part, a reply, a result or None."""
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
        f"the answer broke off: {error.message}",
        partial=partial,
        provider=error.provider,
        model=error.model,
        status=error.status,
        retryable=error.retryable,
        retry_after=error.retry_after,
        details={**error.details, "cause": error.code},
    )
