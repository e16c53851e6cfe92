"""The example `one_conversation.py` over every chat provider.

A server of each repeats what Offline says, and all conversations must be equal.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import majordomo as md
from majordomo import llm
from majordomo.providers.base import provider_names
from tests.support.conversation_servers import BACKENDS, THOUGHT, Backend
from tests.support.loopback import Handler, Loopback

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
each = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
SCRIPT = Path(__file__).parents[2] / "examples" / "one_conversation.py"


def _example() -> Any:
    spec = importlib.util.spec_from_file_location("one_conversation", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module here.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = _example()
converse = example.converse


@pytest.fixture(scope="module")
def offline() -> Any:
    """Return the conversation with Offline, which all others must equal."""
    import asyncio

    return asyncio.run(converse(md.Offline().model("rules")))


def assistant_messages(conversation: Any) -> list[llm.Message]:
    return [message for message in conversation.history if message.role == "assistant"]


def test_every_chat_provider_is_tested() -> None:
    drawing = {"automatic1111", "comfyui", "fal", "stablediffusion"}
    assert {
        backend.name.partition(" ")[0] for backend in BACKENDS
    } == provider_names() - drawing - {"offline"}


def test_the_offline_conversation_covers_every_feature(offline: Any) -> None:
    assert [turn.roles for turn in offline.turns] == [
        ("assistant",),
        ("assistant", "tool", "assistant"),
        ("assistant",),
        ("assistant",),
    ]
    assert (offline.turns[1].calls[0][0], offline.turns[1].images) == ("draw_image", ((128, 96),))
    assert offline.turns[2].output == example.Size(width=128, height=96)


class SyncModel(llm.Model):
    """A model whose sync API is used, from a worker thread."""

    def __init__(self, model: llm.Model) -> None:
        self.id, self.provider, self._model = model.id, model.provider, model

    async def generate(self, messages: Any, *options: Any, **overrides: Any) -> llm.Reply:
        return await anyio.to_thread.run_sync(
            lambda: self.generate_sync(messages, *options, **overrides)
        )

    @asynccontextmanager
    async def stream(self, messages: Any, *options: Any, **overrides: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        def read() -> list[Any]:
            with self.stream_sync(messages, *options, **overrides) as stream:
                return list(stream)

        yield EventReplay(await anyio.to_thread.run_sync(read))

    def generate_sync(self, messages: Any, *options: Any, **overrides: Any) -> llm.Reply:
        return self._model.generate_sync(messages, *options, **overrides)

    def stream_sync(self, messages: Any, *options: Any, **overrides: Any) -> Any:
        return self._model.stream_sync(messages, *options, **overrides)

    async def aclose(self) -> None:
        await self._model.aclose()


class EventReplay:
    """A stream of events that have been read already."""

    def __init__(self, events: list[Any]) -> None:
        self._events = iter(events)
        self.reply = events[-1].reply

    def __aiter__(self) -> EventReplay:
        return self

    async def __anext__(self) -> Any:
        for event in self._events:
            return event
        raise StopAsyncIteration


@each
async def test_the_conversation_is_the_same_with_every_backend(
    backend: Backend, serve: Serve, offline: Any
) -> None:
    server = serve(backend.server(assistant_messages(offline), True))
    async with backend.connect(server.url) as provider:
        conversation = await converse(provider.model(backend.model, md.with_reasoning("low")))
    assert conversation == offline
    assert len(
        [
            request
            for request in server.requests
            if request.method == "POST" and request.path != "/api/show"
        ]
    ) == len(assistant_messages(offline))
    thinking = [
        part.text
        for message in conversation.history
        for part in message.parts
        if isinstance(part, llm.ThinkingPart) and part.text
    ]
    assert thinking == ([THOUGHT] * 5 if backend.shows_thoughts else [])


@each
@pytest.mark.parametrize(
    "everywhere", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["the next", "all"]
)
def test_a_sync_conversation_is_the_same_and_continues_on_any_other_backend(
    backend: Backend, everywhere: bool, serve: Serve, offline: Any
) -> None:
    """Start with one backend and continue with others, from memory and from JSON.

    The history contains thinking, tool calls and images.
    """
    index = BACKENDS.index(backend)
    others = BACKENDS if everywhere else [backend, BACKENDS[(index + 1) % len(BACKENDS)]]
    last = [llm.assistant("It was a pleasure.")] * 2
    # A signature is only valid on the server that made it.
    first_server = serve(backend.server([*assistant_messages(offline), *last], True))
    with backend.connect(first_server.url) as provider:
        conversation = anyio.run(
            converse, SyncModel(provider.model(backend.model, md.with_reasoning("low")))
        )
    assert conversation == offline
    loaded_history = md.load_messages(md.dump_messages(conversation.history))
    for other in others:
        server = first_server if other is backend else serve(other.server(last, False))
        with other.connect(server.url) as provider:
            for history in (conversation.history, loaded_history):
                reply = provider.model(other.model).generate_sync([*history, md.user("Thank you.")])
                assert (reply.text, reply.finish_reason) == ("It was a pleasure.", "stop"), (
                    other.name
                )
    reply = (
        md.Offline()
        .model("rules")
        .generate_sync([*loaded_history, md.user("Once more: its size?")])
    )
    assert reply.text == "The image is 128 x 96 pixels, PNG."


@each
def test_an_offline_conversation_continues_on_any_backend(
    backend: Backend, serve: Serve, offline: Any
) -> None:
    with backend.connect(
        serve(backend.server([llm.assistant("It was a pleasure.")], False)).url
    ) as provider:
        reply = provider.model(backend.model).generate_sync(
            [*offline.history, md.user("Thank you.")]
        )
    assert reply.text == "It was a pleasure."


async def test_offline_gives_the_same_conversation_on_both_event_loops(offline: Any) -> None:
    assert await converse(md.Offline().model("rules")) == offline
