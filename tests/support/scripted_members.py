"""Small models of a program's own, for chains: they say what their script says, and remember what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio

import majordomo as md
from majordomo import imagegen, llm
from majordomo.llm.reply import empty_reply
from majordomo.models.chat_model import ChatModel
from majordomo.models.image_model import ImageModel

Listed = dict[str, set[Any]]


class House(llm.Provider, imagegen.Provider):
    """Who serves them: lists models and tells of its health as it is told to, and counts the questions."""

    def __init__(
        self,
        listed: Listed | Exception | None = None,
        health: md.Health | Exception | None = None,
        name: str = "house",
    ) -> None:
        self.name = name
        self.listed = listed if listed is not None else {}
        self.found = health or md.Health(True)
        self.lists = 0
        self.visits = 0
        self.closed = 0
        self.gate: anyio.Event | None = None

    def model(self, name: str, *options: llm.Option) -> Voice:
        return Voice(name, "said", options=options, house=self)

    def image_model(self, name: str, *options: imagegen.Option) -> Brush:
        return Brush(name, "drawn", options=options, house=self)

    async def models(self) -> list[md.ModelInfo]:
        self.lists += 1
        if self.gate is not None:
            await self.gate.wait()
        await anyio.lowlevel.checkpoint()
        if isinstance(self.listed, Exception):
            raise self.listed
        return [
            md.ModelInfo(name, frozenset(capabilities))
            for name, capabilities in self.listed.items()
        ]

    async def health(self) -> md.Health:
        self.visits += 1
        await anyio.lowlevel.checkpoint()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def aclose(self) -> None:
        self.closed += 1


class _Scripted:
    """One step of the script per question, the last one for ever. A step is text, an error to raise, or a list of events, errors and
    functions to await."""

    script: tuple[Any, ...]
    asked: list[Any]
    house: House | None
    left: int

    def step(self, request: Any) -> list[Any]:
        self.asked.append(request)
        step = self.script[min(len(self.asked), len(self.script)) - 1]
        return step if isinstance(step, list) else [step]


class Voice(_Scripted, ChatModel):
    def __init__(
        self,
        name: str,
        *script: Any,
        options: Sequence[llm.Option] = (),
        house: House | None = None,
        provider: str = "own",
    ) -> None:
        super().__init__(house.name if house else provider, name, options, limits=md.Limits())
        self.script, self.asked, self.house, self.left = script or (f"I am {name}",), [], house, 0

    @property
    def provider_instance(self) -> House | None:
        return self.house

    async def _generate(self, request: llm.Request) -> llm.Reply:
        source = self._stream(request)
        try:
            while await source.next_events():
                pass
            return source.reply
        finally:
            await source.aclose()

    def _stream(self, request: llm.Request) -> _Saying:
        return _Saying(self, self.step(request))


class _Saying:
    def __init__(self, voice: Voice, steps: list[Any]) -> None:
        self._voice = voice
        self._steps = list(steps)
        self._parts: list[Any] = []
        self._text = ""
        self._done = False

    @property
    def reply(self) -> llm.Reply:
        if not self._text and not self._parts:
            return empty_reply(self._voice.id, self._voice.provider)
        reason: llm.FinishReason = "tool_calls" if self._parts else "stop"
        return llm.Reply(llm.assistant(*([self._text] if self._text else []), *self._parts), reason)

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        await anyio.lowlevel.checkpoint()
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, str):
                step = llm.TextDelta(step)
            if isinstance(step, llm.TextDelta):
                self._text += step.text
            elif isinstance(step, llm.ToolCall):
                self._parts.append(step.call)
            elif callable(step):
                await step()
                continue
            return [step]
        if self._done:
            return ()
        self._done = True
        return [llm.Done(self.reply)]

    async def aclose(self) -> None:
        self._voice.left += 1


class Brush(_Scripted, ImageModel):
    """Its text is the color of the image it gives."""

    def __init__(
        self,
        name: str,
        *script: Any,
        options: Sequence[imagegen.Option] = (),
        house: House | None = None,
        provider: str = "own",
    ) -> None:
        super().__init__(house.name if house else provider, name, options, limits=md.Limits())
        self.script, self.asked, self.house, self.left = script or ("navy",), [], house, 0

    @property
    def provider_instance(self) -> House | None:
        return self.house

    async def _generate(
        self, request: imagegen.Request, emit: Callable[[imagegen.ImageEvent], None] | None
    ) -> imagegen.Result:
        try:
            for step in self.step(request):
                await anyio.lowlevel.checkpoint()
                if isinstance(step, BaseException):
                    raise step
                if callable(step):
                    await step()
                elif not isinstance(step, str) and emit is not None:
                    emit(step)
            return imagegen.Result((PIXEL,))
        finally:
            self.left += 1


PIXEL = md.ImagePart.from_base64(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
