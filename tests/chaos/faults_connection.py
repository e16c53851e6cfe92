"""Faults of connections: refused, broken at each stage, TLS and name resolution."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

import majordomo as md
from tests.chaos.fault import Fault, Runner, chat_backend
from tests.chaos.server_behaviors import chunked, half_close, is_fine, sends
from tests.support.loopback import Handler, Loopback, Peer, http_response

COMPATIBLE = "openaicompatible"
BODY = json.dumps(chat_backend(COMPATIBLE).dialect.complete_response).encode()
WHOLE = http_response(BODY)
HEAD = WHOLE[: -len(BODY)]
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"

# The stage at which the connection breaks, and the bytes that the server has sent by then.
STAGES = {
    "before any byte": b"",
    "in the status line": b"HTTP/1.1 2",
    "in the headers": HEAD[:40],
    "after the headers": HEAD,
    "in the body": WHOLE[:-20],
    "before the last byte": WHOLE[:-1],
    "after the headers of a chunked body": CHUNKED,
    "in a chunk size": CHUNKED + b"1",
    "in a chunk": CHUNKED + chunked(BODY)[:50],
    "between chunks": CHUNKED + chunked(BODY),
    "in the last chunk": CHUNKED + chunked(BODY) + b"0\r\n",
}
LOST = (md.ConnectionFailedError, md.BadResponseError)


ENDS: dict[str, Callable[[Peer], object]] = {
    "closed": Peer.close,
    "reset": Peer.reset,
    "half-closed": half_close,
}

BREAKS = [
    Fault(
        "connections that break",
        f"{end} {stage}",
        sends(sent, then=end_connection),
        LOST,
        retryable=True,
        reuses_connection=False,
        requests=1,
    )
    for stage, sent in STAGES.items()
    for end, end_connection in ENDS.items()
]

# A complete response is valid whatever happens to its connection afterwards. A reset is not tried
# here, because it may overtake the response.
BREAKS += [
    Fault(
        "connections that break",
        f"{end} after {name}",
        sends(sent, then=ENDS[end]),
        is_fine,
        reuses_connection=False,
    )
    for name, sent in (
        ("a complete response", WHOLE),
        ("the last chunk", CHUNKED + chunked(BODY, b"")),
    )
    for end in ("closed", "half-closed")
]


def _reset_after_reading(size: int) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        if size:
            peer.socket.recv(size)
        peer.reset()

    return serve


def _deaf(peer: Peer) -> None:
    """It listens no more, but has accepted."""
    with contextlib.suppress(OSError):
        peer.socket.shutdown(socket.SHUT_RD)
    peer.wait_for_close(5)


def _not_httpx_with_trio(runner: Runner) -> bool:
    """Exclude httpx with trio.

    httpx leaves the generator of a half-sent body to the garbage collector, and trio warns.
    """
    return runner.own or runner.loop != "trio"


GREETINGS = [
    Fault(
        "connections that break",
        name,
        serve,
        LOST,
        greets=True,
        retryable=True,
        reuses_connection=False,
        only=_not_httpx_with_trio,
    )
    for name, serve in {
        "closed as soon as accepted": Peer.close,
        "reset as soon as accepted": Peer.reset,
        "reset after a byte of the request": _reset_after_reading(1),
        "reset after half the request": _reset_after_reading(100),
        "garbage before the request": sends(b"220 mail.example.test ESMTP\r\n"),
    }.items()
]


def _respond_before_request(peer: Peer) -> None:
    """Send the response before the request arrives."""
    peer.send(WHOLE)
    peer.request()
    while peer.request() is not None:
        peer.send(WHOLE)


GREETINGS.append(
    Fault(
        "connections that break",
        "a response before the request",
        _respond_before_request,
        lambda outcome: None,
        greets=True,
    )
)


# No server


def _closed_server(handler: Handler) -> Loopback:
    server = Loopback(handler)
    server.close()
    return server


class _FullBacklog(Loopback):
    """A server that accepts no connection and whose backlog is full."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        super().close()
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(0)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._pending = [socket.socket() for _ in range(4)]
        for pending in self._pending:
            pending.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                pending.connect(("127.0.0.1", self.port))

    def close(self) -> None:
        super().close()
        for pending in self._pending:
            pending.close()


def never(peer: Peer) -> None:
    """Fail: no request may arrive."""
    raise AssertionError("no request may arrive")


def _unreachable(name: str, kind: type[Exception], **more: Any) -> Fault:
    return Fault(
        "unreachable servers",
        name,
        never,
        kind,
        **{"next_works": False, "requests": 0, "retryable": True, **more},
    )


@contextlib.contextmanager
def _use_resolver(resolve: Callable[[str, int], list[Any]]) -> Iterator[None]:
    """Resolve names under `.test` with a function instead of the network."""
    real = socket.getaddrinfo

    def look_up(
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name of the parameter of socket.getaddrinfo
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        # trio asks in its own thread whether it is a number, and only then in another pending
        is_lookup = name and name.endswith(".test") and not flags & socket.AI_NUMERICHOST
        return (
            resolve(name, int(port)) if is_lookup else real(host, port, family, type, proto, flags)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


def _v4(address: str, port: int) -> Any:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


def _v6(port: int) -> Any:
    return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))


def _resolve_unknown(name: str, port: int) -> list[Any]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _resolve_failing(name: str, port: int) -> list[Any]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def _resolve_slowly(name: str, port: int) -> list[Any]:
    threading.Event().wait(0.6)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def _with_resolver(resolve: Callable[[str, int], list[Any]]) -> dict[str, Any]:
    return {
        "url": lambda server: f"http://backend.test:{server.port}",
        "around": lambda: _use_resolver(resolve),
    }


UNREACHABLE = [
    _unreachable(
        "refused",
        md.ConnectionFailedError,
        listen=_closed_server,
        judge_own=lambda outcome: _check_message(outcome, "refused"),
    ),
    _unreachable(
        "a full backlog",
        md.DeadlineExceededError,
        listen=_FullBacklog,
        timeout=md.Timeout(connect=0.3, total=0.6),
    ),
    _unreachable("an unknown name", md.ConnectionFailedError, **_with_resolver(_resolve_unknown)),
    _unreachable(
        "a failing name server", md.ConnectionFailedError, **_with_resolver(_resolve_failing)
    ),
    _unreachable(
        "a slow name server",
        md.DeadlineExceededError,
        **_with_resolver(_resolve_slowly),
        timeout=md.Timeout(connect=0.2, total=0.4),
    ),
    _unreachable(
        "a name without addresses",
        md.ConnectionFailedError,
        **_with_resolver(lambda name, port: []),
        only=lambda runner: runner.own,
    ),
    _unreachable(
        "both addresses refuse",
        md.ConnectionFailedError,
        listen=_closed_server,
        **_with_resolver(lambda name, port: [_v6(port), _v4("127.0.0.1", port)]),
    ),
    Fault(
        "unreachable servers",
        "IPv6 refuses, IPv4 does not",
        lambda peer: peer.send(WHOLE),
        is_fine,
        reuses_connection=True,
        **_with_resolver(lambda name, port: [_v6(port), _v4("127.0.0.1", port)]),
    ),
    Fault(
        "unreachable servers",
        "the first of two addresses refuses",
        lambda peer: peer.send(WHOLE),
        is_fine,
        reuses_connection=True,
        **_with_resolver(lambda name, port: [_v4("127.0.0.2", port), _v4("127.0.0.1", port)]),
    ),
]


# TLS

TRUSTED = "trusted"


@functools.cache
def _certificate_authority(name: str) -> trustme.CA:
    return trustme.CA()


@functools.cache
def _client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    _certificate_authority(TRUSTED).configure_trust(context)
    return context


def _tls_server(
    *names: str, authority: str = TRUSTED, **more: Any
) -> Callable[[Handler], Loopback]:
    """Return a function that creates a TLS server with a certificate for these names."""

    def listen(handler: Handler) -> Loopback:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _certificate_authority(authority).issue_cert(
            *(names or ("127.0.0.1",)), **more
        ).configure_cert(context)
        return Loopback(handler, context)

    return listen


class _WithoutCertificate(Loopback):
    """A TLS server without a certificate, and so without a common cipher."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


def _untrusted(name: str, listen: Callable[[Handler], Loopback], text: str) -> Fault:
    return Fault(
        "TLS",
        name,
        never,
        md.ConnectionFailedError,
        listen=listen,
        trust=_client_tls,
        next_works=False,
        requests=0,
        retryable=False,
        judge_own=lambda outcome: _check_message(outcome, text),
        code="TLS_FAILED",
    )


def _check_message(outcome: Any, text: str) -> None:
    """Check the reason in the message, which only our own sockets give."""
    assert text in outcome.error.message, outcome.error.message


def _http_url(server: Loopback) -> str:
    return server.url.replace("https:", "http:")


def _https_url(server: Loopback) -> str:
    return server.url.replace("http:", "https:")


def _cut_below_tls(data: bytes) -> Callable[[Peer], None]:
    """Break the connection below TLS, without a close_notify alert."""

    def serve(peer: Peer) -> None:
        peer.send(data)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(peer.socket, socket.SHUT_RDWR)

    return serve


TLS = [
    _untrusted(
        "a certificate of an unknown authority",
        _tls_server(authority="other"),
        "unable to get local issuer",
    ),
    _untrusted(
        "a certificate for another host", _tls_server("example.test"), "IP address mismatch"
    ),
    _untrusted(
        "an expired certificate",
        _tls_server(not_after=YESTERDAY, not_before=YESTERDAY - datetime.timedelta(days=9)),
        "expired",
    ),
    _untrusted(
        "a certificate that is not yet valid",
        _tls_server(
            not_before=YESTERDAY + datetime.timedelta(days=9),
            not_after=YESTERDAY + datetime.timedelta(days=19),
        ),
        "not yet valid",
    ),
    _untrusted("no certificate at all", _WithoutCertificate, "TLS connection to"),
    Fault(
        "TLS",
        "a server without TLS",
        sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        md.ConnectionFailedError,
        greets=True,
        url=_https_url,
        trust=_client_tls,
        next_works=False,
        code="TLS_FAILED",
        retryable=False,
    ),
    Fault(
        "TLS",
        "a client without TLS",
        never,
        LOST,
        listen=_tls_server(),
        url=_http_url,
        next_works=False,
        requests=0,
        retryable=True,
        only=_not_httpx_with_trio,
    ),
    *(
        Fault(
            "TLS",
            f"the handshake is {name}",
            serve,
            md.ConnectionFailedError,
            greets=True,
            url=_https_url,
            trust=_client_tls,
            next_works=False,
        )
        for name, serve in {
            "closed": lambda peer: (peer.socket.recv(1), peer.close()),
            "reset": _reset_after_reading(1),
            "answered with an alert": sends(b"\x15\x03\x01\x00\x02\x02\x28"),
            "answered with zeros": sends(b"\0" * 100),
            "cut in its first record": sends(b"\x16\x03\x03\x00\x7a\x02\x00\x00"),
        }.items()
    ),
    Fault(
        "TLS",
        "a handshake that hangs",
        lambda peer: peer.wait_for_close(5),
        md.DeadlineExceededError,
        greets=True,
        url=_https_url,
        trust=_client_tls,
        timeout=md.Timeout(connect=0.3, total=0.6),
        next_works=False,
        only=lambda runner: runner.own,
    ),  # httpx leaves that socket to the garbage collector
    *(
        Fault(
            "TLS",
            f"cut below TLS, {stage}",
            _cut_below_tls(sent),
            LOST,
            listen=_tls_server(),
            trust=_client_tls,
            retryable=True,
            reuses_connection=False,
        )
        for stage, sent in STAGES.items()
    ),
    Fault(
        "TLS",
        "closed with close_notify, after the headers",
        sends(HEAD),
        LOST,
        listen=_tls_server(),
        trust=_client_tls,
        reuses_connection=False,
    ),
    Fault(
        "TLS",
        "a valid response",
        lambda peer: peer.send(WHOLE),
        is_fine,
        listen=_tls_server(),
        trust=_client_tls,
        reuses_connection=True,
    ),
    Fault(
        "TLS",
        "a valid response, byte by byte",
        lambda peer: [peer.send(WHOLE[at : at + 1]) for at in range(len(WHOLE))],
        is_fine,
        listen=_tls_server(),
        trust=_client_tls,
        reuses_connection=True,
    ),
]

FAULTS = [*BREAKS, *GREETINGS, *UNREACHABLE, *TLS]
