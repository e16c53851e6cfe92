"""Chat models: the public methods, checks, corrections of structured output, and HTTP backends.

`ChatModelBase` writes the four public methods once; `ChatModel` is the base of every model that
makes its replies itself, and `HTTPChatModel` that of every backend that has a codec. Chains are
`ChatModelBase`s too, with requests of their own kind. See `majordomo.models.base`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar, Unpack, cast

from majordomo import llm
from majordomo.concurrency import portal
from majordomo.dialects.request_body import check_extra, refuse_unsupported
from majordomo.errors import BadResponseError, CallWarning, InvalidRequestError, MajordomoError
from majordomo.llm.messages import as_messages
from majordomo.llm.model import Messages
from majordomo.llm.request import check_request
from majordomo.models.base import ForUser, HTTPModel, ModelBase
from majordomo.models.call_context import CallContext
from majordomo.models.chat_stream import ChatCodec, HTTPChatSource, total_tokens
from majordomo.models.client import BackendCall, BackendClient
from majordomo.models.image_conversion import ImageConverter
from majordomo.observability.observed_call import ObservedSource
from majordomo.observability.observer import Operation
from majordomo.observability.request_settings import request_settings
from majordomo.settings import Timeout
from majordomo.transport_types import HTTPRequest

R = TypeVar("R", bound=ForUser)
ChatSource = llm.EventSource[llm.ChatEvent, llm.Reply]
"""The source of a chat stream; its result is the reply so far."""


class ChatModelBase(ModelBase[R, llm.Reply], llm.Model):
    """The public methods of all chat models, over requests of type R."""

    operation: ClassVar[Operation] = "chat"

    @property
    def provider_instance(self) -> llm.Provider | None:
        """The provider of this model, if it is known."""
        return cast("llm.Provider | None", self._owned_provider)

    @abstractmethod
    def _build_request(
        self,
        messages: Messages | llm.Request,
        options: Sequence[llm.Option],
        overrides: llm.Overrides,
    ) -> R:
        """Return the checked request, with all options applied. Raises InvalidRequestError."""

    @abstractmethod
    def _open_source(self, request: R) -> ChatSource:
        """Return the source of a streamed reply. Nothing is sent yet."""

    async def generate(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Reply:
        """Send the messages and return the complete reply. See `llm.Model.generate`."""
        return await self._run(self._build_request(messages, options, overrides))

    def stream(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Stream:
        """Send the messages and stream the reply. See `llm.Model.stream`."""
        request = self._build_request(messages, options, overrides)
        return llm.Stream(lambda: self._open_source(request))

    def generate_sync(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Reply:
        """Send the messages and return the complete reply (blocking)."""
        request = self._build_request(messages, options, overrides)
        return portal.run(lambda: self._run(request))

    def stream_sync(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.SyncStream:
        """Send the messages and stream the reply (blocking)."""
        request = self._build_request(messages, options, overrides)
        return llm.SyncStream(lambda: self._open_source(request))


class ChatModel(ChatModelBase[llm.Request]):
    """The base of chat models that make their replies themselves.

    A subclass implements `_reply` and `_stream`.
    """

    @abstractmethod
    async def _reply(self, request: llm.Request, call: Any) -> llm.Reply:
        """Return the reply to a checked request. `call` is what `_start_call` returned."""

    @abstractmethod
    def _stream(self, request: llm.Request, call: Any) -> ChatSource:
        """Return the source of a streamed reply. Nothing is sent yet."""

    def _build_request(
        self,
        messages: Messages | llm.Request,
        options: Sequence[llm.Option],
        overrides: llm.Overrides,
    ) -> llm.Request:
        def build() -> llm.Request:
            request = (
                messages
                if isinstance(messages, llm.Request)
                else llm.Request(as_messages(messages))
            )
            request = request.with_defaults(self._options).apply(*options).override(**overrides)
            if not request.messages:
                raise InvalidRequestError("messages is empty", field="messages")
            check_request(request, self._limits)
            check_extra(request.extra)
            return request

        return self._checked(build)

    def _settings(self, request: llm.Request) -> Mapping[str, Any]:
        return request_settings(request)

    def _open_source(self, request: llm.Request) -> ChatSource:
        if not self._observers:
            call = self._start_call(request, None, None)
            call.streamed = True
            return self._stream(request, call)
        observed = self._observe(request, streamed=True)
        call = self._start_call(request, None, observed)
        # The events of a stream reach the observers through the `ObservedSource`.
        call.emit, call.streamed = None, True
        return ObservedSource(observed, lambda: self._stream(request, call))

    async def _generate(self, request: llm.Request, call: CallContext) -> llm.Reply:
        """Return the reply; ask again, with the error, while it does not match `output`.

        At most `request.output_retries` times. The model's answer and a correction are appended to
        the messages each time. Raises the last BadResponseError (`BAD_OUTPUT`) after that.
        """
        attempt = 0
        while True:
            try:
                return await self._reply(request, call)
            except BadResponseError as error:
                if error.code != "BAD_OUTPUT" or attempt >= request.output_retries:
                    raise
                attempt += 1
                call.report_retry(attempt, error, 0.0)
                request = _with_correction(request, error)
                # Each answer has time limits of its own.
                call = self._start_call(request, None, call.observed)


def _with_correction(request: llm.Request, error: BadResponseError) -> llm.Request:
    """Append the answer that did not match `output`, and why it did not."""
    answer = str(error.details.get("text") or "(nothing)")
    correction = f"That does not fit: {error.message}. Answer again, with the JSON alone."
    return replace(
        request, messages=(*request.messages, llm.assistant(answer), llm.user(correction))
    )


class HTTPChatModel(HTTPModel[llm.Request, llm.Reply], ChatModel):
    """A chat model of an HTTP backend: a codec and a client."""

    def __init__(
        self,
        client: BackendClient,
        codec: ChatCodec,
        id: str,
        options: Sequence[llm.Option] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
    ) -> None:
        super().__init__(client, id, options, timeout=timeout, strict=strict)
        self._codec = codec
        self._image_converter = ImageConverter(codec.image_support, client.limits)

    def _needs_no_conversion(self, request: llm.Request) -> bool:
        """Return whether the request can be encoded without awaiting anything."""
        return self._image_converter.accepts(request)

    async def _with_converted_images(
        self, request: llm.Request, call: BackendCall
    ) -> tuple[llm.Request, list[CallWarning]]:
        """Return the request with images that the backend can read, and warnings about changes."""
        try:
            return await self._image_converter.convert(request)
        except MajordomoError as error:
            raise error.with_context(self.provider, self.id) from None

    def _encode(
        self, request: llm.Request, *, stream: bool
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        try:
            if request.extra:
                request = replace(request, extra=self._own_extra(request.extra))
            http_request, warnings = self._codec.encode_request(self.id, request, stream=stream)
            refuse_unsupported(warnings, self._strict)
        except MajordomoError as error:
            raise error.with_context(self.provider, self.id) from None
        return http_request, warnings

    def _with_context(self, reply: llm.Reply, warnings: Sequence[CallWarning]) -> llm.Reply:
        return replace(
            reply,
            provider=self.provider,
            model=reply.model or self.id,
            warnings=(*warnings, *reply.warnings),
        )

    async def _reply(self, request: llm.Request, call: BackendCall) -> llm.Reply:
        request, conversion_warnings = await self._with_converted_images(request, call)
        http_request, warnings = self._encode(request, stream=False)
        limit = self._codec.reply_limit(request, self._limits)

        async def attempt() -> llm.Reply:
            try:
                return self._codec.decode_reply(
                    await call.read_body(http_request, limit), request, self._limits
                )
            except MajordomoError as error:
                # The frames of the traceback hold the body, which may quote a key.
                raise error.with_traceback(None) from error.__cause__

        reply = await self._run_admitted(call, lambda: call.retry(attempt), total_tokens)
        return self._with_context(reply, [*conversion_warnings, *warnings])

    def _stream(self, request: llm.Request, call: BackendCall) -> ChatSource:
        warnings: list[CallWarning] = []

        def encode(
            request: llm.Request, conversion_warnings: Sequence[CallWarning] = ()
        ) -> HTTPRequest:
            http_request, encoding_warnings = self._encode(request, stream=True)
            warnings.extend([*conversion_warnings, *encoding_warnings])
            return http_request

        async def convert_and_encode() -> HTTPRequest:
            return encode(*await self._with_converted_images(request, call))

        # Encoded here when nothing has to be converted, so that errors are raised on entering.
        http_request = encode(request) if self._needs_no_conversion(request) else convert_and_encode
        return HTTPChatSource(
            call,
            self._codec,
            request,
            http_request,
            lambda reply: self._with_context(reply, warnings),
        )
