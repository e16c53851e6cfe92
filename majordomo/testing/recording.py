"""Recording of real exchanges with a backend into a folder."""

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
from majordomo.testing.body_encoding import ImageStore, redact_chunks, split_body
from majordomo.testing.cassette import Cassette
from majordomo.testing.exchange import Ended, Exchange, RecordedResponse
from majordomo.testing.replaying import (
    CassetteTransport,
    CassetteWrapper,
    ReplayedExchange,
    find_exchange,
    replay,
)
from majordomo.testing.request_matching import normalize_request
from majordomo.testing.scrubbing import as_tuple, filter_headers
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, Transport

Mode = Literal["once", "replay", "all"]
MODES = ("once", "replay", "all")
# Errors of the network or the backend. All other errors come from the program.
RECORDED_ERRORS = (ConnectionFailedError, DeadlineExceededError, BadResponseError)


class Recorder(CassetteWrapper):
    """A transport that sends requests through `inner` and records the exchanges.

    The folder gets one JSON file per exchange. Hosts are not recorded, so use one folder per
    backend. Secrets never reach a file: the provider's key, `secrets`, and anything with the shape
    of a well-known service's key are replaced. Of the response headers, only those that affect a
    call and those in `headers` are recorded; request headers are not. Websockets are refused.

    Args:
        folder: Where the recordings are.
        inner: The transport that sends the requests; the default transport when None.
        mode: "once" replays what is recorded and records what is missing, "replay" only replays
            (as `Replay` does), and "all" replaces every recording.
        secrets: Further secrets to remove.
        ignore: Names of members of request bodies to ignore when requests are compared, such as
            "seed".
        headers: Further response headers to record.

    Raises:
        ConfigurationError: `mode` is not one of the three.
        RecordingMissingError: In a call: a request is not recorded, in mode "replay".
        RecordingError: In a call: a file cannot be read or written, or an image contains a
            secret (SECRET_IN_IMAGE).

    Example:
        ```pycon
        >>> provider = md.OpenAI(transport=Recorder("tests/cassettes/openai"))
        ```
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
            raise ConfigurationError(
                f'mode must be "once", "replay" or "all"; got {mode!r}', details={"field": "mode"}
            )
        super().__init__(folder, secrets, ignore)
        self.inner = inner
        self.mode = mode
        self.headers: frozenset[str] = frozenset(name.lower() for name in as_tuple(headers))

    def wrap(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> Transport:
        """Return the recording transport around `transport`; see `TransportWrapper.wrap`."""
        return _RecordingTransport(self, transport, base_path, self.combined_redactor(redact))

    def __repr__(self) -> str:
        return f"<Recorder {self.cassette.folder} ({self.mode})>"


class _RecordingTransport(CassetteTransport):
    def __init__(
        self, recorder: Recorder, transport: Transport, base_path: str, redact: Callable[[str], str]
    ) -> None:
        super().__init__(transport, base_path, redact)
        self._recorder = recorder

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Replay the response if it is recorded; otherwise send the request and record it."""
        self.check_open()
        recorder, cassette = self._recorder, self._recorder.cassette
        if recorder.mode != "all":
            replayed = find_exchange(
                cassette, request, self._base_path, recorder.redact, self._redact, recorder.ignore
            )
            if isinstance(replayed, ReplayedExchange):
                return await replay(replayed, deadline)
            if recorder.mode == "replay":
                raise replayed
        request_images = ImageStore()
        recorded_request = normalize_request(
            request,
            self._base_path,
            redact=self._redact,
            ignore=recorder.ignore,
            add_image=request_images.add,
        )
        pending = _PendingRecording(
            cassette,
            cassette.reserve(recorded_request, replace_existing=recorder.mode == "all"),
            request_images,
            self._redact,
        )
        try:
            reply = await self.inner.open(request, deadline)
        except BaseException as error:
            pending.record_failure(error)
            raise
        return _RecordingStream(
            reply, pending, filter_headers(reply.headers, recorder.headers, self._redact)
        )


class _PendingRecording:
    """An exchange that is saved or released once; later calls have no effect."""

    def __init__(
        self,
        cassette: Cassette,
        exchange: Exchange,
        request_images: ImageStore,
        redact: Callable[[str], str],
    ) -> None:
        self._cassette = cassette
        self._exchange: Exchange | None = exchange
        self._request_images = request_images
        self._redact = redact

    def record_failure(
        self, error: BaseException, response: RecordedResponse | None = None
    ) -> None:
        """Save an error of the network or the backend. Release on others and on cancellation."""
        if isinstance(error, RECORDED_ERRORS):
            self.save(response, error)
        elif self._exchange is not None:
            self._cassette.release(self._exchange)
            self._exchange = None

    def save(self, response: RecordedResponse | None, error: MajordomoError | None = None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if response is not None:
            body, lengths = redact_chunks(response.chunks, self._redact)
            response = replace(response, chunks=tuple(split_body(body, lengths)))
        self._cassette.save(
            replace(exchange, response=response, error=error),
            self._request_images.images_by_name,
            self._redact,
        )


class _RecordingStream:
    """Passes a response through, and saves it when it ends or is closed."""

    def __init__(
        self, reply: HTTPStream, pending: _PendingRecording, headers: Mapping[str, str]
    ) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._reply = reply
        self._pending = pending
        self._recorded_headers = headers
        self._chunks: list[bytes] = []

    async def read(self) -> bytes:
        try:
            chunk = await self._reply.read()
        except MajordomoError as error:
            self._pending.record_failure(error, self._response("abandoned"))
            raise
        if chunk:
            self._chunks.append(chunk)
        else:
            self._pending.save(self._response("complete"))
        return chunk

    async def finish(self) -> None:
        await self._reply.finish()
        self._pending.save(self._response("complete"))

    async def aclose(self) -> None:
        try:
            self._pending.save(self._response("abandoned"))
        finally:
            await self._reply.aclose()

    def _response(self, ended: Ended) -> RecordedResponse:
        return RecordedResponse(self.status, self._recorded_headers, tuple(self._chunks), ended)
