"""What a fault is, who runs it, and what is judged afterwards.

A table `FAULTS` in any `faults_*.py` beside this file is found by `registry()`. Every fault is run over every event loop (asyncio, trio, the
blocking form) and every carriage (our own sockets over httpcore and httpcore2, clients of httpx and httpx2): by default each fault once,
the runners taking turns; all of them with `-m slow`. A provider has its default limits, and one try; `timeout` and other `settings` are for
faults that hang on purpose or cannot be made otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import ssl
import stat
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

import majordomo as md
from majordomo.concurrency import portal
from majordomo.llm import TextDelta
from majordomo.transport import connection
from majordomo.transport import http_transport as room
from majordomo.transport import httpcore_compat as carrier
from majordomo.transport import response as reply
from majordomo.transport import socket_stream as socket
from tests.support.chat_backends import BACKENDS, Backend
from tests.support.chat_dialects import check
from tests.support.loopback import Handler, Loopback, Peer, Seen

ONCE = md.Retries(attempts=1)
SLACK = 1.0  # seconds by which a call may end late on a busy machine; the promise of 0.2 s has tests of its own
WITHIN = 10.0  # seconds for a fault that does not wait at all: far above what it takes, far below every default limit
LEAVING = 5.0  # seconds for the server's own threads to end
MIB = 1 << 20


# Who is asked


@dataclass(frozen=True)
class Call:
    """One way to ask one provider. `fine` answers a request well, `check` knows that answer's value from any other.

    `sync` is the blocking form; None asks the same through the blocking form's own thread. Only requests that are `counted` are answered
    with the fault: what a provider asks beside the call (whether a model loads) is answered by `fine` as well.
    """

    name: str
    connect: Callable[..., Any]
    ask: Callable[[Any, Heard], Awaitable[Any]]
    fine: Callable[[Peer, Seen], object]
    check: Callable[[Any], object]
    sync: Callable[[Any, Heard], Any] | None = None
    counted: Callable[[Seen], bool] = lambda seen: seen.method == "POST"


@dataclass
class Heard:
    """What came before the end: text, and the events of any stream."""

    text: str = ""
    events: list[Any] = field(default_factory=list)

    def add(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, TextDelta):
            self.text += event.text


def _whole_answer(backend: Backend) -> Callable[[Peer, Seen], object]:
    def answer(peer: Peer, seen: Seen) -> None:
        peer.reply({"running": []} if seen.method == "GET" else backend.dialect.whole)

    return answer


def _stream_answer(backend: Backend) -> Callable[[Peer, Seen], object]:
    def answer(peer: Peer, seen: Seen) -> None:
        if seen.method == "GET":
            peer.reply({"running": []})
            return
        peer.begin(headers={"content-type": backend.kind})
        peer.chunk(backend.dialect.stream)
        peer.end()

    return answer


@functools.cache
def whole_call(name: str) -> Call:
    """A whole chat answer of the backend of this name in `chat_backends`."""
    backend = chat_backend(name)

    async def ask(provider: Any, heard: Heard) -> md.Reply:
        return await provider.model(backend.model).generate("hi")

    def blocking(provider: Any, heard: Heard) -> md.Reply:
        return provider.model(backend.model).generate_sync("hi")

    return Call(
        f"{name}",
        backend.connect,
        ask,
        _whole_answer(backend),
        functools.partial(check, backend.dialect),
        blocking,
    )


@functools.cache
def stream_call(name: str) -> Call:
    """A streamed chat answer of the backend of this name in `chat_backends`."""
    backend = chat_backend(name)

    async def ask(provider: Any, heard: Heard) -> md.Reply:
        async with provider.model(backend.model).stream("hi") as stream:
            async for event in stream:
                heard.add(event)
        return stream.reply

    def blocking(provider: Any, heard: Heard) -> md.Reply:
        with provider.model(backend.model).stream_sync("hi") as stream:
            for event in stream:
                heard.add(event)
        return stream.reply

    return Call(
        f"{name} stream",
        backend.connect,
        ask,
        _stream_answer(backend),
        functools.partial(check, backend.dialect),
        blocking,
    )


def chat_backend(name: str) -> Backend:
    return next(backend for backend in BACKENDS if backend.name == name)


# What is done to them


@dataclass(frozen=True)
class Fault:
    """`serve` answers the first counted request; all others are answered well. With `greets` it has the first connection, unread.

    `expect` is the error's exact class, several of them, or a judge that is given the `Outcome`. `kept`: whether the next call must
    (True) or must not (False) come over the same connection. `heard`: the exact text that a stream has given before. `status`, `code`,
    `retryable` and `words` (part of the message) are those of the error, where given. `hidden` stands nowhere in the error.
    `mib`: how much memory the fault may cost at most. `only` says over which runners it makes sense, and why not over the others.
    `foreign` is what is expected over httpx clients where that differs; `timeout` is for faults that hang on purpose.
    """

    family: str
    name: str
    serve: Callable[[Peer], object]
    expect: type[Exception] | tuple[type[Exception], ...] | Callable[[Outcome], object]
    call: Call = field(default_factory=lambda: whole_call("openaicompatible"))
    greets: bool = False
    timeout: md.Timeout | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    status: int | None = None
    code: str | None = None
    retryable: bool | None = None
    words: str | None = None
    hidden: str | None = None
    heard: str | None = None
    kept: bool | None = None
    requests: int | None = None  # how many requests are counted before the next call
    mib: int | None = None
    within: float | None = None
    only: Callable[[Runner], bool] = lambda runner: True
    foreign: type[Exception] | tuple[type[Exception], ...] | None = None
    listen: Callable[[Handler], Loopback] = Loopback  # makes the server
    url: Callable[[Loopback], str] = lambda server: server.url
    trust: Callable[[], ssl.SSLContext] | None = None  # what the client trusts
    around: Callable[[], contextlib.AbstractContextManager[None]] = (
        contextlib.nullcontext
    )  # what holds while it is tried
    judge_own: Callable[[Outcome], object] | None = None  # what is known over our own sockets only
    next_works: bool = True  # False where there is nobody who could answer
    heavy: bool = False  # too dear for every day: slow tests only
    turns: bool = False  # what decides is no matter of event loops: one of our own carriages and one of somebody else's, in turns

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"


@dataclass
class Outcome:
    """How the faulty call went, and the one after it."""

    fault: Fault
    runner: Runner
    error: BaseException | None
    value: Any
    heard: Heard
    seconds: float
    requests: int  # counted, before the next call
    connections: int
    peak: int  # bytes of memory, where it was measured
    next_error: BaseException | None = None
    next_value: Any = None
    connections_after: int = 0


# Who runs them


@dataclass(frozen=True)
class Runner:
    """`loop`: asyncio, trio or blocking. `carriage`: httpcore, httpcore2 (our own sockets), httpx or httpx2 (a client given to us)."""

    loop: str
    carriage: str

    @property
    def id(self) -> str:
        return f"{self.loop} over {self.carriage}"

    @property
    def own(self) -> bool:
        return self.carriage.startswith("httpcore")


def _installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


LOOPS = ("asyncio", "trio", "blocking")
CARRIAGES = ("httpcore", "httpcore2", "httpx", "httpx2")
ALL_RUNNERS = [Runner(loop, carriage) for carriage in CARRIAGES for loop in LOOPS]
RUNNERS = [runner for runner in ALL_RUNNERS if _installed(runner.carriage)]


def quick(faults: Sequence[Fault]) -> Any:
    """Each fault once, the runners taking turns; of those that only the dialects can tell apart, every second one."""
    cases = []
    light = [
        fault
        for number, fault in enumerate(faults)
        if not fault.heavy and (number % 2 or not fault.turns)
    ]
    for number, fault in enumerate(light):
        runners = [runner for runner in RUNNERS if fault.only(runner)]
        runner = runners[number % len(runners)]
        cases.append(pytest.param(fault, runner, id=f"{fault.id} ({runner.id})"))
    return pytest.mark.parametrize(("fault", "runner"), cases)


def whole_families(faults: Sequence[Fault]) -> Any:
    """Each family over each runner."""
    cases = []
    for family in dict.fromkeys(fault.family for fault in faults):
        for runner in RUNNERS:
            chosen = [
                fault
                for number, fault in enumerate(faults)
                if fault.family == family and runner in runners_of(fault, number)
            ]
            if chosen:
                cases.append(pytest.param(chosen, runner, id=f"{family} ({runner.id})"))
    return pytest.mark.parametrize(("faults", "runner"), cases)


def runners_of(fault: Fault, number: int, runners: Sequence[Runner] = RUNNERS) -> list[Runner]:
    """Over which runners the slow tests try the fault of this number."""
    loop, carriages = LOOPS[number % len(LOOPS)], CARRIAGES[number % 2 :: 2]
    return [
        r
        for r in runners
        if fault.only(r) and (not fault.turns or (r.loop == loop and r.carriage in carriages))
    ]


def registry() -> dict[str, list[Fault]]:
    """The table of every `faults_*.py` here, by the file's name."""
    files = sorted(Path(__file__).parent.glob("faults_*.py"))
    tables = {
        file.stem: importlib.import_module(f"tests.chaos.{file.stem}").FAULTS for file in files
    }
    ids = [fault.id for table in tables.values() for fault in table]
    assert len(set(ids)) == len(ids), sorted({name for name in ids if ids.count(name) > 1})
    return tables


def run(fault: Fault, runner: Runner) -> Outcome:
    """The faulty call and the next one, on an event loop of their own; then everything is judged."""
    if runner.loop == "blocking":
        portal.run(anyio.lowlevel.checkpoint)  # its thread stays
    threads, sockets = set(threading.enumerate()), _sockets()
    server = fault.listen(_faulty(fault))
    try:
        with _over(runner), fault.around():
            outcome = (
                _blocking(fault, runner, server)
                if runner.loop == "blocking"
                else _on_a_loop(fault, runner, server)
            )
    finally:
        server.close()
    judge(outcome)
    _nothing_left(threads, sockets)
    return outcome


def _faulty(fault: Fault) -> Handler:
    def handler(peer: Peer) -> None:
        if fault.greets and peer.number == 0:
            fault.serve(peer)
            return
        while (seen := peer.request()) is not None:
            if fault.call.counted(seen) and not fault.greets and _counted(fault, peer.server) == 1:
                fault.serve(peer)
            else:
                fault.call.fine(peer, seen)

    return handler


def _counted(fault: Fault, server: Loopback) -> int:
    return sum(fault.call.counted(seen) for seen in server.seen)


@contextlib.contextmanager
def _over(runner: Runner) -> Iterator[None]:
    """Our own sockets under this library's HTTP/1.1 connection: which one is chosen when the room is loaded, and here per fault."""
    if not runner.own:
        yield
        return
    library = importlib.import_module(runner.carriage)
    rooms = (carrier, room, connection, socket, reply)
    with pytest.MonkeyPatch.context() as patch:
        for module in rooms:
            patch.setattr(module, "httpcore", library)
        yield


@functools.cache
def _public_trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _client(fault: Fault, runner: Runner) -> Any:
    """A client of the caller's own; None for our own sockets."""
    if runner.own:
        return None
    library = importlib.import_module(runner.carriage)
    trust = fault.trust() if fault.trust is not None else _public_trust()
    return library.AsyncClient(trust_env=False, verify=trust, timeout=None)


def _provider(fault: Fault, server: Loopback, client: Any) -> Any:
    settings: dict[str, Any] = {"retries": ONCE, **fault.settings}
    if fault.timeout is not None:
        settings["timeout"] = fault.timeout
    if client is not None:
        settings["transport"] = client
    elif fault.trust is not None:
        settings["tls"] = fault.trust()
    return fault.call.connect(fault.url(server), **settings)


def _on_a_loop(fault: Fault, runner: Runner, server: Loopback) -> Outcome:
    async def story() -> Outcome:
        client = _client(fault, runner)
        tasks = _tasks(runner.loop)
        async with _provider(fault, server, client) as provider:
            heard, error, value = Heard(), None, None
            with _measured(fault) as peak:
                began = time.monotonic()
                try:
                    value = await fault.call.ask(provider, heard)
                except Exception as caught:
                    error = caught
                seconds = time.monotonic() - began
            outcome = _outcome(fault, runner, server, error, value, heard, seconds, peak)
            if fault.next_works:
                try:
                    outcome.next_value = await fault.call.ask(provider, Heard())
                except Exception as caught:
                    outcome.next_error = caught
            outcome.connections_after = server.connections
        if client is not None:
            await client.aclose()
        with anyio.move_on_after(1):  # a client's own pool may still be closing
            while _tasks(runner.loop) != tasks:
                await anyio.sleep(0.002)
        assert _tasks(runner.loop) == tasks, "a task is left"
        return outcome

    return anyio.run(story, backend=runner.loop)


def _blocking(fault: Fault, runner: Runner, server: Loopback) -> Outcome:
    async def make() -> Any:
        return _client(fault, runner)

    client = portal.run(make)
    with _provider(fault, server, client) as provider:

        def ask(heard: Heard) -> Any:
            if fault.call.sync is not None:
                return fault.call.sync(provider, heard)
            return portal.run(lambda: fault.call.ask(provider, heard))

        heard, error, value = Heard(), None, None
        with _measured(fault) as peak:
            began = time.monotonic()
            try:
                value = ask(heard)
            except Exception as caught:
                error = caught
            seconds = time.monotonic() - began
        outcome = _outcome(fault, runner, server, error, value, heard, seconds, peak)
        if fault.next_works:
            try:
                outcome.next_value = ask(Heard())
            except Exception as caught:
                outcome.next_error = caught
        outcome.connections_after = server.connections
    if client is not None:
        portal.run(client.aclose)
    return outcome


def _outcome(
    fault: Fault,
    runner: Runner,
    server: Loopback,
    error: BaseException | None,
    value: Any,
    heard: Heard,
    seconds: float,
    peak: list[int],
) -> Outcome:
    return Outcome(
        fault,
        runner,
        error,
        value,
        heard,
        seconds,
        _counted(fault, server),
        server.connections,
        peak[0] if peak else 0,
    )


@contextlib.contextmanager
def _measured(fault: Fault) -> Iterator[list[int]]:
    peak: list[int] = []
    if fault.mib is None:
        yield peak
        return
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def _tasks(loop: str) -> int:
    return (
        trio.lowlevel.current_statistics().tasks_living
        if loop == "trio"
        else len(asyncio.all_tasks())
    )


# What is judged


def judge(outcome: Outcome) -> None:
    fault, error = outcome.fault, outcome.error
    expect = fault.expect
    if fault.foreign is not None and not outcome.runner.own:
        expect = fault.foreign
    if isinstance(expect, (type, tuple)):
        kinds = expect if isinstance(expect, tuple) else (expect,)
        assert error is not None, f"it was answered with {outcome.value!r}"
        if type(error) not in kinds:
            raise AssertionError(
                f"{type(error).__name__} is none of {[kind.__name__ for kind in kinds]}: {error}"
            ) from error
    if error is not None:
        _judge_error(fault, error)
    if not isinstance(expect, (type, tuple)):
        expect(outcome)
    if fault.judge_own is not None and outcome.runner.own:
        fault.judge_own(outcome)
    limit = fault.within if fault.within is not None else WITHIN
    if fault.timeout is not None and fault.timeout.total is not None:
        limit = fault.timeout.total + SLACK
    assert outcome.seconds < limit, f"it took {outcome.seconds:.2f} s"
    if fault.heard is not None:
        assert outcome.heard.text == fault.heard
        if isinstance(error, md.StreamBrokenError):
            assert error.partial.text == fault.heard
    if fault.requests is not None:
        assert outcome.requests == fault.requests
    if fault.mib is not None:
        assert outcome.peak < fault.mib * MIB, f"{outcome.peak / MIB:.1f} MiB"
    if fault.next_works:
        if outcome.next_error is not None:
            raise AssertionError("the next call failed") from outcome.next_error
        fault.call.check(outcome.next_value)
    if fault.kept is not None:
        assert (outcome.connections_after == outcome.connections) is fault.kept, (
            "is the connection kept?"
        )


def _judge_error(fault: Fault, error: BaseException) -> None:
    if not isinstance(error, md.MajordomoError):
        raise AssertionError(f"a foreign {type(error).__name__}") from error
    assert error.message.isprintable() and 0 < len(error.message) <= 2048
    assert error.__cause__ is None or isinstance(error.__cause__, md.MajordomoError)
    assert error.provider, "it does not say whom it is about"
    for name in ("status", "code", "retryable"):
        wanted = getattr(fault, name)
        assert wanted is None or getattr(error, name) == wanted, (
            f"{name} is {getattr(error, name)!r}: {error}"
        )
    if fault.words is not None:
        assert fault.words in error.message, error.message
    if fault.hidden is not None:
        assert fault.hidden not in f"{error!r} {error} {error.to_dict()}"


def _nothing_left(threads: set[threading.Thread], sockets: set[int]) -> None:
    """The server may still be closing its own."""
    ours = (
        "majordomo-portal",
        "asyncio_",
        "AnyIO worker",
        "Trio thread",
    )  # threads of the portal's loop, and trio's idle ones
    end = time.monotonic() + LEAVING
    while True:
        left = [
            thread.name
            for thread in set(threading.enumerate()) - threads
            if not thread.name.startswith(ours)
        ]
        open_still = _sockets() - sockets
        if not left and not open_still:
            return
        assert time.monotonic() < end, f"left behind: {len(open_still)} sockets, threads {left}"
        time.sleep(0.002)


def _sockets() -> set[int]:
    """The sockets of this process, by the numbers that the system gives them."""
    found = set()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            seen = os.fstat(int(name))
            if stat.S_ISSOCK(seen.st_mode):
                found.add(seen.st_ino)
    return found
