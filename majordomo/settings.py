"""Settings of a provider: time limits, retries, size limits and rate limits. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from majordomo.errors import ConfigurationError
from majordomo.validation import describe

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Timeout:
    """Time limits in seconds, one per phase of a call.

    Each limit is a number above 0. `None` uses the provider's default, `LOCAL` for self-hosted
    backends and `HOSTED` for hosted ones. `math.inf` means no limit. When a limit passes, the call
    raises `DeadlineExceededError` with the phase.

    Raises:
        ConfigurationError: If a limit is not a number above 0.

    Example:
        ```python
        import majordomo as md

        patient = md.Timeout(load=900, total=3600)
        ```
    """

    connect: float | None = None
    """Seconds to connect: TCP and TLS together. Defaults: 5 (both)."""
    queue: float | None = None
    """Seconds to wait for a free slot, in our own queue or in the backend's.
    Defaults: no limit (both)."""
    load: float | None = None
    """Seconds to wait for the backend to load the model.
    Defaults: 300 (`LOCAL`), no limit (`HOSTED`)."""
    first_byte: float | None = None
    """Seconds from sending the request to the first byte of the response.
    Defaults: 600 (`LOCAL`), 120 (`HOSTED`)."""
    idle: float | None = None
    """Seconds between two chunks of the response.
    Defaults: 120 (`LOCAL`), 60 (`HOSTED`)."""
    total: float | None = None
    """Seconds for the whole call, all attempts and waits included.
    Defaults: 1800 (`LOCAL`); 600, or 900 for images (`HOSTED`)."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(
                    f"timeout.{item.name} must be a number of seconds above 0, or None;"
                    f" got {describe(value)}",
                    details={"field": item.name},
                )

    def with_defaults(self, defaults: Timeout) -> Timeout:
        """Return a copy in which limits that are None are taken from `defaults`."""
        return Timeout(
            **{
                f.name: own
                if (own := getattr(self, f.name)) is not None
                else getattr(defaults, f.name)
                for f in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a failed call is sent to the same backend again, and how long to wait in between.

    The wait before attempt n + 1 is random between 0 and
    `min(max_delay, initial_delay * 2 ** (n - 1))` seconds (full jitter).

    Raises:
        ConfigurationError: If a value is out of range.

    Example:
        ```python
        import majordomo as md

        no_retries = md.Retries(attempts=1)
        ```
    """

    attempts: int = 3
    """Attempts in total, 1 to 100. 1 never retries. Default: 3."""
    initial_delay: float = 0.5
    """Upper bound, in seconds, of the random wait before the second attempt; from 0. It doubles
    with each further attempt. Default: 0.5."""
    max_delay: float = 8.0
    """Upper bound, in seconds, of every random wait; from 0. Default: 8."""
    max_retry_after: float = 120.0
    """Longest wait, in seconds, that a backend may ask for (Retry-After); from 0. When it asks for
    more, the call fails instead of waiting. Default: 120."""
    budget: float = 40.0
    """Retry budget that all calls of a provider share; from 0. Each retry costs 1, each successful
    call returns 0.1. Default: 40."""

    def __post_init__(self) -> None:
        if (
            isinstance(self.attempts, bool)
            or not isinstance(self.attempts, int)
            or not 1 <= self.attempts <= 100
        ):
            raise ConfigurationError(
                f"retries.attempts must be an integer from 1 to 100; got {describe(self.attempts)}",
                details={"field": "attempts"},
            )
        for name in ("initial_delay", "max_delay", "max_retry_after", "budget"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value < math.inf
            ):
                raise ConfigurationError(
                    f"retries.{name} must be a finite number from 0; got {describe(value)}",
                    details={"field": name},
                )


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of sizes. What exceeds one raises a typed error instead of filling the memory.

    Each limit is an integer above 0.

    Raises:
        ConfigurationError: If a limit is not an integer above 0.
    """

    max_reply_bytes: int = 16 * MIB
    """Bytes of a decoded reply in which no images are expected. Default: 16 MiB."""
    max_image_reply_bytes: int = 128 * MIB
    """Bytes of a decoded reply that may contain images. Default: 128 MiB."""
    max_event_bytes: int = 4 * MIB
    """Bytes of one stream event in which no images are expected. Default: 4 MiB."""
    max_image_event_bytes: int = 48 * MIB
    """Bytes of one stream event that may contain images. Default: 48 MiB."""
    max_error_body_bytes: int = 64 * 1024
    """Bytes that are read of an error response. Default: 64 KiB."""
    max_image_bytes: int = 32 * MIB
    """Bytes of one encoded image. Default: 32 MiB."""
    max_image_pixels: int = 40_000_000
    """Area of one image in pixels. Default: 40 million."""
    max_image_side: int = 16_384
    """Width and height of one image in pixels. Default: 16,384."""
    max_images: int = 16
    """Images per request and per reply. Default: 16."""
    max_prompt_characters: int = 1_000_000
    """Characters of a prompt. Default: 1 million."""
    max_json_depth: int = 64
    """Levels to which JSON may be nested. Default: 64."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"limits.{item.name} must be an integer above 0; got {describe(value)}",
                    details={"field": item.name},
                )


@dataclass(frozen=True, slots=True)
class Rate:
    """Client-side rate limits of a provider, per minute.

    Each limit is a number from 1; `None` means no limit. A full minute's worth may be used at once.
    A call waits its turn within `timeout.queue`; when its turn would come later, it fails at once
    with `RateLimitError` (`LOCAL_RATE_LIMIT`).

    Tokens are counted as the backend reports them, input and output together, and so only after a
    call: the next call waits until the counted tokens are within the limit again.

    Raises:
        ConfigurationError: If a limit is not a finite number from 1.
    """

    requests_per_minute: float | None = None
    """Requests per minute of all users together."""
    tokens_per_minute: float | None = None
    """Tokens per minute of all users together."""
    user_requests_per_minute: float | None = None
    """Requests per minute of each user id (`with_user_id`)."""
    user_tokens_per_minute: float | None = None
    """Tokens per minute of each user id (`with_user_id`)."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 1 <= value < math.inf
            ):
                raise ConfigurationError(
                    f"rate.{item.name} must be a finite number from 1; got {describe(value)}",
                    details={"field": item.name},
                )


HOSTED = Timeout(connect=5, queue=math.inf, load=math.inf, first_byte=120, idle=60, total=600)
"""Default time limits for hosted backends."""
LOCAL = Timeout(connect=5, queue=math.inf, load=300, first_byte=600, idle=120, total=1800)
"""Default time limits for self-hosted backends."""
