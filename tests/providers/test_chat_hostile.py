"""Broken and hostile backends: every chat provider, with the library's default limits."""

from __future__ import annotations

import base64
import functools
import json
import logging
import pickle
import threading
import zlib
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import majordomo as md
from majordomo import llm
from majordomo.llm import TextDelta
from tests.support.chat_backends import BACKENDS, KEY, Backend
from tests.support.chat_dialects import check
from tests.support.loopback import Handler, Loopback, Peer, http_response
from tests.support.tracebacks import library_locals
from tests.support.wait_until import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
Serve = Callable[[Handler], Loopback]
Answer = bytes | Callable[[Peer], object]
ONCE = md.Retries(attempts=1)
each = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def answering(*answers: Answer) -> Handler:
    """Reply to POST requests with the answers in order, the last one repeatedly.

    GET requests (for the load state) get an empty list.
    """

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.method == "GET":
                peer.reply({"running": []})
                continue
            answer = answers[min(posts(peer.server), len(answers)) - 1]
            if isinstance(answer, bytes):
                peer.send(answer)
            else:
                answer(peer)

    return handler


def posts(server: Loopback) -> int:
    return sum(request.method == "POST" for request in server.requests)


def fine(backend: Backend) -> bytes:
    return http_response(backend.dialect.complete_response)


def begin_stream(backend: Backend, peer: Peer, data: bytes = b"") -> None:
    """Begin a streamed reply."""
    peer.begin(headers={"content-type": backend.kind})
    if data:
        peer.chunk(data)


def _send_stream(backend: Backend, data: bytes, peer: Peer) -> None:
    begin_stream(backend, peer, data)
    peer.end()


async def streamed(model: llm.Model) -> md.Reply:
    async with model.stream("hi") as stream:
        async for _ in stream:
            pass
    return stream.reply


CALLS: dict[str, Callable[[llm.Model], Any]] = {
    "whole": lambda model: model.generate("hi"),
    "streamed": streamed,
}


async def all_closed(server: Loopback) -> None:
    await wait_until(
        lambda: all(peer.closed_by_client.is_set() for peer in server.peers), seconds=5
    )


# Statuses

STATUSES: dict[int, type[md.MajordomoError]] = {
    400: md.InvalidRequestError,
    401: md.AuthenticationError,
    402: md.PermissionDeniedError,
    403: md.PermissionDeniedError,
    404: md.NotFoundError,
    405: md.UnsupportedError,
    408: md.OverloadedError,
    409: md.OverloadedError,
    413: md.InvalidRequestError,
    418: md.InvalidRequestError,
    422: md.InvalidRequestError,
    429: md.RateLimitError,
    500: md.BackendError,
    501: md.UnsupportedError,
    502: md.BackendError,
    503: md.OverloadedError,
    529: md.OverloadedError,
    304: md.BadResponseError,
}
BODIES: list[bytes] = [
    b'{"error": "some words"}',
    b'{"error": {"message": "some words", "type": "x", "param": null, "code": null}}',
    (
        b'[{"error": {"code": 7, "message": "some words", "status": "X", '
        b'"details": [{"@type": "RetryInfo", "retryDelay": []}]}}]'
    ),
    b'{"type": "error", "error": {"type": "x", "message": "some words"}, "request_id": "r"}',
    b'{"detail": [{"loc": ["body", 0], "msg": "some words"}]}',
    (
        b'{"error": {"message": {"a": [1]}, "code": [], "type": 7, "details": "x", "metadata": 5}, '
        b'"detail": {"detail": 5}}'
    ),
    b"<html><title>some words</title>",
    b"",
    b'{"error": "cut o',
    b'{"error":' * 3000,
    b'{"error": NaN, "message": 1e999, "detail": "\\ud800"}',
    b"\xff\xfe\0\x1b[31m" * 2000,
    b"1" * 70_000,
]


@each
async def test_a_status_maps_to_its_error_class_with_any_body(
    backend: Backend, serve: Serve
) -> None:
    cases = [(status, body) for status in (400, 401, 429, 500, 503) for body in BODIES]
    complete_calls = len(cases)
    cases += [(status, body) for status in STATUSES for body in BODIES[:2]]
    server = serve(
        answering(*(http_response(body, status) for status, body in cases), fine(backend))
    )
    async with backend.connect(server.url, retries=ONCE) as provider:
        model = provider.model(backend.model)
        for number, (status, body) in enumerate(cases):
            with pytest.raises(STATUSES[status]) as caught:
                await (model.generate("hi") if number < complete_calls else streamed(model))
            error = caught.value
            assert (error.status, error.provider, error.model) == (
                status,
                provider.name,
                backend.model,
            )
            assert len(error.message) <= 2048 and error.message.isprintable()
            assert json.loads(json.dumps(error.to_dict()))["error"] == error.message
            if b"some words" in body and status >= 400:
                assert "some words" in error.message
        check(backend.dialect, await model.generate("hi"))
    assert posts(server) == len(cases) + 1


# Bodies and streams (garbage in them: tests/chaos)


ENDS: dict[str, Callable[[Peer], None]] = {
    "closed": Peer.close,
    "reset": Peer.reset,
    "ended": Peer.end,
}


@each
@pytest.mark.parametrize("end", ENDS)
async def test_a_broken_stream_keeps_the_exact_prefix(
    backend: Backend, end: str, serve: Serve
) -> None:
    arrived = threading.Event()

    def breaks(peer: Peer) -> None:
        begin_stream(
            backend, peer, backend.dialect.says("Good ") + backend.dialect.says("evening")[:-9]
        )
        arrived.wait(5)
        ENDS[end](peer)

    async with backend.connect(serve(answering(breaks, fine(backend))).url) as provider:
        model = provider.model(backend.model)
        with pytest.raises(md.StreamBrokenError) as caught:
            async with model.stream("hi") as stream:
                async for event in stream:
                    assert event == TextDelta("Good ")
                    arrived.set()
        assert (caught.value.partial.text, stream.reply.text) == ("Good ", "Good ")
        check(backend.dialect, await model.generate("hi"))


@functools.cache
def bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b"{" + b" " * (1 << 20)) for _ in range(160)) + packer.flush()


@each
async def test_a_decompression_bomb_is_refused(backend: Backend, serve: Serve) -> None:
    server = serve(
        answering(http_response(bomb(), headers={"content-encoding": "gzip"}), fine(backend))
    )
    async with backend.connect(server.url) as provider:
        model = provider.model(backend.model)
        with pytest.raises(md.BadResponseError, match="larger than the limit"):
            await model.generate("hi")
        check(backend.dialect, await model.generate("hi"))
    assert posts(server) == 2


@each
async def test_endless_replies_are_refused(backend: Backend, serve: Serve) -> None:
    filler = b"x" * (2 << 20)
    text = backend.dialect.says(filler.decode())

    def flood(first: bytes, data: bytes) -> Answer:
        def send(peer: Peer) -> None:
            begin_stream(backend, peer, first)
            while not peer.closed_by_client.is_set():
                try:
                    peer.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))
                except OSError:
                    return

        return send

    def headers(peer: Peer) -> None:
        peer.send(
            b"HTTP/1.1 200 X\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(20_000))
        )
        peer.wait_for_close()

    line = flood(b'{"a": "' if "ndjson" in backend.kind else b"data: ", filler)
    server = serve(answering(line, flood(b"", text), headers, fine(backend)))
    async with backend.connect(server.url, retries=ONCE) as provider:
        model = provider.model(backend.model)
        for _ in range(3):
            with pytest.raises((md.BadResponseError, md.ConnectionFailedError)) as caught:
                await streamed(model)
            assert isinstance(caught.value, md.BadResponseError) or _ == 2
        check(backend.dialect, await model.generate("hi"))
    await all_closed(server)


# Time


def drip(peer: Peer, data: bytes) -> None:
    """Send the data repeatedly, each time before the idle limit passes."""
    while not peer.closed_by_client.wait(0.02):
        try:
            peer.socket.sendall(data)
        except OSError:
            return


def slow_servers(backend: Backend) -> dict[str, tuple[str, Answer, str]]:
    """Return cases by name: how the model is called, the reply, and the phase of the timeout."""
    keep_alive = b"\n" if "ndjson" in backend.kind else b": still here\n\n"
    head = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\n"

    def chunked(data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data)

    def drip_stream(data: bytes) -> Answer:
        return lambda peer: (begin_stream(backend, peer), drip(peer, data))

    return {
        "not a byte": ("whole", lambda peer: peer.wait_for_close(), "first_byte"),
        "not a byte of a stream": ("streamed", lambda peer: peer.wait_for_close(), "first_byte"),
        "headers one by one": (
            "whole",
            lambda peer: (peer.send(head), drip(peer, b"x-a: b\r\n")),
            "first_byte",
        ),
        "a status letter by letter": (
            "streamed",
            lambda peer: (peer.send(b"HTTP/1.1 200 "), drip(peer, b"X")),
            "first_byte",
        ),
        "a body byte by byte": (
            "whole",
            lambda peer: (peer.send(head + b"content-length: 9999\r\n\r\n{"), drip(peer, b" ")),
            "total",
        ),
        "an error byte by byte": (
            "whole",
            lambda peer: (
                peer.send(b"HTTP/1.1 500 X\r\ncontent-length: 9999\r\n\r\n{"),
                drip(peer, b" "),
            ),
            "",
        ),
        "half a body": (
            "whole",
            lambda peer: (
                peer.send(head + b"content-length: 9999\r\n\r\n{"),
                peer.wait_for_close(),
            ),
            "idle",
        ),
        "signs of life": ("streamed", drip_stream(chunked(keep_alive)), "total"),
        "empty pieces": ("streamed", drip_stream(chunked(backend.dialect.says(""))), "total"),
        "half an event": (
            "streamed",
            lambda peer: (begin_stream(backend, peer, b"data: {"), peer.wait_for_close()),
            "idle",
        ),
        "a line letter by letter": ("streamed", drip_stream(b"1\r\nx\r\n"), "total"),
        "a stream that stops": (
            "streamed",
            lambda peer: (
                begin_stream(backend, peer, backend.dialect.says("Good")),
                peer.wait_for_close(),
            ),
            "idle",
        ),
    }


@each
async def test_timeouts_are_enforced_against_slow_servers(backend: Backend, serve: Serve) -> None:
    """All cases at once, each with a server of its own."""
    errors: dict[str, BaseException | None] = {}

    async def call(name: str, ask: str, answer: Answer) -> None:
        server = serve(answering(answer, fine(backend)))
        limits = md.Timeout(first_byte=0.25, idle=0.2, total=0.3)
        async with backend.connect(server.url, timeout=limits, retries=ONCE) as provider:
            try:
                await CALLS[ask](provider.model(backend.model))
                errors[name] = None
            except md.MajordomoError as error:
                errors[name] = error
        await all_closed(server)

    cases = slow_servers(backend)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for name, (ask, answer, _) in cases.items():
                group.start_soon(call, name, ask, answer)
    for name, (_, _, phase) in cases.items():
        error = errors[name]
        if phase:
            assert isinstance(error, md.DeadlineExceededError), name
            assert error.phase in (phase, "total"), name
            assert error.provider == backend.name.partition(" ")[0]
        else:
            assert isinstance(error, (md.BackendError, md.DeadlineExceededError)), name


# Retries

RETRY_AFTER: dict[str, tuple[bytes, int, float | None]] = {
    # The refusal, the number of requests, and `retry_after` of the error.
    "milliseconds": (
        http_response(b"", 429, {"retry-after-ms": "1.5", "retry-after": "500"}),
        2,
        None,
    ),
    "seconds": (http_response(b"", 503, {"retry-after": "0.01"}), 2, None),
    "a date that was": (
        http_response(b"", 529, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        2,
        None,
    ),
    "RetryInfo": (
        http_response(
            '{"error": {"code": 429, '
            '"details": [{"@type": "x.RetryInfo", "retryDelay": "0.01s"}]}}',
            429,
        ),
        2,
        None,
    ),
    "too long": (http_response(b"", 429, {"retry-after": "500"}), 1, 500.0),
    "too long in the body": (
        http_response(
            '{"error": {"details": [{"@type": "x.RetryInfo", "retryDelay": "900s"}]}}', 503
        ),
        1,
        900.0,
    ),
    "a date far away": (
        http_response(b"", 503, {"retry-after": formatdate(32503680000, usegmt=True)}),
        1,
        1e9,
    ),
    "no, in spite of the status": (
        http_response(b"", 503, {"x-should-retry": "false", "retry-after": "0"}),
        1,
        0.0,
    ),
    "quota": (
        http_response(
            '{"error": {"code": "insufficient_quota", "message": "x"}}', 429, {"retry-after": "0"}
        ),
        1,
        0.0,
    ),
    "nonsense": (
        http_response(
            b"", 503, {"retry-after": "soon", "retry-after-ms": "-1", "x-should-retry": "maybe"}
        ),
        2,
        None,
    ),
}


@each
async def test_retry_after_is_honored_or_the_call_fails_at_once(
    backend: Backend, serve: Serve
) -> None:
    async with anyio.create_task_group() as group:

        async def call(name: str, refusal: bytes, times: int, expected: float | None) -> None:
            for ask in CALLS.values():
                server = serve(answering(refusal, fine(backend)))
                async with backend.connect(
                    server.url, retries=md.Retries(initial_delay=0.001)
                ) as provider:
                    if times == 2:
                        check(backend.dialect, await ask(provider.model(backend.model)))
                    else:
                        with pytest.raises((md.RateLimitError, md.OverloadedError)) as caught:
                            await ask(provider.model(backend.model))
                        assert caught.value.retry_after is not None and expected is not None
                        assert min(caught.value.retry_after, 1e9) == pytest.approx(
                            expected, rel=0.9
                        ), name
                assert posts(server) == times, name

        for name, (refusal, times, expected) in RETRY_AFTER.items():
            group.start_soon(call, name, refusal, times, expected)


# Cancelling

PHASES = [
    "before the head",
    "in the head",
    "in the body",
    "before an event",
    "after an event",
    "before the next try",
]


@each
async def test_cancelling_in_any_phase_leaves_no_socket_and_the_next_call_works(
    backend: Backend, serve: Serve
) -> None:
    for phase in PHASES:
        for name, ask in CALLS.items():
            if name == "whole" and "event" in phase:
                continue
            reached = threading.Event()

            def stall(
                peer: Peer, phase: str = phase, name: str = name, reached: threading.Event = reached
            ) -> None:
                if phase == "before the next try":
                    peer.send(http_response(b"", 503, {"retry-after": "60"}))
                elif phase == "in the head":
                    peer.send(b"HTTP/1.1 200 X\r\nx-a: ")
                elif phase != "before the head" and name == "whole":
                    peer.send(
                        b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\n"
                        b"content-length: 99\r\n\r\n{"
                    )
                elif phase != "before the head":
                    begin_stream(
                        backend,
                        peer,
                        backend.dialect.says("Good") if phase == "after an event" else b"data: {",
                    )
                reached.set()
                # Before the next try, the connection is kept.
                if phase != "before the next try":
                    peer.wait_for_close()

            server = serve(answering(stall, fine(backend)))
            async with backend.connect(server.url) as provider:
                model = provider.model(backend.model)
                async with anyio.create_task_group() as group:
                    group.start_soon(ask, model)
                    await wait_until(reached.is_set, seconds=5)
                    # The client may still be on its way to its wait, and can be cancelled anywhere.
                    for _ in range(20):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
                with anyio.fail_after(5):
                    while (
                        phase != "before the next try"
                        and not server.peers[0].closed_by_client.is_set()
                    ):
                        await anyio.sleep(0.002)
                assert posts(server) == 1
                check(backend.dialect, await model.generate("hi"))
            await all_closed(server)


# Secrets


@each
async def test_a_key_echoed_by_the_server_is_in_no_error_log_or_traceback(
    backend: Backend, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    encoded, escaped = base64.b64encode(KEY.encode()).decode(), "sk-chat%2Fkey%2B1"
    quoted = [f"{KEY} is no key", f"{encoded} {escaped}"]
    failing = backend.dialect.failing.decode()
    answers: list[Answer] = [
        http_response({"error": {"message": message, "code": message, "param": message}}, status)
        for message in quoted
        for status in (200, 401, 500)
    ]
    answers += [
        http_response({"error": message}, status) for message in quoted for status in (200, 429)
    ]
    answers += [http_response(message, 200) for message in quoted]
    begin = b"" if "ndjson" in backend.kind else b"data: "
    for message in quoted:
        for data in (
            failing.replace("too busy", message).encode(),
            begin + message.encode() + b"\n\n",
            message.encode() + b"\n",
        ):
            answers.append(functools.partial(_send_stream, backend, data))
    server = serve(answering(*(answer for answer in answers for _ in CALLS)))
    async with backend.connect(
        server.url, retries=ONCE, headers={"x-extra": "other-secret"}
    ) as provider:
        for number, _ in enumerate(answers):
            for ask in CALLS.values():
                with pytest.raises(md.MajordomoError) as caught:
                    await ask(provider.model(backend.model))
                error = caught.value
                text = (
                    f"{error!r} {error} {error.to_dict()} {pickle.dumps(error)!r} "
                    f"{library_locals(error)} {provider!r} {vars(provider)}"
                )
                for secret in (KEY, encoded, escaped, "other-secret"):
                    assert secret not in text, (number, secret)
    for secret in (KEY, encoded, escaped, "other-secret"):
        assert secret not in caplog.text
    assert server.requests[0].headers["x-extra"] == "other-secret"
    # The HTTP library logs the heads of replies at DEBUG.
    server = serve(
        answering(
            http_response(b"", 400, {"x-request-id": KEY}),
            f"HTTP/1.1 200 X\r\n{KEY}\r\n\r\n".encode(),
        )
    )
    async with backend.connect(server.url, retries=ONCE) as provider:
        for _ in range(2):
            with pytest.raises(md.MajordomoError) as caught:
                await provider.model(backend.model).generate("hi")
            assert KEY not in f"{json.dumps(caught.value.to_dict())} {library_locals(caught.value)}"


@each
async def test_an_unsolicited_reply_is_never_used(backend: Backend, serve: Serve) -> None:
    """Two replies in one chunk: the second could be for another user's call."""
    unsolicited = json.dumps(backend.dialect.complete_response).replace(
        json.dumps("Grüße 🦊"), '"for another user"'
    )
    assert "another user" in unsolicited

    def stream(peer: Peer) -> None:
        begin_stream(backend, peer, backend.dialect.stream)
        peer.send(b"0\r\n\r\n" + http_response(unsolicited))

    server = serve(
        answering(fine(backend) + http_response(unsolicited), stream, stream, fine(backend))
    )
    async with backend.connect(server.url) as provider:
        model = provider.model(backend.model)
        for ask in ("whole", "streamed", "streamed", "whole", "whole"):
            check(backend.dialect, await CALLS[ask](model))
