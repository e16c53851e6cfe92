"""Real exchanges with a backend, kept in a folder and given again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from majordomo.errors import (
    BadResponseError,
    ConfigurationError,
    ConnectionFailedError,
    DeadlineExceededError,
    MajordomoError,
)
from majordomo.redaction import Secret
from majordomo.testing.body_encoding import Files, cut, hidden_body
from majordomo.testing.cassette import Cassette
from majordomo.testing.exchange import Ended, Exchange, RecordedResponse
from majordomo.testing.replaying import (
    FolderTransport,
    FolderWrapper,
    ReplayedExchange,
    find_exchange,
    replay,
)
from majordomo.testing.request_matching import normalize_request
from majordomo.testing.scrubbing import kept_headers, several
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, Transport

Mode = Literal["once", "replay", "all"]
MODES = ("once", "replay", "all")
WORTH_KEEPING = (
    ConnectionFailedError,
    DeadlineExceededError,
    BadResponseError,
)  # what a wire does; the rest is the program's


class Recorder(FolderWrapper):
    """`transport=Recorder("cassettes")`: exchanges go through `inner` and into the folder, one JSON file each.

    `mode`: "once" gives what is recorded and records what is missing; "replay" gives only what is recorded (as Replay does); "all" records
    everything anew. The key of the provider, `secrets` and whatever looks like the key of a known service never reach a file; of headers
    only those that decide something are kept, and those named in `headers`. `ignore`: members of request bodies that do not count, such as
    "seed". One folder for one backend: hosts are not compared. Websockets are refused. Raises RecordingMissingError ("replay")
    and RecordingError for files that cannot be read or written, or an image whose bytes hold a secret.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        inner: Any = None,
        *,
        mode: Mode = "once",
        secrets: str | Secret | Iterable[str | Secret] = (),
        ignore: str | Iterable[str] = (),
        headers: str | Iterable[str] = (),
    ) -> None:
        if mode not in MODES:
            raise ConfigurationError('mode is "once", "replay" or "all"', details={"field": "mode"})
        super().__init__(folder, secrets, ignore)
        self.inner = inner
        self.mode = mode
        self.headers: frozenset[str] = frozenset(name.lower() for name in several(headers))

    def wrap(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> Transport:
        """See Wrapper."""
        return _RecordingTransport(self, transport, base_path, self.hiding_also(redact))

    def __repr__(self) -> str:
        return f"<Recorder {self.cassette.folder} ({self.mode})>"


class _RecordingTransport(FolderTransport):
    def __init__(
        self, recorder: Recorder, transport: Transport, base_path: str, redact: Callable[[str], str]
    ) -> None:
        super().__init__(transport, base_path, redact)
        self._recorder = recorder

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        self.check_open()
        recorder, cassette = self._recorder, self._recorder.cassette
        if recorder.mode != "all":
            taken = find_exchange(
                cassette, request, self._base_path, recorder.redact, self._redact, recorder.ignore
            )
            if isinstance(taken, ReplayedExchange):
                return await replay(taken, deadline)
            if recorder.mode == "replay":
                raise taken
        sent = Files()
        asked = normalize_request(
            request, self._base_path, redact=self._redact, ignore=recorder.ignore, keep=sent.keep
        )
        kept = _PendingRecording(
            cassette, cassette.reserve(asked, anew=recorder.mode == "all"), sent, self._redact
        )
        try:
            reply = await self.port.open(request, deadline)
        except BaseException as error:
            kept.failed(error)
            raise
        return _RecordedReply(
            reply, kept, kept_headers(reply.headers, recorder.headers, self._redact)
        )


class _PendingRecording:
    """Where one exchange will be kept, once."""

    def __init__(
        self, cassette: Cassette, place: Exchange, sent: Files, redact: Callable[[str], str]
    ) -> None:
        self._cassette = cassette
        self._place: Exchange | None = place
        self._sent = sent
        self._redact = redact

    def failed(self, error: BaseException, answer: RecordedResponse | None = None) -> None:
        """An error of the wire is an answer too. Any other, and a cancellation, leaves no trace."""
        if isinstance(error, WORTH_KEEPING):
            self.save(answer, error)
        elif self._place is not None:
            self._cassette.release(self._place)
            self._place = None

    def save(self, answer: RecordedResponse | None, error: MajordomoError | None = None) -> None:
        place, self._place = self._place, None
        if place is None:
            return
        if answer is not None:
            body, lengths = hidden_body(answer.pieces, self._redact)
            answer = replace(answer, pieces=tuple(cut(body, lengths)))
        self._cassette.save(
            replace(place, response=answer, error=error), self._sent.met, self._redact
        )


class _RecordedReply:
    """An answer on its way through; it is written when it is over, or left."""

    def __init__(
        self, reply: HTTPStream, kept: _PendingRecording, headers: Mapping[str, str]
    ) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._reply = reply
        self._kept = kept
        self._kept_headers = headers
        self._pieces: list[bytes] = []

    async def read(self) -> bytes:
        try:
            piece = await self._reply.read()
        except MajordomoError as error:
            self._kept.failed(error, self._answer("left"))
            raise
        if piece:
            self._pieces.append(piece)
        else:
            self._kept.save(self._answer("whole"))
        return piece

    async def finish(self) -> None:
        await self._reply.finish()
        self._kept.save(self._answer("whole"))

    async def aclose(self) -> None:
        try:
            self._kept.save(self._answer("left"))
        finally:
            await self._reply.aclose()

    def _answer(self, ended: Ended) -> RecordedResponse:
        return RecordedResponse(self.status, self._kept_headers, tuple(self._pieces), ended)
