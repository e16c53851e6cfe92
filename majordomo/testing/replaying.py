"""Replaying of recorded exchanges without a network."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import anyio.lowlevel

from majordomo.errors import ConfigurationError, UnsupportedError
from majordomo.redaction import Secret
from majordomo.testing.body_encoding import ImageStore, split_body
from majordomo.testing.cassette import Cassette
from majordomo.testing.errors import RecordingMissingError
from majordomo.testing.exchange import Exchange
from majordomo.testing.fake_transports import FakeReply, WrappingTransport
from majordomo.testing.request_matching import normalize_request
from majordomo.testing.scrubbing import as_tuple, make_redactor
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, MessageStream, Transport

ChunkSize = Literal["recorded", "body"] | int


class CassetteWrapper:
    """Base of `Recorder` and `Replay`: a folder of exchanges and how requests are compared."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        secrets: str | Secret | Iterable[str | Secret],
        ignore: str | Iterable[str],
    ) -> None:
        self.cassette: Cassette = Cassette(folder)
        self.ignore: tuple[str, ...] = as_tuple(ignore)
        self._secrets = as_tuple(secrets)
        self.redact: Callable[[str], str] = make_redactor(self._secrets)

    @property
    def unused(self) -> list[str]:
        """Names of the recordings that no request has used since this object was created."""
        return self.cassette.unused

    def combined_redactor(self, redact: Callable[[str], str]) -> Callable[[str], str]:
        """Return a redactor for the secrets of this object and those that `redact` removes."""
        return make_redactor(self._secrets, redact)


class CassetteTransport(WrappingTransport):
    """Base of the transports that record or replay. Websockets are refused."""

    def __init__(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> None:
        super().__init__(transport)
        self._base_path = base_path
        self._redact = redact

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        """Raise `UnsupportedError` (NO_WEBSOCKET); providers then poll over HTTP instead."""
        raise UnsupportedError(
            "recordings have no websockets; progress is requested over HTTP instead",
            code="NO_WEBSOCKET",
        )


class Replay(CassetteWrapper):
    """A transport that answers with recorded responses, in the order of the requests.

    The backend is never reached. Random ids that this library generated (for jobs of ComfyUI and
    A1111) are replaced with those of the current run.

    Args:
        folder: Where the recordings are.
        chunk_size: How a response body is split: "recorded" as it arrived, "body" in one chunk,
            or a number of bytes.
        secrets: As passed to `Recorder`.
        ignore: As passed to `Recorder`.

    Raises:
        ConfigurationError: `chunk_size` is not one of these.
        RecordingMissingError: In a call: the request is not recorded. The error shows how it
            differs from the most similar recorded request.
        RecordingError: In a call: a file cannot be read.

    Example:
        ```pycon
        >>> provider = md.OpenAI("no key", transport=Replay("tests/cassettes/openai"))
        ```
    """

    inner = None

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        chunk_size: ChunkSize = "recorded",
        secrets: str | Secret | Iterable[str | Secret] = (),
        ignore: str | Iterable[str] = (),
    ) -> None:
        if chunk_size not in ("recorded", "body") and (
            isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1
        ):
            raise ConfigurationError(
                'chunk_size must be "recorded", "body" or a number of bytes from 1; '
                f"got {chunk_size!r}",
                details={"field": "chunk_size"},
            )
        super().__init__(folder, secrets, ignore)
        self.chunk_size = chunk_size

    def wrap(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> Transport:
        """Return the replaying transport; `transport` is never used, only closed."""
        return _ReplayTransport(self, transport, base_path, self.combined_redactor(redact))

    def __repr__(self) -> str:
        return f"<Replay {self.cassette.folder}>"


class _ReplayTransport(CassetteTransport):
    def __init__(
        self, replay: Replay, transport: Transport, base_path: str, redact: Callable[[str], str]
    ) -> None:
        super().__init__(transport, base_path, redact)
        self._replay = replay

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Return the recorded response to the request."""
        self.check_open()
        settings = self._replay
        replayed = find_exchange(
            settings.cassette,
            request,
            self._base_path,
            settings.redact,
            self._redact,
            settings.ignore,
        )
        if isinstance(replayed, RecordingMissingError):
            raise replayed
        return await replay(replayed, deadline, settings.chunk_size)


@dataclass(frozen=True, slots=True)
class ReplayedExchange:
    """A recorded exchange that answers a request of this run."""

    exchange: Exchange
    """The recorded exchange."""
    ids: dict[str, str]
    """Map from recorded random ids to those of this run."""


def find_exchange(
    cassette: Cassette,
    request: HTTPRequest,
    base_path: str,
    redact_own: Callable[[str], str],
    redact_all: Callable[[str], str],
    ignore: Collection[str],
) -> ReplayedExchange | RecordingMissingError:
    """Return the next recorded exchange for a request, or the error that explains its absence.

    Args:
        cassette: Where to look.
        request: The request as it would be sent.
        base_path: Path of the provider's base URL.
        redact_own: Removes the secrets given to the recorder.
        redact_all: Removes the provider's key too.
        ignore: Names of members to ignore.
    """
    # First keep the provider's key: in a replay it is often a word such as "test", which may be
    # part of any text.
    for redact in (redact_own, redact_all):
        recorded_request = normalize_request(
            request, base_path, redact=redact, ignore=ignore, add_image=ImageStore().add
        )
        if (match := cassette.find(recorded_request)) is not None:
            return ReplayedExchange(*match)
    return cassette.missing(recorded_request)


async def replay(
    replayed: ReplayedExchange, deadline: Deadline, chunk_size: ChunkSize = "recorded"
) -> HTTPStream:
    """Return the recorded response as a stream.

    Raises:
        MajordomoError: The recorded error, when no response had arrived.
    """
    deadline.start_phase("first_byte")
    await anyio.lowlevel.checkpoint()
    deadline.start_phase("idle")
    exchange = replayed.exchange
    error = copy.copy(exchange.error)
    response = exchange.response
    if response is None:
        assert error is not None
        raise error
    if error is None and response.ended == "abandoned":
        error = RecordingMissingError(
            f"{exchange.name} ends here, because the response was not read any further when it "
            "was recorded"
        )
    body = _replace_ids(b"".join(response.chunks), replayed.ids)
    lengths: Iterable[int] = [len(chunk) for chunk in response.chunks]
    if chunk_size != "recorded":
        size = len(body) if chunk_size == "body" else chunk_size
        lengths = [size] * (len(body) // max(size, 1) + 1)
    return FakeReply(response.status, response.headers, split_body(body, lengths), error)


def _replace_ids(body: bytes, ids: dict[str, str]) -> bytes:
    """Replace recorded ids in a text body. Binary bodies stay: images have a checksum.

    Both ids of a pair have the same length, so the chunk boundaries stay valid.
    """
    if not ids:
        return body
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body
    for recorded, current in ids.items():
        text = text.replace(recorded, current)
    return text.encode()
