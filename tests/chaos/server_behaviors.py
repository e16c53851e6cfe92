"""What servers in these tables do, in few words."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from tests.chaos.fault import Outcome
from tests.support.loopback import Peer

Serve = Callable[[Peer], object]


def sends(*pieces: bytes, then: Callable[[Peer], object] | None = Peer.close) -> Serve:
    """These bytes, and then the connection is closed; with `then` None it stays open for the next request.

    The end comes with the last bytes: a client could send its next request between the two, and would be told that it failed.
    """

    def serve(peer: Peer) -> None:
        *first, last = pieces or (b"",)
        for piece in first:
            peer.send(piece)
        if then in (Peer.close, half_close):
            peer.send_and_end(last)
        else:
            peer.send(last)
        if then is not None:
            then(peer)

    return serve


def half_close(peer: Peer) -> None:
    """Nothing more will be said, but it could still be listened to."""
    with contextlib.suppress(OSError):
        peer.socket.shutdown(socket.SHUT_WR)
    peer.wait_for_close(5)


def stays(*pieces: bytes) -> Serve:
    """These bytes; the connection stays open, and the next request on it is answered well."""
    return sends(*pieces, then=None)


def hangs(*pieces: bytes) -> Serve:
    """These bytes, and then nothing until the client leaves."""
    return sends(*pieces, then=lambda peer: peer.wait_for_close(30))


def floods(*pieces: bytes, again: bytes) -> Serve:
    """These bytes, and then `again` until the client leaves."""

    def serve(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            for piece in pieces:
                peer.socket.sendall(piece)
            while True:
                peer.socket.sendall(again)

    return serve


def drips(*pieces: bytes, again: bytes, pause: float = 0.02) -> Serve:
    """These bytes, and then `again` every so many seconds until the client leaves."""

    def serve(peer: Peer) -> None:
        waiting = threading.Event()
        with contextlib.suppress(OSError):
            for piece in pieces:
                peer.socket.sendall(piece)
            while not waiting.wait(pause):
                peer.socket.sendall(again)

    return serve


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def is_fine(outcome: Outcome) -> None:
    """Odd, but an answer like any other."""
    if outcome.error is not None:
        raise AssertionError("it is no fault at all") from outcome.error
    outcome.fault.call.check(outcome.value)


def fine_or(*kinds: type[Exception]) -> Callable[[Outcome], object]:
    """Two readings are right: the answer as it is meant, or one of these errors."""

    def judge(outcome: Outcome) -> None:
        if outcome.error is None:
            is_fine(outcome)
        elif type(outcome.error) not in kinds:
            raise AssertionError(
                f"{type(outcome.error).__name__} is none of {[kind.__name__ for kind in kinds]}"
            ) from outcome.error

    return judge
