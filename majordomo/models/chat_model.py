"""Chat models: options, checks, sync and async API, and the call to an HTTP backend.

`ChatModel` is everything that does not depend on how a reply is made; a subclass adds `_generate`
and `_stream`. `HTTPChatModel` is the subclass for every backend that has a codec.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from typing import Any, Unpack, cast

from majordomo import llm
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
from majordomo.dialects.request_body import check_extra, own_extra, refuse_unsupported
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    InvalidRequestError,
    MajordomoError,
)
from majordomo.llm.messages import as_messages
from majordomo.llm.model import Messages
from majordomo.llm.request import check_request
from majordomo.models.chat_stream import ChatCodec, HTTPChatSource, total_tokens
from majordomo.models.client import BackendClient
from majordomo.models.image_conversion import ImageConverter
from majordomo.observability import Observer
from majordomo.observability.observed_call import ObservedCall, ObservedSource, current_call
from majordomo.observability.request_settings import request_settings
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest


class ChatModel(llm.Model):
    """The base of all chat models: options, checks, observers, and the sync and async API.

    A subclass implements `_generate` and `_stream`.
    """

    def __init__(
        self,
        provider: str,
        id: str,
        options: Sequence[llm.Option] = (),
        *,
        limits: Limits,
        owned_provider: Any = None,
        observers: Sequence[Observer] = (),
        address: str = "",
    ) -> None:
        self.provider = provider
        self.id = id
        self._observers = observers
        self._address = address
        self._options = tuple(options)
        self._limits = limits
        self._owned_provider = owned_provider

    @property
    def provider_instance(self) -> llm.Provider | None:
        """The provider of this model, if it is known."""
        return cast("llm.Provider | None", self._owned_provider)

    @abstractmethod
    async def _generate(self, request: llm.Request) -> llm.Reply:
        """Return the reply to a checked request."""

    @abstractmethod
    def _stream(self, request: llm.Request) -> llm.ChatSource:
        """Return the source of a streamed reply. Nothing is sent yet."""

    def _build_request(
        self,
        messages: Messages | llm.Request,
        options: Sequence[llm.Option],
        overrides: llm.Overrides,
    ) -> llm.Request:
        """Return the request with all options applied. Raises InvalidRequestError."""
        try:
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
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return request

    async def _generate_observed(self, request: llm.Request) -> llm.Reply:
        if not self._observers:
            return await self._generate_with_retries(request)
        observed = self._observed(request)
        observed.start()
        return await observed.run(lambda: self._generate_with_retries(request))

    def _stream_observed(self, request: llm.Request) -> llm.ChatSource:
        if not self._observers:
            return self._stream(request)
        return ObservedSource(self._observed(request, streamed=True), lambda: self._stream(request))

    def _observed(self, request: llm.Request, *, streamed: bool = False) -> ObservedCall:
        context = {
            "user_id": request.user_id,
            "streamed": streamed,
            "address": self._address,
            "settings": request_settings(request),
        }
        return ObservedCall(self._observers, "chat", self.provider, self.id, request, **context)

    async def _generate_with_retries(self, request: llm.Request) -> llm.Reply:
        """Return the reply; ask again, with the error, while it does not match `output`.

        At most `request.output_retries` times. The model's answer and a correction are appended to
        the messages each time. Raises the last BadResponseError (`BAD_OUTPUT`) after that.
        """
        attempt = 0
        while True:
            try:
                return await self._generate(request)
            except BadResponseError as error:
                if error.code != "BAD_OUTPUT" or attempt >= request.output_retries:
                    raise
                attempt += 1
                if (observed := current_call()) is not None:
                    observed.record_retry(attempt, error, 0.0)
                request = _with_correction(request, error)

    async def generate(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Reply:
        """Send the messages and return the complete reply. See `llm.Model.generate`."""
        return await self._generate_observed(self._build_request(messages, options, overrides))

    def stream(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> AbstractAsyncContextManager[llm.Stream]:
        """Send the messages and stream the reply. See `llm.Model.stream`."""
        request = self._build_request(messages, options, overrides)
        return cast(
            "AbstractAsyncContextManager[llm.Stream]",
            EventStream(lambda: self._stream_observed(request)),
        )

    def generate_sync(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Reply:
        """Send the messages and return the complete reply (blocking)."""
        request = self._build_request(messages, options, overrides)
        return portal.run(lambda: self._generate_observed(request))

    def stream_sync(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> AbstractContextManager[llm.SyncStream]:
        """Send the messages and stream the reply (blocking)."""
        request = self._build_request(messages, options, overrides)
        return cast(
            "AbstractContextManager[llm.SyncStream]",
            SyncEventStream(lambda: self._stream_observed(request)),
        )

    async def aclose(self) -> None:
        """Close the provider if this model was created from a model string; else do nothing."""
        if self._owned_provider is not None:
            await self._owned_provider.aclose()

    def __repr__(self) -> str:
        return f"<chat model {self.provider}/{self.id}>"


def _with_correction(request: llm.Request, error: BadResponseError) -> llm.Request:
    """Append the answer that did not match `output`, and why it did not."""
    answer = str(error.details.get("text") or "(nothing)")
    correction = f"That does not fit: {error.message}. Answer again, with the JSON alone."
    return replace(
        request, messages=(*request.messages, llm.assistant(answer), llm.user(correction))
    )


class HTTPChatModel(ChatModel):
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
        owned_provider: Any = None,
    ) -> None:
        super().__init__(
            client.provider,
            id,
            options,
            limits=client.limits,
            owned_provider=owned_provider,
            observers=client.observers,
            address=client.address,
        )
        self._client = client
        self._codec = codec
        self._timeout = timeout
        self._strict = strict
        self._image_converter = ImageConverter(codec.image_support, client.limits)

    def _needs_no_conversion(self, request: llm.Request) -> bool:
        """Return whether the request can be encoded without awaiting anything."""
        return self._image_converter.accepts(request)

    async def _with_converted_images(
        self, request: llm.Request
    ) -> tuple[llm.Request, list[CallWarning]]:
        """Return the request with images that the backend can read, and warnings about changes."""
        try:
            return await self._image_converter.convert(request)
        except MajordomoError as error:
            raise error.with_context(self.provider, self.id) from None

    @property
    def provider_instance(self) -> llm.Provider | None:
        """The provider of this model."""
        return cast("llm.Provider | None", self._client.provider_instance)

    def _encode(
        self, request: llm.Request, *, stream: bool
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        try:
            request = (
                replace(
                    request,
                    extra=own_extra(request.extra, self.provider, self._client.provider_names),
                )
                if request.extra
                else request
            )
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

    async def _generate(self, request: llm.Request) -> llm.Reply:
        deadline = self._client.deadline(self._timeout, self.id)
        request, conversion_warnings = await self._with_converted_images(request)
        http_request, warnings = self._encode(request, stream=False)
        limit = self._codec.reply_limit(request, self._limits)

        async def attempt() -> llm.Reply:
            try:
                return self._codec.decode_reply(
                    await self._client.read_body(http_request, deadline, limit),
                    request,
                    self._limits,
                )
            except MajordomoError as error:
                # The frames of the traceback hold the body, which may quote a key.
                raise error.with_traceback(None) from error.__cause__

        admission = await self._client.admit(deadline, self.id, request.user_id)
        try:
            reply = await self._client.retry(attempt, self._client.retry_state(deadline, self.id))
            admission.release(total_tokens(reply))
        finally:
            admission.release()
        return self._with_context(reply, [*conversion_warnings, *warnings])

    def _stream(self, request: llm.Request) -> llm.ChatSource:
        warnings: list[CallWarning] = []

        def encode(
            request: llm.Request, conversion_warnings: Sequence[CallWarning] = ()
        ) -> HTTPRequest:
            http_request, encoding_warnings = self._encode(request, stream=True)
            warnings.extend([*conversion_warnings, *encoding_warnings])
            return http_request

        async def convert_and_encode() -> HTTPRequest:
            return encode(*await self._with_converted_images(request))

        # Encoded here when nothing has to be converted, so that errors are raised on entering.
        http_request = encode(request) if self._needs_no_conversion(request) else convert_and_encode
        return HTTPChatSource(
            self._client,
            self._codec,
            request,
            http_request,
            self._timeout,
            self.id,
            lambda reply: self._with_context(reply, warnings),
        )
