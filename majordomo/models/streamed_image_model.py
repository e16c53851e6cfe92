"""Images from a backend that streams progress in the reply: server-sent events or JSON lines."""

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
from majordomo.models.call_context import Emit
from majordomo.models.client import BackendCall, BackendClient, read_into
from majordomo.models.image_model import ReplyImageCodec, ReplyImageModel
from majordomo.models.sliced_stream import SlicedStream
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest, HTTPStream


class ImageStreamDecoder(Protocol):
    """A dialect's decoder of one streamed reply."""

    @property
    def complete(self) -> bool:
        """Whether the result has arrived."""

    def feed(self, chunk: bytes) -> Iterator[imagegen.ImageEvent]:
        """Yield the events that these bytes complete, decoded one by one as they are taken."""
        ...

    def finish(self) -> imagegen.Result:
        """Return the result. Raises StreamBrokenError when it has not arrived."""


class StreamedImageCodec(ReplyImageCodec, Protocol):
    """The client side of an image dialect with streams."""

    def supports_streaming(self, model: str, request: imagegen.Request) -> bool:
        """Return whether a stream gives more than the plain reply."""

    def encode_stream(self, model: str, request: imagegen.Request) -> HTTPRequest:
        """Return the request for a streamed reply."""

    def stream_decoder(self, request: imagegen.Request, limits: Limits) -> ImageStreamDecoder:
        """Return a decoder for one streamed reply to this request."""


class StreamedImageModel(ReplyImageModel):
    """Streams the reply where that reports progress to a listener; else asks for a plain one."""

    always = False
    """Whether to stream without a listener too, where steps are the only sign of progress."""

    def __init__(
        self, client: BackendClient, codec: StreamedImageCodec, *args: Any, **settings: Any
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._stream_codec = codec

    async def _generate_batch(
        self, request: imagegen.Request, call: BackendCall
    ) -> imagegen.Result:
        if not (call.streamed or self.always) or not self._stream_codec.supports_streaming(
            self.id, request
        ):
            return await super()._generate_batch(request, call)
        emit: Emit = call.emit or (lambda event: None)

        async def read(reply: HTTPStream) -> imagegen.Result:
            content_type = reply.headers.get("content-type", "")
            # Proxies and compatible servers may ignore `stream`.
            if "json" in content_type and "ndjson" not in content_type:
                decoder = await read_into(self._codec.reply_decoder(self._limits), reply)
                return self._codec.decode_reply(decoder, request, self._limits)
            if "html" in content_type:
                raise BadResponseError("the response is a web page, not a stream", code="NOT_JSON")
            return await self._read_stream(
                reply, self._stream_codec.stream_decoder(request, self._limits), emit
            )

        return await self._send_job(self._stream_codec.encode_stream(self.id, request), read, call)

    async def _read_stream(
        self, reply: HTTPStream, decoder: ImageStreamDecoder, emit: Emit
    ) -> imagegen.Result:
        sliced = SlicedStream(reply)
        while True:
            try:
                chunk = await sliced.read()
            except MajordomoError as error:
                if decoder.complete:
                    return decoder.finish()
                if isinstance(error, ConnectionFailedError):
                    raise StreamBrokenError(
                        f"the stream broke off: {error.message}", details=error.details
                    ) from None
                raise
            if not chunk:
                return decoder.finish()
            for event in decoder.feed(chunk):
                emit(event)
            if decoder.complete:
                await reply.finish()
                return decoder.finish()
