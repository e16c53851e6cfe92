"""Faults: their definition, the runners that try them, and the checks afterwards.

`registry()` finds a table `FAULTS` in every `faults_*.py` in this folder. A fault is tried with
every event loop (asyncio, trio, the blocking API) and every HTTP library (our own sockets with
h11 and with httptools, clients of httpx and httpx2). By default each fault is tried once, with the
runners in rotation; with `-m slow` it is tried with all of them. A provider has its default limits
and makes one attempt; `timeout` and other `settings` are for faults that hang on purpose or need
them.
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
from tests.support.chat_backends import BACKENDS, Backend
from tests.support.chat_dialects import check
from tests.support.h11_reference import use_parser
from tests.support.loopback import Handler, Loopback, Peer, ReceivedRequest
from tests.support.wait_until import wait_until

ONCE = md.Retries(attempts=1)
# How late a call may end on a busy machine. The guaranteed 0.2 s have tests of their own.
SLACK_SECONDS = 1.0
# For a fault without any wait: far above what it takes, far below every default limit.
DEFAULT_LIMIT_SECONDS = 10.0
# For the server's own threads to end.
CLEANUP_SECONDS = 5.0
MIB = 1 << 20


# Calls


@dataclass(frozen=True)
class Call:
    """One call of one provider.

    `respond` answers a request correctly, and `check` verifies the value of that answer. `sync` is
    the blocking version; None runs `start` in the thread of the blocking API. Only requests for
    which `counted` is true are answered with the fault; additional requests of the provider
    (whether a model is loading) are answered by `respond`.
    """

    name: str
    connect: Callable[..., Any]
    start: Callable[[Any, Received], Awaitable[Any]]
    respond: Callable[[Peer, ReceivedRequest], object]
    check: Callable[[Any], object]
    sync: Callable[[Any, Received], Any] | None = None
    counted: Callable[[ReceivedRequest], bool] = lambda request: request.method == "POST"


@dataclass
class Received:
    """What a stream delivered before its end: text and events."""

    text: str = ""
    events: list[Any] = field(default_factory=list)

    def add(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, TextDelta):
            self.text += event.text


def _respond_with_reply(backend: Backend) -> Callable[[Peer, ReceivedRequest], object]:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.reply(
            {"running": []} if request.method == "GET" else backend.dialect.complete_response
        )

    return respond


def _respond_with_stream(backend: Backend) -> Callable[[Peer, ReceivedRequest], object]:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        if request.method == "GET":
            peer.reply({"running": []})
            return
        peer.begin(headers={"content-type": backend.kind})
        peer.chunk(backend.dialect.stream)
        peer.end()

    return respond


@functools.cache
def reply_call(name: str) -> Call:
    """Return a chat call without streaming to a backend of `chat_backends`."""
    backend = chat_backend(name)

    async def start(provider: Any, received: Received) -> md.Reply:
        return await provider.model(backend.model).generate("hi")

    def blocking(provider: Any, received: Received) -> md.Reply:
        return provider.model(backend.model).generate_sync("hi")

    return Call(
        f"{name}",
        backend.connect,
        start,
        _respond_with_reply(backend),
        functools.partial(check, backend.dialect),
        blocking,
    )


@functools.cache
def stream_call(name: str) -> Call:
    """Return a streamed chat call to a backend of `chat_backends`."""
    backend = chat_backend(name)

    async def start(provider: Any, received: Received) -> md.Reply:
        async with provider.model(backend.model).stream("hi") as stream:
            async for event in stream:
                received.add(event)
        return stream.reply

    def blocking(provider: Any, received: Received) -> md.Reply:
        with provider.model(backend.model).stream_sync("hi") as stream:
            for event in stream:
                received.add(event)
        return stream.reply

    return Call(
        f"{name} stream",
        backend.connect,
        start,
        _respond_with_stream(backend),
        functools.partial(check, backend.dialect),
        blocking,
    )


def chat_backend(name: str) -> Backend:
    return next(backend for backend in BACKENDS if backend.name == name)


# Faults


@dataclass(frozen=True)
class Fault:
    """A fault of a server and what is expected of the call.

    `serve` answers the first counted request; all other requests are answered correctly. With
    `greets` it gets the first connection before any request is read. `expect` is the exact class of
    the error, several classes, or a judge that gets the `Outcome`.
    """

    family: str
    name: str
    serve: Callable[[Peer], object]
    expect: type[Exception] | tuple[type[Exception], ...] | Callable[[Outcome], object]
    call: Call = field(default_factory=lambda: reply_call("openaicompatible"))
    greets: bool = False
    timeout: md.Timeout | None = None
    """For faults that hang on purpose."""
    settings: dict[str, Any] = field(default_factory=dict)
    """More settings of the provider."""
    status: int | None = None
    """The error's HTTP status."""
    code: str | None = None
    """The error's code."""
    retryable: bool | None = None
    """Whether the error is retryable."""
    message: str | None = None
    """A part of the error's message."""
    hidden: str | None = None
    """A text that must be nowhere in the error."""
    received: str | None = None
    """The exact text that a stream delivered before the error."""
    reuses_connection: bool | None = None
    """Whether the next call must (True) or must not (False) use the same connection."""
    requests: int | None = None
    """How many requests are counted before the next call."""
    mib: int | None = None
    """Limit for the memory that the fault costs, in MiB."""
    within: float | None = None
    """Limit for the time that the call takes, in seconds."""
    only: Callable[[Runner], bool] = lambda runner: True
    """The runners for which the fault makes sense."""
    httpx_error: type[Exception] | tuple[type[Exception], ...] | None = None
    """What is expected over httpx clients where that differs from `expect`."""
    listen: Callable[[Handler], Loopback] = Loopback
    """Creates the server."""
    url: Callable[[Loopback], str] = lambda server: server.url
    """Returns the base URL that the client uses."""
    trust: Callable[[], ssl.SSLContext] | None = None
    """The client's TLS settings."""
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """A context manager that is entered for the time of the calls."""
    judge_own: Callable[[Outcome], object] | None = None
    """A judge for what holds over our own sockets only."""
    next_works: bool = True
    """False when no server can answer the next call."""
    heavy: bool = False
    """Too expensive for the ordinary run: slow tests only."""
    rotates: bool = False
    """The result does not depend on the event loop: try one of our own HTTP libraries and one httpx
    client with one event loop, in rotation."""

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"


@dataclass
class Outcome:
    """What happened in the faulty call and in the next one."""

    fault: Fault
    runner: Runner
    error: BaseException | None
    value: Any
    received: Received
    seconds: float
    requests: int
    """Counted requests before the next call."""
    connections: int
    peak: int
    """Peak memory in bytes; 0 when it was not measured."""
    next_error: BaseException | None = None
    next_value: Any = None
    connections_after: int = 0


# Runners


@dataclass(frozen=True)
class Runner:
    """An event loop and an HTTP library.

    `loop` is asyncio, trio or blocking. `library` is h11 or httptools (our own sockets), or
    httpx or httpx2 (a client passed as transport).
    """

    loop: str
    library: str

    @property
    def id(self) -> str:
        return f"{self.loop} over {self.library}"

    @property
    def own(self) -> bool:
        return self.library in ("h11", "httptools")


def _installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


LOOPS = ("asyncio", "trio", "blocking")
LIBRARIES = ("h11", "httptools", "httpx", "httpx2")
ALL_RUNNERS = [Runner(loop, library) for library in LIBRARIES for loop in LOOPS]
RUNNERS = [runner for runner in ALL_RUNNERS if _installed(runner.library)]


def one_runner(faults: Sequence[Fault]) -> Any:
    """Parametrize with each fault once, the runners in rotation.

    Of the faults that only differ by dialect, every second one is used.
    """
    cases = []
    light = [
        fault
        for number, fault in enumerate(faults)
        if not fault.heavy and (number % 2 or not fault.rotates)
    ]
    for number, fault in enumerate(light):
        runners = [runner for runner in RUNNERS if fault.only(runner)]
        runner = runners[number % len(runners)]
        cases.append(pytest.param(fault, runner, id=f"{fault.id} ({runner.id})"))
    return pytest.mark.parametrize(("fault", "runner"), cases)


def every_runner(faults: Sequence[Fault]) -> Any:
    """Parametrize with each family of faults over each runner."""
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
    """Return the runners with which the slow tests try the fault of this number."""
    loop, libraries = LOOPS[number % len(LOOPS)], LIBRARIES[number % 2 :: 2]
    return [
        r
        for r in runners
        if fault.only(r) and (not fault.rotates or (r.loop == loop and r.library in libraries))
    ]


def registry() -> dict[str, list[Fault]]:
    """Return the table of every `faults_*.py` in this folder, by file name."""
    files = sorted(Path(__file__).parent.glob("faults_*.py"))
    tables = {
        file.stem: importlib.import_module(f"tests.chaos.{file.stem}").FAULTS for file in files
    }
    ids = [fault.id for table in tables.values() for fault in table]
    assert len(set(ids)) == len(ids), sorted({name for name in ids if ids.count(name) > 1})
    return tables


def run(fault: Fault, runner: Runner) -> Outcome:
    """Make the faulty call and the next one on their own event loop, then check everything."""
    if runner.loop == "blocking":
        # Start the thread of the blocking API first, because it stays.
        portal.run(anyio.lowlevel.checkpoint)
    threads, sockets = set(threading.enumerate()), _sockets()
    server = fault.listen(_faulty(fault))
    try:
        with _use_library(runner), fault.around():
            outcome = (
                _run_blocking(fault, runner, server)
                if runner.loop == "blocking"
                else _run_on_loop(fault, runner, server)
            )
    finally:
        server.close()
    judge(outcome)
    _check_nothing_left(threads, sockets)
    return outcome


def _faulty(fault: Fault) -> Handler:
    def handler(peer: Peer) -> None:
        if fault.greets and peer.number == 0:
            fault.serve(peer)
            return
        while (request := peer.request()) is not None:
            if (
                fault.call.counted(request)
                and not fault.greets
                and _count_requests(fault, peer.server) == 1
            ):
                fault.serve(peer)
            else:
                fault.call.respond(peer, request)

    return handler


def _count_requests(fault: Fault, server: Loopback) -> int:
    return sum(fault.call.counted(request) for request in server.requests)


@contextlib.contextmanager
def _use_library(runner: Runner) -> Iterator[None]:
    """Use the runner's library for our own sockets instead of the one chosen at import."""
    with use_parser(runner.library) if runner.own else contextlib.nullcontext():
        yield


@functools.cache
def _default_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _client(fault: Fault, runner: Runner) -> Any:
    """Return an httpx client for the provider; None for our own sockets."""
    if runner.own:
        return None
    library = importlib.import_module(runner.library)
    trust = fault.trust() if fault.trust is not None else _default_tls()
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


def _run_on_loop(fault: Fault, runner: Runner, server: Loopback) -> Outcome:
    async def run_calls() -> Outcome:
        client = _client(fault, runner)
        tasks = _task_count(runner.loop)
        async with _provider(fault, server, client) as provider:
            received, error, value = Received(), None, None
            with _measure_memory(fault) as peak:
                started = time.monotonic()
                try:
                    value = await fault.call.start(provider, received)
                except Exception as caught:
                    error = caught
                seconds = time.monotonic() - started
            outcome = _outcome(fault, runner, server, error, value, received, seconds, peak)
            if fault.next_works:
                try:
                    outcome.next_value = await fault.call.start(provider, Received())
                except Exception as caught:
                    outcome.next_error = caught
            outcome.connections_after = server.connections
        if client is not None:
            await client.aclose()
        # The connection pool of a client may still be closing.
        with anyio.move_on_after(1):
            await wait_until(lambda: _task_count(runner.loop) == tasks)
        assert _task_count(runner.loop) == tasks, "a task is still running"
        return outcome

    return anyio.run(run_calls, backend=runner.loop)


def _run_blocking(fault: Fault, runner: Runner, server: Loopback) -> Outcome:
    async def make() -> Any:
        return _client(fault, runner)

    client = portal.run(make)
    with _provider(fault, server, client) as provider:

        def start(received: Received) -> Any:
            if fault.call.sync is not None:
                return fault.call.sync(provider, received)
            return portal.run(lambda: fault.call.start(provider, received))

        received, error, value = Received(), None, None
        with _measure_memory(fault) as peak:
            started = time.monotonic()
            try:
                value = start(received)
            except Exception as caught:
                error = caught
            seconds = time.monotonic() - started
        outcome = _outcome(fault, runner, server, error, value, received, seconds, peak)
        if fault.next_works:
            try:
                outcome.next_value = start(Received())
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
    received: Received,
    seconds: float,
    peak: list[int],
) -> Outcome:
    return Outcome(
        fault,
        runner,
        error,
        value,
        received,
        seconds,
        _count_requests(fault, server),
        server.connections,
        peak[0] if peak else 0,
    )


@contextlib.contextmanager
def _measure_memory(fault: Fault) -> Iterator[list[int]]:
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


def _task_count(loop: str) -> int:
    return (
        trio.lowlevel.current_statistics().tasks_living
        if loop == "trio"
        else len(asyncio.all_tasks())
    )


# Checks


def judge(outcome: Outcome) -> None:
    """Check the outcome against what the fault expects."""
    fault, error = outcome.fault, outcome.error
    expect = fault.expect
    if fault.httpx_error is not None and not outcome.runner.own:
        expect = fault.httpx_error
    if isinstance(expect, (type, tuple)):
        kinds = expect if isinstance(expect, tuple) else (expect,)
        assert error is not None, f"no error; the call returned {outcome.value!r}"
        if type(error) not in kinds:
            raise AssertionError(
                f"{type(error).__name__} is not one of {[kind.__name__ for kind in kinds]}: {error}"
            ) from error
    if error is not None:
        _judge_error(fault, error)
    if not isinstance(expect, (type, tuple)):
        expect(outcome)
    if fault.judge_own is not None and outcome.runner.own:
        fault.judge_own(outcome)
    limit = fault.within if fault.within is not None else DEFAULT_LIMIT_SECONDS
    if fault.timeout is not None and fault.timeout.total is not None:
        limit = fault.timeout.total + SLACK_SECONDS
    assert outcome.seconds < limit, f"it took {outcome.seconds:.2f} s"
    if fault.received is not None:
        assert outcome.received.text == fault.received
        if isinstance(error, md.StreamBrokenError):
            assert error.partial.text == fault.received
    if fault.requests is not None:
        assert outcome.requests == fault.requests
    if fault.mib is not None:
        assert outcome.peak < fault.mib * MIB, f"{outcome.peak / MIB:.1f} MiB"
    if fault.next_works:
        if outcome.next_error is not None:
            raise AssertionError("the next call failed") from outcome.next_error
        fault.call.check(outcome.next_value)
    if fault.reuses_connection is not None:
        assert (outcome.connections_after == outcome.connections) is fault.reuses_connection, (
            "the connection was kept, or closed, against expectation"
        )


def _judge_error(fault: Fault, error: BaseException) -> None:
    if not isinstance(error, md.MajordomoError):
        raise AssertionError(f"{type(error).__name__} is not a MajordomoError") from error
    assert error.message.isprintable() and 0 < len(error.message) <= 2048
    assert error.__cause__ is None or isinstance(error.__cause__, md.MajordomoError)
    assert error.provider, "the error has no provider"
    for name in ("status", "code", "retryable"):
        expected = getattr(fault, name)
        assert expected is None or getattr(error, name) == expected, (
            f"{name} is {getattr(error, name)!r}: {error}"
        )
    if fault.message is not None:
        assert fault.message in error.message, error.message
    if fault.hidden is not None:
        assert fault.hidden not in f"{error!r} {error} {error.to_dict()}"


def _check_nothing_left(threads: set[threading.Thread], sockets: set[int]) -> None:
    """Check that no socket and no thread is left; the server may need time to close its own."""
    # Threads of the portal's event loop, and idle threads of trio.
    permanent = ("majordomo-portal", "asyncio_", "AnyIO worker", "Trio thread")
    end = time.monotonic() + CLEANUP_SECONDS
    while True:
        left = [
            thread.name
            for thread in set(threading.enumerate()) - threads
            if not thread.name.startswith(permanent)
        ]
        open_sockets = _sockets() - sockets
        if not left and not open_sockets:
            return
        assert time.monotonic() < end, f"left behind: {len(open_sockets)} sockets, threads {left}"
        time.sleep(0.002)


def _sockets() -> set[int]:
    """Return the inode numbers of this process's sockets."""
    sockets = set()
    # Windows lists no open files.
    for name in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else ():
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                sockets.add(status.st_ino)
    return sockets
