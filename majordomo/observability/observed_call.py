"""One call, and the delivery of its events to observers.

Calls without observers do not use this module and pay nothing for it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
_log = logging.getLogger("majordomo")


def checked_observers(observers: object) -> tuple[Observer, ...]:
    """Return the observers as a tuple.

    Raises ConfigurationError (field `observers`) for anything but a list of Observer values.
    """
    if isinstance(observers, Sequence) and all(
        isinstance(observer, Observer) for observer in observers
    ):
        return tuple(observers)
    raise ConfigurationError(
        f"observers must be a list of Observer values; got {_type_names(observers)}",
        details={"field": "observers"},
    )


def _type_names(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(type(item).__name__ for item in value)}]"
    return type(value).__name__


class ObservedCall:
    """One call with observers.

    Args:
        observers: The observers.
        operation: The kind of call.
        provider: The name of the provider.
        model: The id of the model.
        request: The content for observers with `wants_content`.
        **call_fields: Further fields of `Call`.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        operation: Operation,
        provider: str,
        model: str,
        request: Any,
        **call_fields: Any,
    ) -> None:
        call = Call(secrets.token_hex(16), operation, provider, model, **call_fields)
        call_with_content = (
            replace(call, content=request)
            if any(observer.wants_content for observer in observers)
            else call
        )
        self._observers = [
            (observer, call_with_content if observer.wants_content else call)
            for observer in observers
        ]
        self.call = call
        self.ended: bool = False

    async def run(self, step: Callable[[], Awaitable[T]], *, last: bool = True) -> T:
        """Run an asynchronous step of the call.

        An error or a cancellation of the step ends the call. Its result ends the call only when it
        is the `last` step.
        """
        try:
            result = await step()
        except Exception as error:
            self.fail(error)
            raise
        except BaseException:
            self.cancel()
            raise
        if last:
            self.finish(result)
        return result

    def run_sync(self, step: Callable[[], T]) -> T:
        """Run a synchronous step of the call; report it only if it raises."""
        try:
            return step()
        except Exception as error:
            self.fail(error)
            raise

    def start(self) -> None:
        """Report the start of the call."""
        self._notify(lambda observer, call: observer.on_start(call))

    def emit(self, event: CallEvent) -> None:
        """Report an event."""
        self._notify(lambda observer, call: observer.on_event(call, event))

    def record_retry(self, number: int, error: MajordomoError, delay: float) -> None:
        """Report a failed attempt that will be repeated after `delay` seconds."""
        without_content = RetryAttempt(number, _without_content(error), delay)
        with_content = RetryAttempt(number, error, delay)
        self._notify(
            lambda observer, call: observer.on_retry(
                call, with_content if observer.wants_content else without_content
            )
        )

    def finish(self, output: Any) -> None:
        """Report the result, unless the call has ended already."""
        if not self._mark_ended():
            return
        without_content = _call_result(output, self.call.elapsed())
        with_content = replace(without_content, content=output)
        self._notify(
            lambda observer, call: observer.on_success(
                call, with_content if observer.wants_content else without_content
            )
        )

    def fail(self, error: Exception) -> None:
        """Report an error, unless the call has ended already."""
        if not self._mark_ended():
            return
        without_content = _without_content(error)
        with_content = error if isinstance(error, MajordomoError) else without_content
        self._notify(
            lambda observer, call: observer.on_error(
                call, with_content if observer.wants_content else without_content
            )
        )

    def cancel(self) -> None:
        """Report a cancellation, unless the call has ended already."""
        if self._mark_ended():
            self._notify(lambda observer, call: observer.on_cancel(call))

    def _mark_ended(self) -> bool:
        """Mark the call as ended; return False when it has ended already."""
        had_ended, self.ended = self.ended, True
        return not had_ended

    def _notify(self, deliver: Callable[[Observer, Call], None]) -> None:
        """Deliver a report to all observers; remove one that raises."""
        for entry in tuple(self._observers):
            try:
                deliver(*entry)
            except Exception:
                self._observers.remove(entry)
                _log.exception(
                    "observer %s raised; it receives nothing more of this call",
                    type(entry[0]).__name__,
                )


class ObservedSource:
    """The source of a chat stream that reports to observers. Events pass through unchanged."""

    def __init__(
        self,
        observed: ObservedCall,
        open_source: Callable[[], llm.EventSource[llm.ChatEvent, llm.Reply]],
    ) -> None:
        self._observed = observed
        self._has_first_token = False
        observed.start()
        self._source = observed.run_sync(open_source)

    @property
    def result(self) -> llm.Reply:
        """The reply so far."""
        return self._source.result

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        """Return the next events of the source, and report what they say about the call."""
        observed = self._observed
        if observed.ended:
            return await self._source.next_events()
        events = await observed.run(self._source.next_events, last=False)
        if not self._has_first_token:
            self._report_first_events(events)
        if events and isinstance(events[-1], llm.Done):
            observed.finish(events[-1].reply)
        return events

    def _report_first_events(self, events: Sequence[llm.ChatEvent]) -> None:
        """Report waiting and loading, up to the first part of the answer."""
        for event in events:
            if isinstance(event, (Queued, Loading)):
                self._observed.emit(event)
                continue
            self._has_first_token = True
            if not isinstance(event, llm.Done):
                self._observed.emit(FirstToken(self._observed.call.elapsed()))
            return

    async def aclose(self) -> None:
        """Close the source. A call that has not ended is reported as cancelled."""
        try:
            await self._source.aclose()
        finally:
            self._observed.cancel()


def _call_result(output: CallOutput, seconds: float) -> CallResult:
    if isinstance(output, llm.Embeddings):
        return CallResult(output.model, seconds, output.usage)
    reason = output.finish_reason if isinstance(output, llm.Reply) else ""
    codes = tuple(warning.code for warning in output.warnings)
    return CallResult(
        output.model,
        seconds,
        output.usage,
        reason,
        codes,
        tuple((image.width, image.height) for image in output.images),
    )


def _without_content(error: Exception) -> MajordomoError:
    """Return a copy of an error without any content of the call.

    The copy has no answer in its fields and no traceback, whose frames could hold it.
    """
    if not isinstance(error, MajordomoError):
        return MajordomoError(type(error).__name__, code="UNEXPECTED")
    error_type, (_, message, state) = type(error), error.__reduce__()[1]
    copy = error_type.__new__(error_type)
    details = {name: value for name, value in error.details.items() if name not in _QUOTES}
    for name in _QUOTES:
        quote = error.details.get(name)
        if (
            isinstance(quote, str)
            and (position := message.find(plain_text(quote[:200])[:40])) >= 0
            and quote
        ):
            message = f"{message[:position]}…"
    Exception.__init__(copy, message)
    copy.__dict__.update({**state, "details": details})
    for name, empty in _CONTENT_ATTRIBUTES.items():
        if hasattr(copy, name):
            setattr(copy, name, empty)
    return copy


# Details that quote the text of an answer.
_QUOTES = ("text", "message")
# Attributes of errors that hold an answer, and the value that replaces it.
_CONTENT_ATTRIBUTES: Mapping[str, Any] = {"partial": None, "failures": ()}
