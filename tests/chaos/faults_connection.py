"""Connections that cannot be made, and such as break: at each stage, closed, reset or half-closed; TLS; names."""

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
from tests.support.loopback import Handler, Loopback, Peer, whole

COMPATIBLE = "openaicompatible"
BODY = json.dumps(chat_backend(COMPATIBLE).dialect.whole).encode()
WHOLE = whole(BODY)
HEAD = WHOLE[: -len(BODY)]
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"

# Where it breaks: what the server has said before
STAGES = {
    "without a word": b"",
    "in the first line": b"HTTP/1.1 2",
    "in the head": HEAD[:40],
    "behind the head": HEAD,
    "in the body": WHOLE[:-20],
    "before the last byte": WHOLE[:-1],
    "behind the head of chunks": CHUNKED,
    "in a chunk's number": CHUNKED + b"1",
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
        sends(said, then=how),
        LOST,
        retryable=True,
        kept=False,
        requests=1,
    )
    for stage, said in STAGES.items()
    for end, how in ENDS.items()
]

# A whole answer is one, whatever becomes of its connection (a reset may overtake it, so it is none of these)
BREAKS += [
    Fault(
        "connections that break",
        f"{end} behind {name}",
        sends(said, then=ENDS[end]),
        is_fine,
        kept=False,
    )
    for name, said in (("a whole answer", WHOLE), ("the last chunk", CHUNKED + chunked(BODY, b"")))
    for end in ("closed", "half-closed")
]


def _reads(size: int) -> Callable[[Peer], None]:
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


def _tidy(runner: Runner) -> bool:
    """httpx leaves the generator of a body half sent to the collector, of which trio warns."""
    return runner.own or runner.loop != "trio"


GREETINGS = [
    Fault(
        "connections that break",
        name,
        serve,
        LOST,
        greets=True,
        retryable=True,
        kept=False,
        only=_tidy,
    )
    for name, serve in {
        "closed as soon as accepted": Peer.close,
        "reset as soon as accepted": Peer.reset,
        "reset behind a byte of the request": _reads(1),
        "reset behind half the request": _reads(100),
        "garbage before the request": sends(b"220 mail.example.test ESMTP\r\n"),
    }.items()
]


def _early(peer: Peer) -> None:
    """The answer is there before the request."""
    peer.send(WHOLE)
    peer.request()
    while peer.request() is not None:
        peer.send(WHOLE)


GREETINGS.append(
    Fault(
        "connections that break",
        "an answer before the request",
        _early,
        lambda outcome: None,
        greets=True,
    )
)


# Nobody there


def _closed(handler: Handler) -> Loopback:
    server = Loopback(handler)
    server.close()
    return server


class _Full(Loopback):
    """A server that accepts nobody, and whose line of those who wait is full."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        super().close()
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(0)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._waiting = [socket.socket() for _ in range(4)]
        for one in self._waiting:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(("127.0.0.1", self.port))

    def close(self) -> None:
        super().close()
        for one in self._waiting:
            one.close()


def never(peer: Peer) -> None:
    raise AssertionError("nobody is asked")


def _nobody(name: str, kind: type[Exception], **more: Any) -> Fault:
    return Fault(
        "nobody there",
        name,
        never,
        kind,
        **{"next_works": False, "requests": 0, "retryable": True, **more},
    )


@contextlib.contextmanager
def _resolving(found: Callable[[str, int], list[Any]]) -> Iterator[None]:
    """Names are looked up here, not on the network."""
    real = socket.getaddrinfo

    def look_up(
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        # trio asks in its own thread whether it is a number, and only then in another one
        asked = name and name.endswith(".test") and not flags & socket.AI_NUMERICHOST
        return found(name, int(port)) if asked else real(host, port, family, type, proto, flags)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


def _v4(address: str, port: int) -> Any:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


def _v6(port: int) -> Any:
    return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))


def _unknown(name: str, port: int) -> list[Any]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _failing(name: str, port: int) -> list[Any]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def _slow(name: str, port: int) -> list[Any]:
    threading.Event().wait(0.6)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def _named(found: Callable[[str, int], list[Any]]) -> dict[str, Any]:
    return {
        "url": lambda server: f"http://backend.test:{server.port}",
        "around": lambda: _resolving(found),
    }


NOBODY = [
    _nobody("refused", md.ConnectionFailedError, listen=_closed, judge_own=lambda outcome: _says(outcome, "refused")),
    _nobody("a line that is full", md.DeadlineExceededError, listen=_Full, timeout=md.Timeout(connect=0.3, total=0.6)),
    _nobody("a name that nobody has", md.ConnectionFailedError, **_named(_unknown)),
    _nobody("a name server that fails", md.ConnectionFailedError, **_named(_failing)),
    _nobody("a name server that is slow", md.DeadlineExceededError, **_named(_slow), timeout=md.Timeout(connect=0.2, total=0.4)),
    _nobody("a name without addresses", md.ConnectionFailedError, **_named(lambda name, port: []), only=lambda runner: runner.own),
    _nobody("both addresses refuse", md.ConnectionFailedError, listen=_closed, **_named(lambda name, port: [_v6(port), _v4("127.0.0.1", port)])),
    Fault(
        "nobody there", "IPv6 refuses, IPv4 does not", lambda peer: peer.send(WHOLE), is_fine, kept=True,
        **_named(lambda name, port: [_v6(port), _v4("127.0.0.1", port)]),
    ),
    Fault(
        "nobody there", "the first of two addresses refuses", lambda peer: peer.send(WHOLE), is_fine, kept=True,
        **_named(lambda name, port: [_v4("127.0.0.2", port), _v4("127.0.0.1", port)]),
    ),
]  # fmt: skip


# TLS

OURS = "ours"


@functools.cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA()


@functools.cache
def _trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    _authority(OURS).configure_trust(context)
    return context


def _secured(*names: str, authority: str = OURS, **more: Any) -> Callable[[Handler], Loopback]:
    """A server with TLS whose certificate is for these names."""

    def listen(handler: Handler) -> Loopback:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _authority(authority).issue_cert(*(names or ("127.0.0.1",)), **more).configure_cert(context)
        return Loopback(handler, context)

    return listen


class _Refusing(Loopback):
    """A TLS server without a certificate, and so without a cipher that both know."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


def _untrusted(name: str, listen: Callable[[Handler], Loopback], words: str) -> Fault:
    return Fault(
        "TLS", name, never, md.ConnectionFailedError, listen=listen, trust=_trust, next_works=False, requests=0,
        retryable=False, judge_own=lambda outcome: _says(outcome, words), code="TLS_FAILED",
    )  # fmt: skip


def _says(outcome: Any, words: str) -> None:
    """Over our own sockets the reason is told."""
    assert words in outcome.error.message, outcome.error.message


def _plain_url(server: Loopback) -> str:
    return server.url.replace("https:", "http:")


def _secure_url(server: Loopback) -> str:
    return server.url.replace("http:", "https:")


def _secret_stage(data: bytes) -> Callable[[Peer], None]:
    """The connection breaks below TLS, without a farewell."""

    def serve(peer: Peer) -> None:
        peer.send(data)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(peer.socket, socket.SHUT_RDWR)

    return serve


TLS = [
    _untrusted("a certificate of somebody else's authority", _secured(authority="theirs"), "unable to get local issuer"),
    _untrusted("a certificate for another host", _secured("example.test"), "IP address mismatch"),
    _untrusted("a certificate that is over", _secured(not_after=YESTERDAY, not_before=YESTERDAY - datetime.timedelta(days=9)), "expired"),
    _untrusted("a certificate that is not yet good", _secured(not_before=YESTERDAY + datetime.timedelta(days=9), not_after=YESTERDAY + datetime.timedelta(days=19)), "not yet valid"),
    _untrusted("no certificate at all", _Refusing, "no TLS"),
    Fault("TLS", "the server speaks none", sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), md.ConnectionFailedError, greets=True, url=_secure_url, trust=_trust, next_works=False, code="TLS_FAILED", retryable=False),
    Fault("TLS", "only the server speaks it", never, LOST, listen=_secured(), url=_plain_url, next_works=False, requests=0, retryable=True, only=_tidy),
    *(
        Fault("TLS", f"the handshake is {name}", serve, md.ConnectionFailedError, greets=True, url=_secure_url, trust=_trust, next_works=False)
        for name, serve in {
            "closed": lambda peer: (peer.socket.recv(1), peer.close()),
            "reset": _reads(1),
            "answered with an alert": sends(b"\x15\x03\x01\x00\x02\x02\x28"),
            "answered with zeros": sends(b"\0" * 100),
            "cut in its first record": sends(b"\x16\x03\x03\x00\x7a\x02\x00\x00"),
        }.items()
    ),
    Fault("TLS", "a handshake that hangs", lambda peer: peer.wait_for_close(5), md.DeadlineExceededError, greets=True, url=_secure_url, trust=_trust,
          timeout=md.Timeout(connect=0.3, total=0.6), next_works=False, only=lambda runner: runner.own),  # httpx leaves that socket to the collector
    *(
        Fault("TLS", f"cut below it, {stage}", _secret_stage(said), LOST, listen=_secured(), trust=_trust, retryable=True, kept=False)
        for stage, said in STAGES.items()
    ),
    Fault("TLS", "closed with a farewell, behind the head", sends(HEAD), LOST, listen=_secured(), trust=_trust, kept=False),
    Fault("TLS", "a good answer", lambda peer: peer.send(WHOLE), is_fine, listen=_secured(), trust=_trust, kept=True),
    Fault("TLS", "a good answer, byte by byte", lambda peer: [peer.send(WHOLE[at : at + 1]) for at in range(len(WHOLE))], is_fine, listen=_secured(), trust=_trust, kept=True),
]  # fmt: skip

FAULTS = [*BREAKS, *GREETINGS, *NOBODY, *TLS]
