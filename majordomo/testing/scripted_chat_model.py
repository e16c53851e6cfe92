"""A chat model that answers from a script."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import anyio.lowlevel

from majordomo import llm
from majordomo.errors import ConnectionFailedError, MajordomoError, StreamBrokenError
from majordomo.llm.parts import TextPart, ThinkingPart, ToolCallPart
from majordomo.llm.tools import read_output
from majordomo.media.image_part import ImagePart
from majordomo.models.call_context import CallContext
from majordomo.models.chat_model import ChatModel
from majordomo.settings import Limits
from majordomo.testing.errors import ScriptError
from majordomo.testing.pause import Pause
from majordomo.testing.script import Script, copy_error, is_error

PARTS = (TextPart, ThinkingPart, ToolCallPart, ImagePart)
EVENTS = (llm.TextDelta, llm.ThinkingDelta, llm.Loading, llm.Queued)
ChatScript = Iterable[Any] | Callable[[llm.Request], Any] | Script[llm.Request]


class ScriptedChatModel(ChatModel):
    """A chat model that answers from a script.

    Options, validation, `output`, the sync and async API and the order of events are those of
    every chat model.

    An answer is a str (streamed word by word), a `Message`, a `Reply`, a part (`ToolCallPart`,
    `ImagePart`, ...), an error to raise, or a list of steps that are emitted one by one. Steps are
    the same values, and `TextDelta`, `ThinkingDelta`, `Loading`, `Queued` and `Pause`; a str in a
    list is one `TextDelta`. An error may be anywhere in the list. In a stream, a
    `ConnectionFailedError` after the first part becomes a `StreamBrokenError`, as it does with a
    real connection, and a `StreamBrokenError` gets the reply so far as its `partial`.

    Args:
        script: A list of answers, used in the order of the requests, or a function, which may be
            async, from request to answer.
        *options: Defaults for every request.
        id: Model id.
        provider: Name of the provider, as in errors and replies.
        limits: Limits on the size of requests.

    Raises:
        ScriptError: The script contains something that is not an answer. In a call: no answer is
            left (SCRIPT_EXHAUSTED).

    Example:
        ```pycon
        >>> model = ScriptedChatModel(["Good evening.", md.RateLimitError("slow down")])
        ```
    """

    def __init__(
        self,
        script: ChatScript,
        *options: llm.Option,
        id: str = "scripted-chat",
        provider: str = "scripted",
        limits: Limits | None = None,
    ) -> None:
        super().__init__(provider, id, options, limits=limits or Limits())
        self.script: Script[llm.Request] = chat_script(script)

    @property
    def requests(self) -> list[llm.Request]:
        """All requests, in order, with all options applied."""
        return self.script.requests

    @property
    def remaining(self) -> int:
        """Number of unused answers."""
        return self.script.remaining

    async def _reply(self, request: llm.Request, call: CallContext) -> llm.Reply:
        scripted = _ScriptedReply(self, request)
        async for _ in scripted.events(streaming=False):
            pass
        return scripted.reply

    def _stream(self, request: llm.Request, call: CallContext) -> _ScriptedSource:
        return _ScriptedSource(_ScriptedReply(self, request))


def chat_script(script: ChatScript) -> Script[llm.Request]:
    """Return `script` if it is a `Script`, else a new `Script` of these answers."""
    if isinstance(script, Script):
        return script
    return Script(script, check_answer, (str, llm.Message, llm.Reply, *PARTS, *EVENTS))


def check_answer(answer: Any) -> None:
    """Raise `ScriptError` for a value that a chat model cannot answer."""
    for step in answer if isinstance(answer, (list, tuple)) else [answer]:
        if not isinstance(
            step, (str, llm.Message, llm.Reply, Pause, *PARTS, *EVENTS)
        ) and not is_error(step):
            raise ScriptError(
                "an answer of a chat model must be a str, a Message, a Reply, a part, an event, "
                f"a Pause, an error, or a list of these; got {type(step).__name__}"
            )


class _ScriptedReply:
    """One answer while it is emitted: its events, and the reply so far."""

    def __init__(self, model: ScriptedChatModel, request: llm.Request) -> None:
        self._model = model
        self._request = request
        self._parts: list[llm.Part] = []
        # A Reply in the script; it supplies everything except the message.
        self._template: llm.Reply | None = None
        self._calls = 0
        self._final_reply: llm.Reply | None = None

    @property
    def reply(self) -> llm.Reply:
        """The final reply, or the reply so far."""
        return self._final_reply or self._partial_reply()

    async def events(self, *, streaming: bool) -> AsyncIterator[llm.ChatEvent]:
        """Yield the events of the answer, and raise its errors."""
        try:
            answer = await self._model.script.next_answer(self._request)
            for step in answer if isinstance(answer, (list, tuple)) else _split_answer(answer):
                await anyio.lowlevel.checkpoint()
                if isinstance(step, Pause):
                    await step.pass_through()
                elif is_error(step):
                    error = copy_error(step)
                    raise self._streaming_error(error) if streaming else error
                else:
                    for event in self._step_events(step):
                        yield event
            yield llm.Done(self._finish())
        except MajordomoError as error:
            error.with_context(self._model.provider, self._model.id)
            raise

    def _step_events(self, step: Any) -> Iterable[llm.ChatEvent]:
        match step:
            case str():
                step = llm.TextDelta(step)
            case TextPart():
                step = llm.TextDelta(step.text)
            case ToolCallPart():
                return self._tool_call_events(step)
            case ImagePart():
                self._parts.append(step)
                return [llm.ImageReady(step)]
            case llm.Reply():
                self._template = step
                return [event for part in step.message.parts for event in self._step_events(part)]
            case llm.Message():
                return [event for part in step.parts for event in self._step_events(part)]
        if isinstance(step, llm.TextDelta):
            self._append(TextPart(step.text))
        elif isinstance(step, ThinkingPart):
            self._append(step)
            step = llm.ThinkingDelta(step.text)
        elif isinstance(step, llm.ThinkingDelta):
            self._append(ThinkingPart(step.text))
        return [step]

    def _tool_call_events(self, call: ToolCallPart) -> list[llm.ChatEvent]:
        index = self._calls
        self._calls += 1
        self._parts.append(call)
        return [
            llm.ToolCallStarted(index, call.id, call.name),
            llm.ToolCallDelta(index, call.arguments_json),
            llm.ToolCall(index, call),
        ]

    def _append(self, part: TextPart | ThinkingPart) -> None:
        """Add text, to the last part when it is of the same kind."""
        last = self._parts[-1] if self._parts else None
        if type(last) is type(part) and not (isinstance(last, ThinkingPart) and last.opaque):
            self._parts[-1] = replace(last, text=last.text + part.text)
        else:
            self._parts.append(part)

    def _partial_reply(self) -> llm.Reply:
        message = llm.Message("assistant", tuple(self._parts or [TextPart("")]))
        return llm.Reply(message, model=self._model.id, provider=self._model.provider)

    def _finish(self) -> llm.Reply:
        reply = replace(
            self._partial_reply(), finish_reason="tool_calls" if self._calls else "stop"
        )
        template = self._template
        if template is not None:
            reply = replace(
                reply,
                finish_reason=template.finish_reason
                if template.finish_reason != "unknown"
                else reply.finish_reason,
                usage=template.usage,
                model=template.model or reply.model,
                warnings=template.warnings,
                raw=template.raw,
                raw_finish_reason=template.raw_finish_reason,
            )
        if self._request.output is not None and not self._calls:
            reply = replace(reply, output=read_output(self._request.output, reply.text))
        self._final_reply = reply
        return reply

    def _streaming_error(self, error: Exception) -> Exception:
        """Return the error that a stream raises for this one."""
        if isinstance(error, ConnectionFailedError) and self._parts:
            return StreamBrokenError(
                f"the stream broke off: {error.message}",
                partial=self._partial_reply(),
                details=error.details,
            )
        if isinstance(error, StreamBrokenError) and error.partial is None:
            error.partial = self._partial_reply()
        return error


def _split_answer(answer: Any) -> Sequence[Any]:
    """Split a text into words, as a backend would stream it."""
    return re.findall(r"\S+\s*|\s+", answer) if isinstance(answer, str) else [answer]


class _ScriptedSource:
    """Returns the events one by one, so that a test sees each step separately."""

    def __init__(self, scripted: _ScriptedReply) -> None:
        self._scripted = scripted
        self._events = scripted.events(streaming=True)

    @property
    def result(self) -> llm.Reply:
        return self._scripted.reply

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        async for event in self._events:
            return [event]
        return ()

    async def aclose(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]  # an async generator
