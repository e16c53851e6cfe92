"""Recorded exchanges, given again without a network."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import anyio.lowlevel

from majordomo.errors import ConfigurationError, UnsupportedError
from majordomo.redaction import Secret
from majordomo.testing.body_encoding import Files, cut
from majordomo.testing.cassette import Cassette
from majordomo.testing.errors import RecordingMissingError
from majordomo.testing.exchange import Exchange
from majordomo.testing.fake_transports import FakeReply, WrappingTransport
from majordomo.testing.request_matching import normalize_request
from majordomo.testing.scrubbing import make_redactor, several
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, MessageStream, Transport

Pieces = Literal["recorded", "whole"] | int


class FolderWrapper:
    """Exchanges in a folder, whether they are recorded into it or given again."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        secrets: str | Secret | Iterable[str | Secret],
        ignore: str | Iterable[str],
    ) -> None:
        self.cassette: Cassette = Cassette(folder)
        self.ignore: tuple[str, ...] = several(ignore)
        self._secrets = several(secrets)
        self.redact: Callable[[str], str] = make_redactor(self._secrets)

    @property
    def unused(self) -> list[str]:
        """Files nobody has asked for since this object was made."""
        return self.cassette.unused

    def hiding_also(self, redact: Callable[[str], str]) -> Callable[[str], str]:
        """What hides the secrets told here and what `hide` hides."""
        return make_redactor(self._secrets, redact)


class FolderTransport(WrappingTransport):
    """A port whose answers stand in a folder, or will."""

    def __init__(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> None:
        super().__init__(transport)
        self._base_path = base_path
        self._redact = redact

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        raise UnsupportedError(
            "a recording holds no websockets; what they tell is asked for another way",
            code="NO_WEBSOCKET",
        )


class Replay(FolderWrapper):
    """`transport=Replay("cassettes")`: the bytes that were recorded, in the order of asking; the backend is never reached.

    `pieces` says how an answer is cut: "recorded" as it came, "whole" in one, or a number of bytes. `secrets` and `ignore` as they were
    when it was recorded. Random ids that this library made (of ComfyUI's and A1111's jobs) are put in the place of those of then. Raises
    RecordingMissingError, which shows the difference to the nearest recorded request, and RecordingError for files that cannot be read.
    """

    inner = None

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        pieces: Pieces = "recorded",
        secrets: str | Secret | Iterable[str | Secret] = (),
        ignore: str | Iterable[str] = (),
    ) -> None:
        if pieces not in ("recorded", "whole") and (
            isinstance(pieces, bool) or not isinstance(pieces, int) or pieces < 1
        ):
            raise ConfigurationError(
                'pieces is "recorded", "whole" or a number of bytes from 1',
                details={"field": "pieces"},
            )
        super().__init__(folder, secrets, ignore)
        self.pieces = pieces

    def wrap(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> Transport:
        """See Wrapper. `port` is never opened."""
        return _ReplayTransport(self, transport, base_path, self.hiding_also(redact))

    def __repr__(self) -> str:
        return f"<Replay {self.cassette.folder}>"


class _ReplayTransport(FolderTransport):
    def __init__(
        self, replay: Replay, transport: Transport, base_path: str, redact: Callable[[str], str]
    ) -> None:
        super().__init__(transport, base_path, redact)
        self._replay = replay

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        self.check_open()
        settings = self._replay
        found = find_exchange(
            settings.cassette,
            request,
            self._base_path,
            settings.redact,
            self._redact,
            settings.ignore,
        )
        if isinstance(found, RecordingMissingError):
            raise found
        return await replay(found, deadline, settings.pieces)


@dataclass(frozen=True, slots=True)
class ReplayedExchange:
    """A recorded exchange and which random ids of then stand for which of now."""

    exchange: Exchange
    ids: dict[str, str]


def find_exchange(
    cassette: Cassette,
    request: HTTPRequest,
    base_path: str,
    own: Callable[[str], str],
    all_secrets: Callable[[str], str],
    ignore: Collection[str],
) -> ReplayedExchange | RecordingMissingError:
    """The next answer to this request, else the error that says why there is none."""
    # First without hiding the provider's key: in a replay it is often a word such as "test", which may stand in any text
    for redact in (own, all_secrets):
        asked = normalize_request(
            request, base_path, redact=redact, ignore=ignore, keep=Files().keep
        )
        if (found := cassette.find(asked)) is not None:
            return ReplayedExchange(*found)
    return cassette.missing(asked)


async def replay(
    taken: ReplayedExchange, deadline: Deadline, pieces: Pieces = "recorded"
) -> HTTPStream:
    """The recorded answer as a stream. Raises the recorded error when no answer had come."""
    deadline.start_phase("first_byte")
    await anyio.lowlevel.checkpoint()
    deadline.start_phase("idle")
    exchange = taken.exchange
    error = copy.copy(exchange.error)
    answer = exchange.response
    if answer is None:
        assert error is not None
        raise error
    if error is None and answer.ended == "left":
        error = RecordingMissingError(
            f"{exchange.name} ends here: when it was recorded, the answer was not read any further"
        )
    body = _with_ids_of_now(b"".join(answer.pieces), taken.ids)
    lengths: Iterable[int] = [len(piece) for piece in answer.pieces]
    if pieces != "recorded":
        size = len(body) if pieces == "whole" else pieces
        lengths = [size] * (len(body) // max(size, 1) + 1)
    return FakeReply(answer.status, answer.headers, cut(body, lengths), error)


def _with_ids_of_now(body: bytes, ids: dict[str, str]) -> bytes:
    """In text alone: an image that quotes its job has a checksum. All these ids are of one length, so the cuts stay where they are."""
    if not ids:
        return body
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body
    for then, now in ids.items():
        text = text.replace(then, now)
    return text.encode()
