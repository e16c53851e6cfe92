"""A chat model that says what the test wrote down."""

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
from majordomo.models.chat_model import ChatModel
from majordomo.settings import Limits
from majordomo.testing.errors import ScriptError
from majordomo.testing.pause import Pause
from majordomo.testing.script import Script, is_error, raised

PARTS = (TextPart, ThinkingPart, ToolCallPart, ImagePart)
EVENTS = (llm.TextDelta, llm.ThinkingDelta, llm.Loading, llm.Queued)
ChatScript = Iterable[Any] | Callable[[llm.Request], Any] | Script[llm.Request]


class ScriptedChatModel(ChatModel):
    """Answers from a script; options, checks, `output`, both colors and the order of events are those of every chat model.

    `script` is a list of answers, used in the order of asking, or a function (it may be async) from the request to an answer. An answer is
    a str (streamed word by word), a Message, a Reply, a part (ToolCallPart, ImagePart, ...), an error to raise, or a list of these told one
    by one, which may also hold TextDelta, ThinkingDelta, Loading, Queued and `Pause`: a str in a list is one TextDelta; an error may come
    last or in the middle. In a stream, ConnectionFailedError after the first piece becomes StreamBrokenError, as on a wire, and a
    StreamBrokenError gets the reply so far as its `partial`. `requests` are all requests asked, with all options applied.
    Raises ScriptError for what is no answer, and when asked after the last one.
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
        return self.script.requests

    @property
    def remaining(self) -> int:
        """Answers not used yet."""
        return self.script.remaining

    async def _generate(self, request: llm.Request) -> llm.Reply:
        told = _ScriptedReply(self, request)
        async for _ in told.events(whole=True):
            pass
        return told.reply

    def _stream(self, request: llm.Request) -> llm.ChatSource:
        return _Source(_ScriptedReply(self, request))


def chat_script(script: ChatScript) -> Script[llm.Request]:
    if isinstance(script, Script):
        return script
    return Script(script, check_answer, (str, llm.Message, llm.Reply, *PARTS, *EVENTS))


def check_answer(answer: Any) -> None:
    """Raise ScriptError for what a chat model cannot answer."""
    for beat in answer if isinstance(answer, (list, tuple)) else [answer]:
        if not isinstance(
            beat, (str, llm.Message, llm.Reply, Pause, *PARTS, *EVENTS)
        ) and not is_error(beat):
            raise ScriptError(f"a {type(beat).__name__} is nothing a chat model answers")


class _ScriptedReply:
    """One answer while it is told: its events, and the reply as it grows."""

    def __init__(self, model: ScriptedChatModel, request: llm.Request) -> None:
        self._model = model
        self._request = request
        self._parts: list[llm.Part] = []
        self._given: llm.Reply | None = None  # what a Reply in the script says beyond its message
        self._calls = 0
        self._whole: llm.Reply | None = None

    @property
    def reply(self) -> llm.Reply:
        return self._whole or self._so_far()

    async def events(self, *, whole: bool) -> AsyncIterator[llm.ChatEvent]:
        try:
            answer = await self._model.script.next_answer(self._request)
            for beat in answer if isinstance(answer, (list, tuple)) else _beats(answer):
                await anyio.lowlevel.checkpoint()
                if isinstance(beat, Pause):
                    await beat.pass_through()
                elif is_error(beat):
                    raise self._failure(raised(beat), whole)
                else:
                    for event in self._emit(beat):
                        yield event
            yield llm.Done(self._finished())
        except MajordomoError as error:
            error.with_context(self._model.provider, self._model.id)
            raise

    def _emit(self, beat: Any) -> Iterable[llm.ChatEvent]:
        match beat:
            case str():
                beat = llm.TextDelta(beat)
            case TextPart():
                beat = llm.TextDelta(beat.text)
            case ToolCallPart():
                return self._called(beat)
            case ImagePart():
                self._parts.append(beat)
                return [llm.ImageReady(beat)]
            case llm.Reply():
                self._given = beat
                return [event for part in beat.message.parts for event in self._emit(part)]
            case llm.Message():
                return [event for part in beat.parts for event in self._emit(part)]
        if isinstance(beat, llm.TextDelta):
            self._grow(TextPart(beat.text))
        elif isinstance(beat, ThinkingPart):
            self._grow(beat)
            beat = llm.ThinkingDelta(beat.text)
        elif isinstance(beat, llm.ThinkingDelta):
            self._grow(ThinkingPart(beat.text))
        return [beat]

    def _called(self, call: ToolCallPart) -> list[llm.ChatEvent]:
        index = self._calls
        self._calls += 1
        self._parts.append(call)
        return [
            llm.ToolCallStarted(index, call.id, call.name),
            llm.ToolCallDelta(index, call.arguments_json),
            llm.ToolCall(index, call),
        ]

    def _grow(self, part: TextPart | ThinkingPart) -> None:
        last = self._parts[-1] if self._parts else None
        if type(last) is type(part) and not (isinstance(last, ThinkingPart) and last.opaque):
            self._parts[-1] = replace(last, text=last.text + part.text)
        else:
            self._parts.append(part)

    def _so_far(self) -> llm.Reply:
        message = llm.Message("assistant", tuple(self._parts or [TextPart("")]))
        return llm.Reply(message, model=self._model.id, provider=self._model.provider)

    def _finished(self) -> llm.Reply:
        reply = replace(self._so_far(), finish_reason="tool_calls" if self._calls else "stop")
        given = self._given
        if given is not None:
            reply = replace(
                reply,
                finish_reason=given.finish_reason
                if given.finish_reason != "unknown"
                else reply.finish_reason,
                usage=given.usage,
                model=given.model or reply.model,
                warnings=given.warnings,
                raw=given.raw,
                raw_finish_reason=given.raw_finish_reason,
            )
        if self._request.output is not None and not self._calls:
            reply = replace(reply, output=read_output(self._request.output, reply.text))
        self._whole = reply
        return reply

    def _failure(self, error: Exception, whole: bool) -> Exception:
        if whole:
            return error
        if isinstance(error, ConnectionFailedError) and self._parts:
            return StreamBrokenError(
                f"the stream broke off: {error.message}",
                partial=self._so_far(),
                details=error.details,
            )
        if isinstance(error, StreamBrokenError) and error.partial is None:
            error.partial = self._so_far()
        return error


def _beats(answer: Any) -> Sequence[Any]:
    """A text alone comes in words, as it would from a backend."""
    return re.findall(r"\S+\s*|\s+", answer) if isinstance(answer, str) else [answer]


class _Source:
    """The told events one by one: a test's steps are single."""

    def __init__(self, told: _ScriptedReply) -> None:
        self._told = told
        self._events = told.events(whole=False)

    @property
    def reply(self) -> llm.Reply:
        return self._told.reply

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        async for event in self._events:
            return [event]
        return ()

    async def aclose(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]  # an async generator
