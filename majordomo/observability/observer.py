"""What an observer is told: values without keys, and without content unless it asks for it."""

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
    """One call of a model, from its checked request to its end; `id` is unique.

    `address` is scheme, host and port of the backend, "" where there is none. `settings` are the fields of the request that are set and are
    numbers, names or sizes: never text, images, tools' schemas or `extra`; of images, messages and texts it has how many.
    `began` counts seconds since 1970. `content` is the request itself (the texts of an embedding), only for an observer that wants it.
    """

    id: str
    operation: Operation
    provider: str
    model: str
    user_id: str = ""
    streamed: bool = False
    address: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)
    content: Any = field(default=None, repr=False)
    _since: float = field(default_factory=time.monotonic, repr=False, compare=False)

    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._since


@dataclass(frozen=True, slots=True)
class RetryAttempt:
    """A try that failed and is followed by another, `wait` seconds later.

    `number` counts the tries of one request from 1; a call of several requests (images in portions, a queue that is looked at) has
    several first ones. A model that loads is no failed try.
    """

    number: int
    error: MajordomoError
    delay: float


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first piece of a streamed answer has come, `elapsed` seconds after the call began."""

    elapsed: float


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended well. `model` is what answered, `warnings` are the codes of its warnings, `sizes` (width, height) of its images.

    `content` is the reply, result or embeddings, only for an observer that wants it.
    """

    model: str
    seconds: float
    usage: llm.Usage | imagegen.Usage
    finish_reason: str = ""
    warnings: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    content: Any = field(default=None, repr=False)

    @property
    def images(self) -> int:
        """How many images came."""
        return len(self.sizes)


CallEvent = Queued | Loading | imagegen.Step | FirstToken


class Observer:
    """Is told of every call of the providers it was given to (`observers=[...]`). Override what you need.

    `started` comes first; exactly one of `finished`, `failed` and `cancelled` comes last. All are called in the event loop that makes the
    call (the blocking calls have one of their own, in another thread), so they must be quick, and safe to be called from several threads.
    One that raises is not told of that call any more; the call goes on. Nothing an observer is given holds a key. What was asked and
    answered is given to those only whose `wants_content` is true; without it an error is a copy that quotes no answer. (Its message may
    still be a backend's, with keys removed.)
    """

    wants_content: bool = False

    def on_start(self, call: Call) -> None:
        """A call begins; its request is checked and nothing has been sent."""

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        """A try failed, and is made again."""

    def on_event(self, call: Call, event: CallEvent) -> None:
        """The call waits in a line, its model loads, a step is drawn, or a stream's first piece has come. A call that is not streamed tells
        only what is free to know: an observer never changes what is sent."""

    def on_success(self, call: Call, outcome: CallResult) -> None:
        """The answer is whole."""

    def on_error(self, call: Call, error: MajordomoError) -> None:
        """The call raises this error. What is none of ours, a bug, comes with code UNEXPECTED and its type's name alone."""

    def on_cancel(self, call: Call) -> None:
        """The task was cancelled, or a stream left before its end. The backend may have worked, and may charge for it."""
