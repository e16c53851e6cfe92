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
from majordomo.testing.fake_transports import MadeReply, StandingPort
from majordomo.testing.request_matching import as_asked
from majordomo.testing.scrubbing import hider, several
from majordomo.transport_types import Deadline, MessageStream, Transport, WireRequest, WireStream

Pieces = Literal["recorded", "whole"] | int


class FolderWrapper:
    """Exchanges in a folder, whether they are recorded into it or given again."""

    def __init__(self, folder: str | os.PathLike[str], secrets: str | Secret | Iterable[str | Secret], ignore: str | Iterable[str]) -> None:
        self.cassette: Cassette = Cassette(folder)
        self.ignore: tuple[str, ...] = several(ignore)
        self._secrets = several(secrets)
        self.hide: Callable[[str], str] = hider(self._secrets)

    @property
    def unused(self) -> list[str]:
        """Files nobody has asked for since this object was made."""
        return self.cassette.unused

    def hiding_also(self, hide: Callable[[str], str]) -> Callable[[str], str]:
        """What hides the secrets told here and what `hide` hides."""
        return hider(self._secrets, hide)


class FolderPort(StandingPort):
    """A port whose answers stand in a folder, or will."""

    def __init__(self, port: Transport, base_path: str, hide: Callable[[str], str]) -> None:
        super().__init__(port)
        self._base_path = base_path
        self._hide = hide

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        raise UnsupportedError("a recording holds no websockets; what they tell is asked for another way", code="NO_WEBSOCKET")


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
        if pieces not in ("recorded", "whole") and (isinstance(pieces, bool) or not isinstance(pieces, int) or pieces < 1):
            raise ConfigurationError('pieces is "recorded", "whole" or a number of bytes from 1', details={"field": "pieces"})
        super().__init__(folder, secrets, ignore)
        self.pieces = pieces

    def around(self, port: Transport, base_path: str, hide: Callable[[str], str]) -> Transport:
        """See Wrapper. `port` is never opened."""
        return _ReplayingPort(self, port, base_path, self.hiding_also(hide))

    def __repr__(self) -> str:
        return f"<Replay {self.cassette.folder}>"


class _ReplayingPort(FolderPort):
    def __init__(self, replay: Replay, port: Transport, base_path: str, hide: Callable[[str], str]) -> None:
        super().__init__(port, base_path, hide)
        self._replay = replay

    async def open(self, request: WireRequest, deadline: Deadline) -> WireStream:
        self.check_open()
        replay = self._replay
        taken = take(replay.cassette, request, self._base_path, replay.hide, self._hide, replay.ignore)
        if isinstance(taken, RecordingMissingError):
            raise taken
        return await given_again(taken, deadline, replay.pieces)


@dataclass(frozen=True, slots=True)
class Taken:
    """A recorded exchange and which random ids of then stand for which of now."""

    exchange: Exchange
    ids: dict[str, str]


def take(
    cassette: Cassette,
    request: WireRequest,
    base_path: str,
    own: Callable[[str], str],
    all_secrets: Callable[[str], str],
    ignore: Collection[str],
) -> Taken | RecordingMissingError:
    """The next answer to this request, else the error that says why there is none."""
    # First without hiding the provider's key: in a replay it is often a word such as "test", which may stand in any text
    for hide in (own, all_secrets):
        asked = as_asked(request, base_path, hide=hide, ignore=ignore, keep=Files().keep)
        if (found := cassette.take(asked)) is not None:
            return Taken(*found)
    return cassette.missing(asked)


async def given_again(taken: Taken, deadline: Deadline, pieces: Pieces = "recorded") -> WireStream:
    """The recorded answer as a stream. Raises the recorded error when no answer had come."""
    deadline.enter("first_byte")
    await anyio.lowlevel.checkpoint()
    deadline.enter("idle")
    exchange = taken.exchange
    error = copy.copy(exchange.error)
    answer = exchange.answer
    if answer is None:
        assert error is not None
        raise error
    if error is None and answer.ended == "left":
        error = RecordingMissingError(f"{exchange.name} ends here: when it was recorded, the answer was not read any further")
    body = _with_ids_of_now(b"".join(answer.pieces), taken.ids)
    lengths: Iterable[int] = [len(piece) for piece in answer.pieces]
    if pieces != "recorded":
        size = len(body) if pieces == "whole" else pieces
        lengths = [size] * (len(body) // max(size, 1) + 1)
    return MadeReply(answer.status, answer.headers, cut(body, lengths), error)


def _with_ids_of_now(body: bytes, ids: dict[str, str]) -> bytes:
    """In text alone: a picture that quotes its job has a checksum. All these ids are of one length, so the cuts stay where they are."""
    if not ids:
        return body
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body
    for then, now in ids.items():
        text = text.replace(then, now)
    return text.encode()
