"""The observer interface, and the values that observers receive.

The values contain no keys, and no content unless the observer asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo import imagegen, llm
from majordomo.backend_status import Loading, Queued
from majordomo.errors import MajordomoError

Operation = Literal["chat", "image", "embed"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model, from its checked request to its end."""

    id: str
    """A unique id."""
    operation: Operation
    """The kind of call, "chat", "image" or "embed"."""
    provider: str
    """The name of the provider."""
    model: str
    """The id of the model that was requested."""
    user_id: str = ""
    """The `user_id` of the request; "" when it has none."""
    streamed: bool = False
    """Whether the caller streams the answer."""
    address: str = ""
    """Scheme, host and port of the backend; "" for a provider without one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the request that are set and are numbers, names or sizes.

    Never text, images, schemas of tools or `extra`; images, messages and texts are only counted.
    """
    started_at: float = field(default_factory=time.time)
    """Start of the call in seconds since 1970."""
    content: Any = field(default=None, repr=False)
    """The request, or the texts of an embedding, for an observer with `wants_content`."""
    _start: float = field(default_factory=time.monotonic, repr=False, compare=False)

    def elapsed(self) -> float:
        """Return the seconds since the call started."""
        return time.monotonic() - self._start


@dataclass(frozen=True, slots=True)
class RetryAttempt:
    """A failed attempt that is followed by another.

    Waiting for a model that is loading is not a failed attempt.
    """

    number: int
    """The number of the attempt for one request, from 1.

    A call with several requests (images in batches, a job that is polled) counts each of them from
    1.
    """
    error: MajordomoError
    """The error of the attempt."""
    delay: float
    """Seconds until the next attempt."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first part of a streamed answer arrived."""

    elapsed: float
    """Seconds since the call started."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """The result of a finished call."""

    model: str
    """The id of the model that answered."""
    seconds: float
    """Seconds that the call took."""
    usage: llm.Usage | imagegen.Usage
    """What the backend reports that it consumed."""
    finish_reason: str = ""
    """Why a chat answer ended; "" for other operations."""
    warnings: tuple[str, ...] = ()
    """The codes of the warnings."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) in pixels of each image."""
    content: Any = field(default=None, repr=False)
    """The reply, result or embeddings, for an observer with `wants_content`."""

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.sizes)


CallEvent = Queued | Loading | imagegen.Step | FirstToken


class Observer:
    """The base class of observers. Override the methods that you need.

    An observer is passed to providers (`observers=[...]`) and receives every call of them. For each
    call `on_start` comes first, and exactly one of `on_success`, `on_error` and `on_cancel` comes
    last.

    All methods are called synchronously in the thread and event loop that run the call. Blocking
    calls run in an event loop of their own in another thread. So the methods must be fast, and safe
    to be called from several threads. When a method raises, the exception is logged, this observer
    receives nothing more of that call, and the call goes on.

    Observers never receive a key. They receive the request and the answer only when `wants_content`
    is true; otherwise an error is a copy that quotes no answer. Its message may still come from a
    backend, with keys removed.

    Example:
        ```python
        class Counter(md.Observer):
            def on_success(self, call: md.Call, outcome: md.CallResult) -> None:
                print(call.model, outcome.usage.output_tokens)
        ```
    """

    wants_content: bool = False
    """Whether the observer receives the content of requests and answers."""

    def on_start(self, call: Call) -> None:
        """Handle the start of a call.

        Called once, in the thread of the call's event loop. The request has been checked, and
        nothing has been sent.

        Args:
            call: The call. The other methods receive an equal value with the same id.
        """

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        """Handle a failed attempt that will be repeated.

        Called after each such attempt and before the delay, in the thread of the call's event loop.
        The last failed attempt is not a retry: it ends in `on_error`.

        Args:
            call: The call.
            attempt: The failed attempt and the delay until the next one.
        """

    def on_event(self, call: Call, event: CallEvent) -> None:
        """Handle an event between the start and the end of a call.

        Called in the thread of the call's event loop when the call waits in a queue, when its model
        loads, when a step of an image is done, and when the first part of a stream arrived. A call
        that is not streamed emits only what is known without extra requests: an observer never
        changes what is sent.

        Args:
            call: The call.
            event: The event.
        """

    def on_success(self, call: Call, outcome: CallResult) -> None:
        """Handle the end of a call that was answered.

        Called once when the complete answer has arrived, in the thread of the call's event loop.

        Args:
            call: The call.
            outcome: The result.
        """

    def on_error(self, call: Call, error: MajordomoError) -> None:
        """Handle the end of a call that failed.

        Called once when the call raises, in the thread of the call's event loop.

        Args:
            call: The call.
            error: The error. An exception that is not a MajordomoError, which is a bug, is replaced
                by one with the code UNEXPECTED and only the name of its type.
        """

    def on_cancel(self, call: Call) -> None:
        """Handle the end of a call that was cancelled.

        Called once when the task is cancelled or a stream is closed before its end, in the thread
        of the call's event loop. The backend may have done work and may charge for it.

        Args:
            call: The call.
        """
