"""Everything we raise on purpose, and the notes we attach when we did not have to raise.

    MajordomoError
    |- ConfigurationError                  the program, not the call, is wrong
    |- InvalidRequestError                 the call is wrong; nothing was sent, or the backend refused it
    |   `- UnsupportedError                the backend cannot do this at all
    |- AuthenticationError                 no key, or a wrong one
    |- PermissionDeniedError
    |- NotFoundError                       no such model, no such route
    |- RateLimitError                      well, but asks us to slow down
    |- OverloadedError                     busy, queue full, still loading
    |- ContentRefusedError                 the backend will not draw or say this
    |- BackendError                        5xx, crash, out of memory
    |- BadResponseError                    an answer nobody can read
    |   `- NoImageError                    an answer without the image
    |- ConnectionFailedError               also a builtin ConnectionError
    |- DeadlineExceededError               also a builtin TimeoutError; `.phase` says where the time went
    |- StreamBrokenError                   cut off; `.partial` holds what had arrived
    |- JobLostError
    |- JobCancelledError
    |- StorageError                        a file cannot be written or read here: disk full, read-only
    `- ChainExhaustedError                 `.failures` has every member's error

The class carries the decision: `retryable` answers "may the same request succeed elsewhere, or later?".
No error holds a key or an object of an HTTP library, so every one of them can be pickled, logged and sent on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

Phase = Literal["connect", "queue", "load", "first_byte", "idle", "total"]

MESSAGE_LIMIT = 2048


@dataclass(frozen=True, slots=True)
class CallWarning:
    """Something the caller asked for that did not happen as asked. It stands in `warnings` of a reply or a result.

    `code` is stable and meant for programs, `message` for people, `field` names the field of the request when there is one.
    """

    code: str
    message: str
    field: str | None = None

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A member of a chain that did not answer, before another one did. It stands in `tried` of a reply or a result.

    `code` and `message` are those of its error. `skipped`: nothing was sent to it, because it rested or cannot do what was asked.
    """

    provider: str
    model: str
    code: str
    message: str
    skipped: bool = False


def plain_text(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """`text` without control characters and lone surrogates, at most `limit` characters long: fit for one log line."""
    cleaned = "".join(c if c.isprintable() or c == " " else " " for c in text[: 4 * limit])
    cleaned = " ".join(cleaned.split())
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


class MajordomoError(Exception):
    """Base of everything we raise on purpose.

    `code` is a stable upper-case word, `status` the HTTP status when a backend gave one, `retry_after` the seconds a backend
    asked us to wait, `details` plain JSON values. `provider` and `model` say whom the call was for.
    """

    retryable: bool = False  # may the same request succeed elsewhere, or later?
    status_hint: int = 500  # what a gateway answers when this reaches it
    default_code = "ERROR"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(plain_text(message))
        self.code: str = code or self.default_code
        self.provider = provider
        self.model = model
        self.status = status
        if retryable is not None:
            self.retryable = retryable
        self.retry_after = retry_after
        self.details: dict[str, Any] = dict(details or {})

    @property
    def message(self) -> str:
        return str(self.args[0])

    def with_context(self, provider: str, model: str = "") -> Self:
        """This error, saying whom the call was for where it did not say so yet."""
        self.provider = self.provider or provider
        self.model = self.model or model or None
        return self

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """`{"error": message, "code": ..., "details": {...}}`, ready for JSON."""
        details = dict(self.details)
        for name in ("provider", "model", "status", "retry_after"):
            if (value := getattr(self, name)) is not None:
                details.setdefault(name, value)
        return {"error": self.message, "code": self.code, "details": details}

    def __reduce__(self) -> tuple[Callable[..., MajordomoError], tuple[Any, ...]]:
        return _rebuild, (type(self), self.message, dict(self.__dict__))


def _rebuild(kind: type[MajordomoError], message: str, state: dict[str, Any]) -> MajordomoError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigurationError(MajordomoError):
    """The program is set up wrongly: a bad address, a bad key, an unknown name."""

    default_code = "CONFIGURATION"


class InvalidRequestError(MajordomoError):
    """The request cannot be right. `field` names what is wrong when we found it before sending."""

    status_hint = 400
    default_code = "INVALID_REQUEST"

    def __init__(self, message: str, *, field: str | None = None, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.field = field
        if field is not None:
            self.details.setdefault("field", field)


class UnsupportedError(InvalidRequestError):
    """The backend has no such capability; said before anything is sent where it can be known."""

    status_hint = 501
    default_code = "UNSUPPORTED"


class AuthenticationError(MajordomoError):
    """The backend wants a key, or another one."""

    status_hint = 401
    default_code = "AUTHENTICATION"


class PermissionDeniedError(MajordomoError):
    """The key is good, but not for this."""

    status_hint = 403
    default_code = "PERMISSION_DENIED"


class NotFoundError(MajordomoError):
    """No such model or no such route."""

    status_hint = 404
    default_code = "NOT_FOUND"


class RateLimitError(MajordomoError):
    """The backend is well and asks us to slow down. An exhausted quota has code `QUOTA_EXHAUSTED` and is not retryable."""

    retryable = True
    status_hint = 429
    default_code = "RATE_LIMITED"


class OverloadedError(MajordomoError):
    """Busy, queue full, or still loading (`MODEL_LOADING`)."""

    retryable = True
    status_hint = 503
    default_code = "OVERLOADED"


class ContentRefusedError(MajordomoError):
    """The backend's rules forbid this content. Asking again does not help."""

    status_hint = 422
    default_code = "CONTENT_REFUSED"


class BackendError(MajordomoError):
    """The backend failed: 5xx, a crash, out of memory."""

    retryable = True
    status_hint = 502
    default_code = "BACKEND_FAILED"


class BadResponseError(MajordomoError):
    """The backend's answer breaks its own dialect, or our limits. Elsewhere the same request may do better."""

    retryable = True
    status_hint = 502
    default_code = "BAD_RESPONSE"


class NoImageError(BadResponseError):
    """A successful answer without the image it was for."""

    default_code = "NO_IMAGE"


class ConnectionFailedError(MajordomoError, ConnectionError):
    """The backend could not be reached, or the connection was lost before an answer came."""

    retryable = True
    status_hint = 502
    default_code = "CONNECTION_FAILED"


class DeadlineExceededError(MajordomoError, TimeoutError):
    """A limit of `Timeout` has passed; `phase` is connect, queue, load, first_byte, idle or total."""

    retryable = True
    status_hint = 504
    default_code = "DEADLINE_EXCEEDED"

    def __init__(self, message: str, *, phase: Phase, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.phase: Phase = phase
        self.details.setdefault("phase", phase)


class StreamBrokenError(MajordomoError):
    """The answer was cut off. `partial` is the reply or result as far as it had arrived; it is never a whole one."""

    retryable = True
    status_hint = 502
    default_code = "STREAM_BROKEN"

    def __init__(self, message: str, *, partial: Any = None, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.partial = partial


class JobLostError(MajordomoError):
    """The backend no longer knows the job; it may have been restarted."""

    retryable = True
    status_hint = 502
    default_code = "JOB_LOST"


class JobCancelledError(MajordomoError):
    """Somebody cancelled the job at the backend."""

    status_hint = 409
    default_code = "JOB_CANCELLED"


class StorageError(MajordomoError):
    """A file could not be written or read here: STORAGE_FULL, STORAGE_READ_ONLY, else STORAGE_FAILED. Nothing half-written is left."""

    status_hint = 507
    default_code = "STORAGE_FAILED"


class ChainExhaustedError(MajordomoError):
    """Every member of a chain failed; `failures` has their errors in order."""

    status_hint = 502
    default_code = "CHAIN_EXHAUSTED"

    def __init__(
        self, message: str, *, failures: Sequence[MajordomoError] = (), **rest: Any
    ) -> None:
        super().__init__(message, **rest)
        self.failures: tuple[MajordomoError, ...] = tuple(failures)


class MajordomoDeprecationWarning(DeprecationWarning):
    """Warning category for public names that a later version removes.

    Python hides a `DeprecationWarning` outside `__main__` and test runners by default. This
    category makes it possible to select only the warnings of this library.

    Example:
        ```python
        import warnings

        from majordomo.errors import MajordomoDeprecationWarning

        warnings.simplefilter("error", MajordomoDeprecationWarning)
        ```
    """


def warn_deprecated(
    name: str, *, since: str, removed_in: str, instead: str, stacklevel: int = 2
) -> None:
    """Emit a `MajordomoDeprecationWarning` for a public name.

    Call it directly in the deprecated function, method or property.

    Args:
        name: The deprecated name, as users write it: `"Retries(cap=)"`.
        since: The version that deprecated it.
        removed_in: The version that removes it.
        instead: What to use instead: `"Retries(max_delay=)"`.
        stacklevel: The number of stack frames between this function and the line to report.
            2 reports the line that called the deprecated function. Add 1 for each helper
            function in between.
    """
    warnings.warn(
        f"{name} is deprecated since majordomo {since} and will be removed in {removed_in}; use {instead} instead",
        MajordomoDeprecationWarning,
        stacklevel=stacklevel + 1,
    )
