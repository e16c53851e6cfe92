"""Nothing is left of a provider that was used and closed, whatever happened meanwhile: no socket, task, thread or warning."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo.concurrency import portal
from majordomo.providers.base import provider_names
from tests.support import chat_backends
from tests.support import image_backends as picture_backends
from tests.support.loopback import Handler, Loopback, Peer, Seen

Serve = Callable[[Handler], Loopback]
ONCE = md.Retries(attempts=1)
SOON = 5.0  # seconds until what was closed has to be gone
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.path.isdir("/proc/self/fd"), reason="sockets are counted where Linux lists them"
    ),
]


@dataclass
class Case:
    """`connect(url)` makes a provider, `model(provider)` what is asked of it; `fields` go along. Without a server `handler` is None."""

    name: str
    connect: Callable[..., Any]
    model: Callable[[Any], Any]
    handler: Callable[[], Handler] | None = None
    fields: dict[str, Any] | None = None


def _chat(backend: chat_backends.Backend) -> Case:
    return Case(
        f"chat {backend.name}",
        backend.connect,
        lambda provider: provider.model(backend.model),
        lambda: chat_backends.answering(backend),
    )


def _image(backend: picture_backends.Backend) -> Case:
    return Case(
        f"image {backend.name}",
        backend.connect,
        lambda provider: provider.image_model(backend.model),
        backend.server,
        backend.fields | {"previews": 1},
    )


CASES = [
    *map(_chat, chat_backends.BACKENDS),
    *map(_image, picture_backends.BACKENDS),
    Case(
        "chat offline", lambda url, **common: md.Offline(), lambda provider: provider.model("rules")
    ),
    Case(
        "image offline",
        lambda url, **common: md.Offline(),
        lambda provider: provider.image_model("renderer"),
        None,
        {"size": "64x48"},
    ),
]
every_case = pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])


def test_every_provider_is_tested() -> None:
    assert {case.name.split()[1] for case in CASES} == provider_names()


class Moods:
    """A faithful server that does, from one request to the next, something else."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner
        self.now = "fine"

    def __call__(self, peer: Peer) -> None:
        honest = peer.request

        def request() -> Seen | None:
            while (seen := honest()) is not None:
                match self.now:
                    case "fine":
                        return seen
                    case "refuses":
                        peer.reply({"error": {"message": "out of order"}}, 500)
                    case "breaks off":
                        peer.begin()
                        peer.chunk(b'data: {"')
                        return None
                    case "is silent":
                        peer.wait_for_close(10)
                        return None
            return None

        peer.request = request  # type: ignore[method-assign]  # of this peer alone
        self._inner(peer)


def sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return found


# Threads that are not a provider's: the portal's own, and those that event loops keep for their next look-up or piece of work. Trio has one
# store of them for all its runs, which empties after ten idle seconds; asyncio's end with the loop, and the portal's loop goes on.
KEPT = {"asyncio": ("majordomo-portal",), "trio": ("majordomo-portal", "Trio thread")}
KEPT["blocking"] = ("majordomo-portal", "AnyIO worker thread", "asyncio_")


def threads(loop: str) -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(KEPT[loop])}


@contextmanager
def nothing_left(case: Case, loop: str) -> Iterator[tuple[str, Moods]]:
    """The address of the case's server and its moods. When all is over, sockets and threads are as they were, and nothing warned."""
    portal.run(anyio.lowlevel.checkpoint)  # it stays, with the sockets of its loop
    gc.collect()
    before = sockets(), threads(loop)
    moods = Moods(case.handler() if case.handler is not None else lambda peer: None)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        server = Loopback(moods)
        yield server.url, moods
        held = sum(not _gone(peer) for peer in server.peers)
        server.close()
        gc.collect()
        until = time.monotonic() + SOON
        while (sockets() > before[0] or threads(loop) - before[1]) and time.monotonic() < until:
            time.sleep(0.005)
    assert held == 0
    assert sockets() <= before[0]
    assert threads(loop) - before[1] == set()
    assert [
        str(warning.message) for warning in warned if issubclass(warning.category, ResourceWarning)
    ] == []


def _gone(peer: Peer) -> bool:
    """Whether soon the client has closed it, or the server itself has."""
    until = time.monotonic() + SOON
    while (
        not (gone := peer.closed_by_client.is_set() or peer.socket.fileno() < 0)
        and time.monotonic() < until
    ):
        time.sleep(0.005)
    return gone


def tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        import trio

        return trio.lowlevel.current_statistics().tasks_living


async def settled(before: int) -> bool:
    """Whether soon no more tasks live than before."""
    with anyio.move_on_after(SOON):
        while tasks() > before:
            await anyio.sleep(0.001)
    return tasks() <= before


async def story(case: Case, url: str, moods: Moods) -> None:
    before = tasks()
    provider = case.connect(url, retries=ONCE)
    model, fields = case.model(provider), case.fields or {}

    async def streamed(most: int = 1000) -> None:
        async with model.stream("a red fox", **fields) as stream:
            for _ in range(most):
                if await anext(stream, None) is None:
                    break

    async def raising() -> None:
        async with model.stream("a red fox", **fields) as stream:
            async for _ in stream:
                raise LookupError

    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: model.generate("a red fox", **fields),
        streamed,
    ]
    for call in calls:
        await call()
    await streamed(1)
    with pytest.raises(LookupError):
        await raising()
    if case.handler is not None:
        for mood in ("refuses", "breaks off"):
            moods.now = mood
            for call in calls:
                with pytest.raises(md.MajordomoError):
                    await call()
        moods.now = "is silent"
    for call in calls:
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    moods.now = "fine"
    await streamed(1)
    await provider.aclose()
    assert await settled(before)


@every_case
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_async_calls_leave_no_resources(case: Case, loop: str) -> None:
    with nothing_left(case, loop) as (url, moods):
        anyio.run(story, case, url, moods, backend=loop)


@every_case
def test_sync_calls_leave_no_resources(case: Case) -> None:
    async def living() -> int:
        return tasks()

    with nothing_left(case, "blocking") as (url, moods):
        before = portal.run(living)
        provider = case.connect(url, retries=ONCE)
        model, fields = case.model(provider), case.fields or {}
        model.generate_sync("a red fox", **fields)
        for most in (1000, 1):
            with model.stream_sync("a red fox", **fields) as stream:
                for _, _ in zip(range(most), stream, strict=False):
                    pass
        if case.handler is not None:
            moods.now = "refuses"
            with pytest.raises(md.MajordomoError):
                model.generate_sync("a red fox", **fields)
            moods.now = "fine"
        with pytest.raises(LookupError), model.stream_sync("a red fox", **fields) as stream:
            for _ in stream:
                raise LookupError
        provider.close()
        assert portal.run(lambda: settled(before))
