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
    InvalidRequestError,
    MajordomoError,
    PermissionDeniedError,
    StreamBrokenError,
    Tried,
    UnsupportedError,
    plain_text,
)

Reason = type[MajordomoError] | str
COOLING_DOWN = "COOLING_DOWN"
LASTING = (AuthenticationError, ConfigurationError, ContentRefusedError, InvalidRequestError, PermissionDeniedError)
SHOWN = 8  # failures in a message; `failures` has them all


def as_reasons(on: object) -> tuple[Reason, ...]:
    """`on` as a tuple. Raises ConfigurationError for what is neither a class of the error tree nor a code."""
    given = (on,) if isinstance(on, (str, type)) or not isinstance(on, Iterable) else tuple(on)
    for reason in given:
        if not (isinstance(reason, str) and reason) and not (isinstance(reason, type) and issubclass(reason, MajordomoError)):
            raise ConfigurationError("on names classes of errors, or their codes", details={"field": "on"})
    return given


def moves_on(error: MajordomoError, on: Sequence[Reason]) -> bool:
    """Whether the next member is asked."""
    if any(error.code == reason if isinstance(reason, str) else isinstance(error, reason) for reason in on):
        return True
    if isinstance(error, ChainExhaustedError) and error.failures:
        return all(moves_on(failure, on) for failure in error.failures)
    if not_sent(error):
        return True
    # A server's word that a refusal may be asked again is about that server, and a stranger's
    return error.retryable and not isinstance(error, LASTING)


def not_sent(error: MajordomoError) -> bool:
    """Whether it was known before anything was sent that the member cannot do this."""
    return isinstance(error, UnsupportedError) and error.status is None


def skipped(error: MajordomoError) -> bool:
    """Whether the member was not asked at all; of a chain within, nobody."""
    if isinstance(error, ChainExhaustedError) and error.failures:
        return all(skipped(failure) for failure in error.failures)
    return error.code == COOLING_DOWN or not_sent(error)


def tried(errors: Iterable[MajordomoError]) -> tuple[Tried, ...]:
    """Who failed, the members of chains within in their place."""
    found: list[Tried] = []
    for error in errors:
        if isinstance(error, ChainExhaustedError) and error.failures:
            found += tried(error.failures)
        else:
            found.append(Tried(error.provider or "", error.model or "", error.code, plain_text(error.message, 300), skipped(error)))
    return tuple(found)


def exhausted(failures: Sequence[MajordomoError], chain: str) -> ChainExhaustedError:
    """Nobody answered. It may be tried again if any member's failure may."""
    words = [f"{error.provider}/{error.model}: {plain_text(error.message, 200)}" for error in failures[:SHOWN]]
    if len(failures) > SHOWN:
        words.append(f"and {len(failures) - SHOWN} more")
    waits = [error.retry_after for error in failures if error.retry_after is not None]
    return ChainExhaustedError(
        f"no member answered: {'; '.join(words)}",
        failures=failures,
        provider="chain",
        model=chain,
        retryable=any(error.retryable for error in failures),
        retry_after=min(waits) if waits else None,
        details={"failures": [{"provider": error.provider, "model": error.model, "code": error.code} for error in failures]},
    )


def broken(error: MajordomoError, partial: Any, before: tuple[Tried, ...]) -> StreamBrokenError:
    """The error of an answer of which the caller has had a part. `partial` is that part, a reply, a result or None."""
    if isinstance(error, StreamBrokenError) and error.partial is not None:
        partial = error.partial
    if isinstance(partial, (llm.Reply, imagegen.Result)):
        provider, model = partial.provider or error.provider or "", partial.model or error.model or ""
        partial = replace(partial, provider=provider, model=model, tried=before + partial.tried)
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
