"""Exceptions, warnings and the records of failed attempts.

The exception tree:

    * MajordomoError
      x ConfigurationError         Invalid set-up: the program, not the call, is wrong.
      x InvalidRequestError        Invalid request, found here or rejected by the backend.
        - UnsupportedError         The backend does not have the capability.
      x AuthenticationError        The API key is missing or wrong.
      x PermissionDeniedError      The API key does not permit this.
      x NotFoundError              No such model or route.
      x RateLimitError             Too many requests or tokens.
      x OverloadedError            Busy, queue full, or still loading.
      x ContentRefusedError        The backend's content policy forbids this.
      x BackendError               The backend failed: 5xx, a crash, out of memory.
      x BadResponseError           The response cannot be decoded, or exceeds a limit.
        - NoImageError             The response has no image.
      x ConnectionFailedError      Not reachable, or connection lost. Also a ConnectionError.
      x DeadlineExceededError      A time limit has passed: see `phase`. Also a TimeoutError.
      x StreamBrokenError          The stream was cut off: see `partial`.
      x JobLostError               The backend no longer knows the job.
      x JobCancelledError          The job was cancelled at the backend.
      x StorageError               A local file cannot be read or written.
      x ChainExhaustedError        Every model of a chain failed: see `failures`.

The class carries the decision: `retryable` answers whether the same request may succeed later or at
another backend. No error contains an API key or an object of an HTTP library, so every error can be
pickled, logged and sent to other processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

Phase = Literal["connect", "queue", "load", "first_byte", "idle", "total"]
"""A phase of a call, named after the field of `Timeout` that limits it."""

MAX_MESSAGE_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class CallWarning:
    """A part of a request that a backend did not honor as requested.

    It is in `warnings` of a reply or a result.
    """

    code: str
    """Stable identifier for programs."""
    message: str
    """Explanation for people."""
    field: str | None = None
    """The field of the request. None when the warning is not about one field."""

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A model of a chain that failed before another model succeeded.

    It is in `failed_attempts` of a reply or a result.
    """

    provider: str
    """Name of the provider."""
    model: str
    """Id of the model."""
    code: str
    """`code` of the model's error."""
    message: str
    """`message` of the model's error."""
    skipped: bool = False
    """True when nothing was sent, because the circuit breaker was open or the model lacks a
    capability that the request needs."""


def plain_text(text: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Return `text` as one log line of at most `limit` characters.

    Control characters and lone surrogates are removed, white space is collapsed.
    """
    cleaned = "".join(c if c.isprintable() or c == " " else " " for c in text[: 4 * limit])
    cleaned = " ".join(cleaned.split())
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


class MajordomoError(Exception):
    """Base class of all exceptions that this library raises on purpose.

    Example:
        ```python
        import majordomo as md

        try:
            raise md.OverloadedError("the queue is full", code="QUEUE_FULL")
        except md.MajordomoError as error:
            print(error.code, error.retryable)
        ```
    """

    retryable: bool = False
    """Whether the same request may succeed later or at another backend."""
    status_hint: int = 500
    """The HTTP status with which a gateway reports this error."""
    default_code = "ERROR"
    """The `code` of errors that are raised without one."""

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
        """Stable upper-case identifier for programs, for example `"QUEUE_FULL"`."""
        self.provider = provider
        """Name of the provider. None when the error does not belong to one."""
        self.model = model
        """Id of the model. None when the error does not belong to one."""
        self.status = status
        """HTTP status of the backend's response. None when there was none."""
        if retryable is not None:
            self.retryable = retryable
        self.retry_after = retry_after
        """Seconds that the backend asked to wait. None when it did not ask."""
        self.details: dict[str, Any] = dict(details or {})
        """Further facts, as plain JSON values."""

    @property
    def message(self) -> str:
        """The explanation for people, as one line of at most 2048 characters."""
        return str(self.args[0])

    def with_context(self, provider: str, model: str = "") -> Self:
        """Fill in `provider` and `model` where they are missing, and return this error."""
        self.provider = self.provider or provider
        self.model = self.model or model or None
        return self

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON values.

        Returns:
            `{"error": message, "code": ..., "details": {...}}`. The details include `provider`,
            `model`, `status` and `retry_after` unless they are None.
        """
        details = dict(self.details)
        for name in ("provider", "model", "status", "retry_after"):
            if (value := getattr(self, name)) is not None:
                details.setdefault(name, value)
        return {"error": self.message, "code": self.code, "details": details}

    def __reduce__(self) -> tuple[Callable[..., MajordomoError], tuple[Any, ...]]:
        return _unpickle, (type(self), self.message, dict(self.__dict__))


def _unpickle(kind: type[MajordomoError], message: str, state: dict[str, Any]) -> MajordomoError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigurationError(MajordomoError):
    """The set-up is invalid: a bad URL, a bad key, an unknown name."""

    default_code = "CONFIGURATION"


class InvalidRequestError(MajordomoError):
    """The request is invalid: we found a problem before sending, or the backend rejected it."""

    status_hint = 400
    default_code = "INVALID_REQUEST"

    def __init__(self, message: str, *, field: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.field = field
        """The invalid field of the request. None when the backend rejected the request."""
        if field is not None:
            self.details.setdefault("field", field)


class UnsupportedError(InvalidRequestError):
    """The backend does not have the capability.

    It is raised before anything is sent when that is known beforehand.
    """

    status_hint = 501
    default_code = "UNSUPPORTED"


class AuthenticationError(MajordomoError):
    """The API key is missing or wrong."""

    status_hint = 401
    default_code = "AUTHENTICATION"


class PermissionDeniedError(MajordomoError):
    """The API key is valid but does not permit this."""

    status_hint = 403
    default_code = "PERMISSION_DENIED"


class NotFoundError(MajordomoError):
    """The backend has no such model or route."""

    status_hint = 404
    default_code = "NOT_FOUND"


class RateLimitError(MajordomoError):
    """Too many requests or tokens: the backend works, but asks us to slow down.

    An exhausted quota has the code `QUOTA_EXHAUSTED` and is not retryable.
    """

    retryable = True
    status_hint = 429
    default_code = "RATE_LIMITED"


class OverloadedError(MajordomoError):
    """The backend is busy, its queue or ours is full, or the model is loading (`MODEL_LOADING`)."""

    retryable = True
    status_hint = 503
    default_code = "OVERLOADED"


class ContentRefusedError(MajordomoError):
    """The backend's content policy forbids this request. Retrying does not help."""

    status_hint = 422
    default_code = "CONTENT_REFUSED"


class BackendError(MajordomoError):
    """The backend failed: 5xx, a crash, out of memory."""

    retryable = True
    status_hint = 502
    default_code = "BACKEND_FAILED"


class BadResponseError(MajordomoError):
    """The response violates its dialect or exceeds our limits.

    It is retryable because another backend may respond correctly.
    """

    retryable = True
    status_hint = 502
    default_code = "BAD_RESPONSE"


class NoImageError(BadResponseError):
    """A successful response without the requested image."""

    default_code = "NO_IMAGE"


class ConnectionFailedError(MajordomoError, ConnectionError):
    """The backend could not be reached, or the connection was lost before the response."""

    retryable = True
    status_hint = 502
    default_code = "CONNECTION_FAILED"


class DeadlineExceededError(MajordomoError, TimeoutError):
    """A limit of `Timeout` has passed."""

    retryable = True
    status_hint = 504
    default_code = "DEADLINE_EXCEEDED"

    def __init__(self, message: str, *, phase: Phase, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.phase: Phase = phase
        """The phase whose limit has passed: connect, queue, load, first_byte, idle or total."""
        self.details.setdefault("phase", phase)


class StreamBrokenError(MajordomoError):
    """The stream was cut off before the reply was complete."""

    retryable = True
    status_hint = 502
    default_code = "STREAM_BROKEN"

    def __init__(self, message: str, *, partial: Any = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.partial = partial
        """The reply or result as far as it had arrived. It is never complete."""


class JobLostError(MajordomoError):
    """The backend no longer knows the job, perhaps because it was restarted."""

    retryable = True
    status_hint = 502
    default_code = "JOB_LOST"


class JobCancelledError(MajordomoError):
    """The job was cancelled at the backend, not by us."""

    status_hint = 409
    default_code = "JOB_CANCELLED"


class StorageError(MajordomoError):
    """A local file could not be written or read. No partly written file is left.

    The code is `STORAGE_FULL`, `STORAGE_READ_ONLY` or else `STORAGE_FAILED`.
    """

    status_hint = 507
    default_code = "STORAGE_FAILED"


class ChainExhaustedError(MajordomoError):
    """Every model of a chain failed."""

    status_hint = 502
    default_code = "CHAIN_EXHAUSTED"

    def __init__(
        self, message: str, *, failures: Sequence[MajordomoError] = (), **kwargs: Any
    ) -> None:
        super().__init__(message, **kwargs)
        self.failures: tuple[MajordomoError, ...] = tuple(failures)
        """The error of each model, in the order of the chain."""


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
        f"{name} is deprecated since majordomo {since} and will be removed in {removed_in};"
        f" use {instead} instead",
        MajordomoDeprecationWarning,
        stacklevel=stacklevel + 1,
    )
