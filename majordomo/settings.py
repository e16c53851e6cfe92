"""What a provider may be told about time, trying again and sizes. Pure values; a None leaves the backend's default."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from majordomo.errors import ConfigurationError

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Timeout:
    """Limits in seconds, one per phase of a call; None leaves the backend's default, `math.inf` means no limit.

    connect: TCP and TLS together. queue: waiting for a free place, here or in the backend's own line. load: waiting for the backend to
    load the model. first_byte: from the request to the first byte of the answer. idle: between two pieces of the answer. total: the
    whole call.
    """

    connect: float | None = None
    queue: float | None = None
    load: float | None = None
    first_byte: float | None = None
    idle: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(
                    f"timeout.{item.name} must be a number of seconds above 0, or None",
                    details={"field": item.name},
                )

    def with_defaults(self, defaults: Timeout) -> Timeout:
        """These limits, with `defaults` wherever this one says nothing."""
        return Timeout(
            **{
                f.name: ours
                if (ours := getattr(self, f.name)) is not None
                else getattr(defaults, f.name)
                for f in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how patiently the same backend is asked again. `attempts` counts all tries, so 1 never repeats.

    The wait before try n+1 is random between 0 and min(`cap`, `base` * 2**(n-1)) seconds; a wait the backend asks for is
    honored up to `max_retry_after`. `budget` bounds repeats across all calls of a provider: each costs 1, each success returns 0.1.
    """

    attempts: int = 3
    initial_delay: float = 0.5
    max_delay: float = 8.0
    max_retry_after: float = 120.0
    budget: float = 40.0

    def __post_init__(self) -> None:
        if (
            isinstance(self.attempts, bool)
            or not isinstance(self.attempts, int)
            or not 1 <= self.attempts <= 100
        ):
            raise ConfigurationError(
                "retries.attempts must be a whole number from 1 to 100",
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
                    f"retries.{name} must be a number from 0", details={"field": name}
                )


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes beyond which something is refused with a typed error instead of filling the memory.

    Bytes: `reply` (decoded, no image expected), `max_image_reply_bytes` (images can arrive), `event` and `max_image_event_bytes` (one event of
    a stream), `max_error_body_bytes` (read of an error reply), `image` (one encoded image). Pixels: `pixels` (area), `side`.
    `images` per request or reply; `prompt` in characters; `depth` of nested JSON.
    """

    max_reply_bytes: int = 16 * MIB
    max_image_reply_bytes: int = 128 * MIB
    max_event_bytes: int = 4 * MIB
    max_image_event_bytes: int = 48 * MIB
    max_error_body_bytes: int = 64 * 1024
    max_image_bytes: int = 32 * MIB
    max_image_pixels: int = 40_000_000
    max_image_side: int = 16_384
    max_images: int = 16
    max_prompt_characters: int = 1_000_000
    max_json_depth: int = 64

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"limits.{item.name} must be a whole number above 0",
                    details={"field": item.name},
                )


@dataclass(frozen=True, slots=True)
class Rate:
    """How many calls and tokens a minute, all callers together and each caller (`with_user_id`) by itself; None: no bound.

    A call waits its turn within `timeout.queue`; one whose turn lies beyond fails at once with RateLimitError (`LOCAL_RATE_LIMIT`). A
    full minute's worth may go at once. Tokens are what backends report, input and output together, so they count after a call: the next
    one waits until none are owed.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    user_requests_per_minute: float | None = None
    user_tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 1 <= value < math.inf
            ):
                raise ConfigurationError(
                    f"rate.{item.name} is a number from 1", details={"field": item.name}
                )


HOSTED = Timeout(connect=5, queue=math.inf, load=math.inf, first_byte=120, idle=60, total=600)
LOCAL = Timeout(connect=5, queue=math.inf, load=300, first_byte=600, idle=120, total=1800)
