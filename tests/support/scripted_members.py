"""Fake models and a fake provider for chains: they follow a script and record their requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

import majordomo as md
from majordomo import imagegen, llm
from majordomo.llm.reply import empty_reply
from majordomo.models.call_context import CallContext
from majordomo.models.chat_model import ChatModel
from majordomo.models.image_model import ImageModel

Listing = dict[str, set[Any]]


class FakeProvider(llm.Provider, imagegen.Provider):
    """A provider with a given model list and health, which counts its calls.

    `list_gate`, when set, delays the model list until the event is set.
    """

    def __init__(
        self,
        listing: Listing | Exception | None = None,
        health: md.Health | Exception | None = None,
        name: str = "fake",
    ) -> None:
        self.name = name
        self.listing = listing if listing is not None else {}
        self.health_result = health or md.Health(True)
        self.list_calls = 0
        self.health_calls = 0
        self.close_calls = 0
        self.list_gate: anyio.Event | None = None

    def model(self, name: str, *options: llm.Option) -> FakeChatModel:
        return FakeChatModel(name, "said", options=options, fake_provider=self)

    def image_model(self, name: str, *options: imagegen.Option) -> FakeImageModel:
        return FakeImageModel(name, "drawn", options=options, fake_provider=self)

    async def models(self) -> list[md.ModelInfo]:
        self.list_calls += 1
        if self.list_gate is not None:
            await self.list_gate.wait()
        await anyio.lowlevel.checkpoint()
        if isinstance(self.listing, Exception):
            raise self.listing
        return [
            md.ModelInfo(name, frozenset(capabilities))
            for name, capabilities in self.listing.items()
        ]

    async def health(self) -> md.Health:
        self.health_calls += 1
        await anyio.lowlevel.checkpoint()
        if isinstance(self.health_result, Exception):
            raise self.health_result
        return self.health_result

    async def aclose(self) -> None:
        self.close_calls += 1


class _ScriptedModel:
    """A model that follows one step of its script per request, and repeats the last one.

    A step is a text, an error to raise, or a list of events, errors and functions to await.
    """

    script: tuple[Any, ...]
    requests: list[Any]
    fake_provider: FakeProvider | None
    close_calls: int

    def next_step(self, request: Any) -> list[Any]:
        self.requests.append(request)
        step = self.script[min(len(self.requests), len(self.script)) - 1]
        return step if isinstance(step, list) else [step]


class FakeChatModel(_ScriptedModel, ChatModel):
    """A chat model that answers as its script says, by default with "I am NAME"."""

    def __init__(
        self,
        name: str,
        *script: Any,
        options: Sequence[llm.Option] = (),
        fake_provider: FakeProvider | None = None,
        provider: str = "own",
    ) -> None:
        super().__init__(
            fake_provider.name if fake_provider else provider, name, options, limits=md.Limits()
        )
        self.script = script or (f"I am {name}",)
        self.requests = []
        self.fake_provider = fake_provider
        self.close_calls = 0

    @property
    def provider_instance(self) -> FakeProvider | None:
        return self.fake_provider

    async def _reply(self, request: llm.Request, call: CallContext) -> llm.Reply:
        source = self._stream(request, call)
        try:
            while await source.next_events():
                pass
            return source.result
        finally:
            await source.aclose()

    def _stream(self, request: llm.Request, call: CallContext) -> _ScriptedSource:
        return _ScriptedSource(self, self.next_step(request))


class _ScriptedSource:
    """A stream source that emits the events of one step of a script."""

    def __init__(self, model: FakeChatModel, steps: list[Any]) -> None:
        self._model = model
        self._steps = list(steps)
        self._parts: list[Any] = []
        self._text = ""
        self._done = False

    @property
    def result(self) -> llm.Reply:
        if not self._text and not self._parts:
            return empty_reply(self._model.id, self._model.provider)
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
        return [llm.Done(self.result)]

    async def aclose(self) -> None:
        self._model.close_calls += 1


class FakeImageModel(_ScriptedModel, ImageModel):
    """An image model that follows its script and then returns PIXEL."""

    def __init__(
        self,
        name: str,
        *script: Any,
        options: Sequence[imagegen.Option] = (),
        fake_provider: FakeProvider | None = None,
        provider: str = "own",
    ) -> None:
        super().__init__(
            fake_provider.name if fake_provider else provider, name, options, limits=md.Limits()
        )
        self.script = script or ("navy",)
        self.requests = []
        self.fake_provider = fake_provider
        self.close_calls = 0

    @property
    def provider_instance(self) -> FakeProvider | None:
        return self.fake_provider

    async def _generate(self, request: imagegen.Request, call: CallContext) -> imagegen.Result:
        try:
            for step in self.next_step(request):
                await anyio.lowlevel.checkpoint()
                if isinstance(step, BaseException):
                    raise step
                if callable(step):
                    await step()
                elif not isinstance(step, str) and call.emit is not None:
                    call.emit(step)
            return imagegen.Result((PIXEL,))
        finally:
            self.close_calls += 1


PIXEL = md.ImagePart.from_base64(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
