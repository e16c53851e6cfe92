"""One call, as its observers are told of it. Whoever makes a call pays nothing when nobody observes."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar

from majordomo import imagegen, llm
from majordomo.backend_status import Loading, Queued
from majordomo.errors import ConfigurationError, MajordomoError, plain_text
from majordomo.observability.observer import (
    Call,
    CallEvent,
    CallResult,
    FirstToken,
    Observer,
    Operation,
    RetryAttempt,
)

T = TypeVar("T")
CallOutput = llm.Reply | imagegen.Result | llm.Embeddings
_current: ContextVar[ObservedCall | None] = ContextVar("majordomo-observed", default=None)
_log = logging.getLogger("majordomo")


def checked_observers(observers: object) -> tuple[Observer, ...]:
    """Raises ConfigurationError (field `observers`) for anything but a list of Observer values."""
    if isinstance(observers, Sequence) and all(
        isinstance(observer, Observer) for observer in observers
    ):
        return tuple(observers)
    raise ConfigurationError(
        "observers is a list of Observer values", details={"field": "observers"}
    )


def current_call() -> ObservedCall | None:
    """The observed call that this task works for; None when nobody observes."""
    return _current.get()


def current_emit() -> Callable[[Any], None] | None:
    """What tells the observers of the current call of an event, where nobody else listens."""
    observed = _current.get()
    return None if observed is None else observed.on_event


def current_position_callback() -> Callable[[int], None] | None:
    """The same for positions in a line."""
    observed = _current.get()
    return None if observed is None else lambda position: observed.on_event(Queued(position))


class ObservedCall:
    """Hands one call's story to its observers. `hear` is where events go that nobody else listens to."""

    def __init__(
        self,
        observers: Sequence[Observer],
        operation: Operation,
        provider: str,
        model: str,
        request: Any,
        **about: Any,
    ) -> None:
        call = Call(secrets.token_hex(16), operation, provider, model, **about)
        whole = (
            replace(call, content=request)
            if any(observer.wants_content for observer in observers)
            else call
        )
        self._observers = [
            (observer, whole if observer.wants_content else call) for observer in observers
        ]
        self.call = call
        self.ended: bool = False
        self.on_event: Callable[[Any], None] = self.emit

    async def run(self, work: Callable[[], Awaitable[T]], *, last: bool = True) -> T:
        """`work()` as the work of this call; how it ends is how the call ends, its result only when it is the `last` work."""
        token = _current.set(self)
        try:
            result = await work()
        except Exception as error:
            self.fail(error)
            raise
        except BaseException:
            self.cancel()
            raise
        finally:
            _current.reset(token)
        if last:
            self.finish(result)
        return result

    def run_sync(self, work: Callable[[], T]) -> T:
        """The same for the part of a call that awaits nothing, and does not end it but by failing."""
        token = _current.set(self)
        try:
            return work()
        except Exception as error:
            self.fail(error)
            raise
        finally:
            _current.reset(token)

    def start(self) -> None:
        self._notify(lambda observer, call: observer.on_start(call))

    def emit(self, event: CallEvent) -> None:
        self._notify(lambda observer, call: observer.on_event(call, event))

    def record_retry(self, number: int, error: MajordomoError, wait: float) -> None:
        plain = RetryAttempt(number, _without_content(error), wait)
        whole = RetryAttempt(number, error, wait)
        self._notify(
            lambda observer, call: observer.on_retry(
                call, whole if observer.wants_content else plain
            )
        )

    def finish(self, answer: Any) -> None:
        if not self._mark_ended():
            return
        plain = _call_result(answer, self.call.elapsed())
        whole = replace(plain, content=answer)
        self._notify(
            lambda observer, call: observer.on_success(
                call, whole if observer.wants_content else plain
            )
        )

    def fail(self, error: Exception) -> None:
        if not self._mark_ended():
            return
        plain = _without_content(error)
        whole = error if isinstance(error, MajordomoError) else plain
        self._notify(
            lambda observer, call: observer.on_error(
                call, whole if observer.wants_content else plain
            )
        )

    def cancel(self) -> None:
        if self._mark_ended():
            self._notify(lambda observer, call: observer.on_cancel(call))

    def _mark_ended(self) -> bool:
        """Whether this is the end: there is one."""
        was, self.ended = self.ended, True
        return not was

    def _notify(self, emit: Callable[[Observer, Call], None]) -> None:
        for pair in tuple(self._observers):
            try:
                emit(*pair)
            except Exception:
                self._observers.remove(pair)
                _log.exception(
                    "observer %s raised; it is not told of this call any more",
                    type(pair[0]).__name__,
                )


class ObservedSource:
    """A chat stream's source that tells the observers what passes through; its batches are handed on as they are."""

    def __init__(self, observed: ObservedCall, listen: Callable[[], llm.ChatSource]) -> None:
        self._observed = observed
        self._answering = False
        observed.start()
        self._source = observed.run_sync(listen)

    @property
    def reply(self) -> llm.Reply:
        return self._source.reply

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        observed = self._observed
        if observed.ended:
            return await self._source.next_events()
        events = await observed.run(self._source.next_events, last=False)
        if not self._answering:
            self._begin(events)
        if events and isinstance(events[-1], llm.Done):
            observed.finish(events[-1].reply)
        return events

    def _begin(self, events: Sequence[llm.ChatEvent]) -> None:
        for event in events:
            if isinstance(event, (Queued, Loading)):
                self._observed.on_event(event)
                continue
            self._answering = True
            if not isinstance(event, llm.Done):
                self._observed.emit(FirstToken(self._observed.call.elapsed()))
            return

    async def aclose(self) -> None:
        try:
            await self._source.aclose()
        finally:
            self._observed.cancel()


def _call_result(answer: CallOutput, seconds: float) -> CallResult:
    if isinstance(answer, llm.Embeddings):
        return CallResult(answer.model, seconds, answer.usage)
    reason = answer.finish_reason if isinstance(answer, llm.Reply) else ""
    codes = tuple(warning.code for warning in answer.warnings)
    return CallResult(
        answer.model,
        seconds,
        answer.usage,
        reason,
        codes,
        tuple((image.width, image.height) for image in answer.images),
    )


def _without_content(error: Exception) -> MajordomoError:
    """A copy that holds no answer, nor through its traceback anything else of the call."""
    if not isinstance(error, MajordomoError):
        return MajordomoError(type(error).__name__, code="UNEXPECTED")
    kind, (_, message, state) = type(error), error.__reduce__()[1]
    copy = kind.__new__(kind)
    details = {name: value for name, value in error.details.items() if name not in _QUOTING}
    for name in _QUOTING:
        quoted = error.details.get(name)
        if (
            isinstance(quoted, str)
            and (at := message.find(plain_text(quoted[:200])[:40])) >= 0
            and quoted
        ):
            message = f"{message[:at]}…"
    Exception.__init__(copy, message)
    copy.__dict__.update({**state, "details": details})
    for name, value in _HOLDING.items():
        if hasattr(copy, name):
            setattr(copy, name, value)
    return copy


_QUOTING = ("text", "message")  # details in which an answer's own words stand
_HOLDING: Mapping[str, Any] = {"partial": None, "failures": ()}
