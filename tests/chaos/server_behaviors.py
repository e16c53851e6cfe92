"""Behaviors of the servers in the fault tables."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from tests.chaos.fault import Outcome
from tests.support.loopback import Peer

Serve = Callable[[Peer], object]


def sends(*parts: bytes, then: Callable[[Peer], object] | None = Peer.close) -> Serve:
    """Send these bytes and close the connection; with `then` None it stays open.

    The connection is ended together with the last bytes. Otherwise a client could send its next
    request between the two, and that request would fail.
    """

    def serve(peer: Peer) -> None:
        *first, last = parts or (b"",)
        for part in first:
            peer.send(part)
        if then in (Peer.close, half_close):
            peer.send_and_end(last)
        else:
            peer.send(last)
        if then is not None:
            then(peer)

    return serve


def half_close(peer: Peer) -> None:
    """Shut down the sending side only and wait for the client to close."""
    with contextlib.suppress(OSError):
        peer.socket.shutdown(socket.SHUT_WR)
    peer.wait_for_close(5)


def stays(*parts: bytes) -> Serve:
    """Send these bytes; the connection stays open and its next request is answered correctly."""
    return sends(*parts, then=None)


def hangs(*parts: bytes) -> Serve:
    """Send these bytes, then nothing until the client closes."""
    return sends(*parts, then=lambda peer: peer.wait_for_close(30))


def floods(*parts: bytes, repeated: bytes) -> Serve:
    """Send these bytes, then `repeated` until the client closes."""

    def serve(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            for part in parts:
                peer.socket.sendall(part)
            while True:
                peer.socket.sendall(repeated)

    return serve


def drips(*parts: bytes, repeated: bytes, pause: float = 0.02) -> Serve:
    """Send these bytes, then `repeated` every `pause` seconds until the client closes."""

    def serve(peer: Peer) -> None:
        stopped = threading.Event()
        with contextlib.suppress(OSError):
            for part in parts:
                peer.socket.sendall(part)
            while not stopped.wait(pause):
                peer.socket.sendall(repeated)

    return serve


def chunked(*parts: bytes) -> bytes:
    """Return each part as a chunk of the chunked transfer coding."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def is_fine(outcome: Outcome) -> None:
    """Judge that the call succeeded: the response is unusual but valid."""
    if outcome.error is not None:
        raise AssertionError("the response is valid and must be accepted") from outcome.error
    outcome.fault.call.check(outcome.value)


def fine_or(*kinds: type[Exception]) -> Callable[[Outcome], object]:
    """Return a judge that accepts the correct answer or one of these errors."""

    def judge(outcome: Outcome) -> None:
        if outcome.error is None:
            is_fine(outcome)
        elif type(outcome.error) not in kinds:
            raise AssertionError(
                f"{type(outcome.error).__name__} is none of {[kind.__name__ for kind in kinds]}"
            ) from outcome.error

    return judge
