"""No socket, task, thread or warning is left of a provider that was used and closed."""

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
from tests.support import chat_backends, image_backends, system
from tests.support.loopback import Handler, Loopback, Peer, ReceivedRequest
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
ONCE = md.Retries(attempts=1)
# What was closed has to be gone after this time.
CLEANUP_SECONDS = 5.0
pytestmark = [
    pytest.mark.slow,
    system.needs_proc,
]


@dataclass
class Case:
    """A provider and one of its models.

    `connect(url)` makes the provider, `model(provider)` its model; `fields` are fields of each
    request. `handler` makes the server; None for Offline.
    """

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


def _image(backend: image_backends.Backend) -> Case:
    return Case(
        f"image {backend.name}",
        backend.connect,
        lambda provider: provider.image_model(backend.model),
        backend.server,
        backend.fields | {"previews": 1},
    )


CASES = [
    *map(_chat, chat_backends.BACKENDS),
    *map(_image, image_backends.BACKENDS),
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


class FaultyServer:
    """A faithful server that can be switched to another mode between requests."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner
        self.mode = "fine"

    def __call__(self, peer: Peer) -> None:
        read_request = peer.request

        def request() -> ReceivedRequest | None:
            while (pending_request := read_request()) is not None:
                match self.mode:
                    case "fine":
                        return pending_request
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

        peer.request = request  # type: ignore[method-assign]  # for this peer only
        self._inner(peer)


def sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return count


# Threads that do not belong to a provider: the portal's own, and those that event loops keep for
# later work. Trio's are shared by all its runs and end after ten idle seconds; asyncio's end with
# the loop, and the portal's loop keeps running.
KEPT_THREADS = {"asyncio": ("majordomo-portal",), "trio": ("majordomo-portal", "Trio thread")}
KEPT_THREADS["blocking"] = ("majordomo-portal", "AnyIO worker thread", "asyncio_")


def threads(loop: str) -> set[threading.Thread]:
    return {
        thread for thread in threading.enumerate() if not thread.name.startswith(KEPT_THREADS[loop])
    }


@contextmanager
def assert_nothing_left(case: Case, loop: str) -> Iterator[tuple[str, FaultyServer]]:
    """Yield the URL of the case's server and its modes, then check that nothing is left.

    Afterwards sockets and threads are as before, and there was no ResourceWarning.
    """
    # The portal keeps running, with the sockets of its loop.
    portal.run(anyio.lowlevel.checkpoint)
    gc.collect()
    before = sockets(), threads(loop)
    faulty_server = FaultyServer(case.handler() if case.handler is not None else lambda peer: None)
    with warnings.catch_warnings(record=True) as recorded_warnings:
        warnings.simplefilter("always", ResourceWarning)
        server = Loopback(faulty_server)
        yield server.url, faulty_server
        open_connections = sum(not _gone(peer) for peer in server.peers)
        server.close()
        gc.collect()
        deadline = time.monotonic() + CLEANUP_SECONDS
        while (sockets() > before[0] or threads(loop) - before[1]) and time.monotonic() < deadline:
            time.sleep(0.005)
    assert open_connections == 0
    assert sockets() <= before[0]
    assert threads(loop) - before[1] == set()
    assert [
        str(warning.message)
        for warning in recorded_warnings
        if issubclass(warning.category, ResourceWarning)
    ] == []


def _gone(peer: Peer) -> bool:
    """Return whether the client, or the server itself, soon closes the connection."""
    deadline = time.monotonic() + CLEANUP_SECONDS
    while (
        not (gone := peer.closed_by_client.is_set() or peer.socket.fileno() < 0)
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    return gone


def tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        import trio

        return trio.lowlevel.current_statistics().tasks_living


async def tasks_have_ended(before: int) -> bool:
    """Return whether the number of tasks soon falls to `before`."""
    with anyio.move_on_after(CLEANUP_SECONDS):
        await wait_until(lambda: tasks() <= before)
    return tasks() <= before


async def run_calls(case: Case, url: str, faulty_server: FaultyServer) -> None:
    before = tasks()
    provider = case.connect(url, retries=ONCE)
    model, fields = case.model(provider), case.fields or {}

    async def streamed(max_events: int = 1000) -> None:
        async with model.stream("a red fox", **fields) as stream:
            for _ in range(max_events):
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
        for mode in ("refuses", "breaks off"):
            faulty_server.mode = mode
            for call in calls:
                with pytest.raises(md.MajordomoError):
                    await call()
        faulty_server.mode = "is silent"
    for call in calls:
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    faulty_server.mode = "fine"
    await streamed(1)
    await provider.aclose()
    assert await tasks_have_ended(before)


@every_case
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_async_calls_leave_no_resources(case: Case, loop: str) -> None:
    with assert_nothing_left(case, loop) as (url, faulty_server):
        anyio.run(run_calls, case, url, faulty_server, backend=loop)


@every_case
def test_sync_calls_leave_no_resources(case: Case) -> None:
    async def count_tasks() -> int:
        return tasks()

    with assert_nothing_left(case, "blocking") as (url, faulty_server):
        before = portal.run(count_tasks)
        provider = case.connect(url, retries=ONCE)
        model, fields = case.model(provider), case.fields or {}
        model.generate_sync("a red fox", **fields)
        for max_events in (1000, 1):
            with model.stream_sync("a red fox", **fields) as stream:
                for _, _ in zip(range(max_events), stream, strict=False):
                    pass
        if case.handler is not None:
            faulty_server.mode = "refuses"
            with pytest.raises(md.MajordomoError):
                model.generate_sync("a red fox", **fields)
            faulty_server.mode = "fine"
        with pytest.raises(LookupError), model.stream_sync("a red fox", **fields) as stream:
            for _ in stream:
                raise LookupError
        provider.close()
        assert portal.run(lambda: tasks_have_ended(before))
