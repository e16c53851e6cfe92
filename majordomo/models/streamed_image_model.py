"""Images from a backend that shows them while it draws: server-sent events or JSON lines in the answer itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from majordomo import imagegen
from majordomo.errors import (
    BadResponseError,
    ConnectionFailedError,
    MajordomoError,
    StreamBrokenError,
)
from majordomo.models.client import BackendClient
from majordomo.models.image_model import Emit, ReplyImageCodec, ReplyImageModel
from majordomo.observability.observed_call import current_emit
from majordomo.settings import Limits
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream


class ImageStreamDecoder(Protocol):
    """A dialect's reading of a streamed answer."""

    @property
    def complete(self) -> bool: ...

    def feed(self, chunk: bytes) -> Iterator[imagegen.ImageEvent]:
        """The events that these bytes complete, one by one; nothing is read before they are taken."""
        ...

    def finish(self) -> imagegen.Result: ...


class StreamedImageCodec(ReplyImageCodec, Protocol):
    def supports_streaming(self, model: str, request: imagegen.Request) -> bool:
        """Whether a stream tells more than the plain answer."""

    def encode_stream(self, model: str, request: imagegen.Request) -> HTTPRequest: ...

    def stream_decoder(self, request: imagegen.Request, limits: Limits) -> ImageStreamDecoder: ...


class StreamedImageModel(ReplyImageModel):
    """Streams when somebody listens and there is something to tell; else asks for the plain answer."""

    always = (
        False  # whether to stream when nobody listens too: the steps may be the only sign of life
    )

    def __init__(
        self, client: BackendClient, codec: StreamedImageCodec, *args: Any, **settings: Any
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._streaming = codec

    async def _run(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        if (emit is None and not self.always) or not self._streaming.supports_streaming(
            self.id, request
        ):
            return await super()._run(request, deadline, emit)
        hear: Emit = emit or current_emit() or (lambda event: None)

        async def read(reply: HTTPStream) -> imagegen.Result:
            kind = reply.headers.get("content-type", "")
            if (
                "json" in kind and "ndjson" not in kind
            ):  # proxies and compatible servers ignore `stream`
                decoder = self._codec.reply_decoder(self._limits)
                while piece := await reply.read():
                    decoder.feed(piece)
                return self._codec.decode_reply(decoder, request, self._limits)
            if "html" in kind:
                raise BadResponseError("the answer is a web page, not a stream", code="NOT_JSON")
            return await self._read_stream(
                reply, self._streaming.stream_decoder(request, self._limits), hear
            )

        return await self._send_job(
            self._streaming.encode_stream(self.id, request), read, deadline, emit
        )

    async def _read_stream(
        self, reply: HTTPStream, decoder: ImageStreamDecoder, emit: Emit
    ) -> imagegen.Result:
        while True:
            try:
                piece = await reply.read()
            except MajordomoError as error:
                if decoder.complete:
                    return decoder.finish()
                if isinstance(error, ConnectionFailedError):
                    raise StreamBrokenError(
                        f"the stream broke off: {error.message}", details=error.details
                    ) from None
                raise
            if not piece:
                return decoder.finish()
            for event in decoder.feed(piece):
                emit(event)
            if decoder.complete:
                await reply.finish()
                return decoder.finish()
