"""The chat model of the offline provider: streams the answers of the rule-based chat."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import checkpoint

from majordomo import llm
from majordomo.dialects.request_body import (
    UNSUPPORTED,
    other_fields,
    refuse_unsupported,
    unsupported,
)
from majordomo.errors import CallWarning, MajordomoError
from majordomo.llm.reply import empty_reply
from majordomo.llm.tools import read_output
from majordomo.models.call_context import CallContext
from majordomo.models.chat_model import ChatModel
from majordomo.offline.rule_chat import NOTE, answer

if TYPE_CHECKING:
    from majordomo.offline.provider import Offline

_FIELDS = ("max_tokens", "stop", "seed")


class OfflineChatModel(ChatModel):
    """The rule-based chat as a chat model. Create it with `Offline.model`."""

    def __init__(self, provider: Offline, id: str, options: Sequence[llm.Option]) -> None:
        super().__init__(
            provider.name, id, options, limits=provider._limits, observers=provider._observers
        )
        self._offline = provider
        self._timeout = provider._timeout

    @property
    def provider_instance(self) -> Offline:
        """The provider that created this model."""
        return self._offline

    async def _reply(self, request: llm.Request, call: CallContext) -> llm.Reply:
        source = self._stream(request, call)
        while await source.next_events():
            pass
        return source.result

    def _stream(self, request: llm.Request, call: CallContext) -> _ReplySource:
        warnings = unsupported(
            request,
            [*other_fields(request, _FIELDS), "extra"],
            "the offline chat answers by rules",
        )
        if any(
            isinstance(part, llm.FilePart) for message in request.messages for part in message.parts
        ):
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    "files are not read: the offline chat reads only images",
                    "messages",
                )
            )
        try:
            refuse_unsupported(warnings, self._offline._strict)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return _ReplySource(self._offline, call, request, warnings)


class _ReplySource:
    """Streams one answer word by word; a word counts as a token for `max_tokens`."""

    def __init__(
        self,
        offline: Offline,
        call: CallContext,
        request: llm.Request,
        warnings: Sequence[CallWarning],
    ) -> None:
        self._offline = offline
        self._model = call.model
        self._request = request
        self._warnings = tuple(warnings)
        self._deadline = call.deadline
        self._sent_words: list[str] = []
        self._remaining_words: Iterator[str] | None = None
        self._finish_reason: llm.FinishReason = "stop"
        self._final_reply: llm.Reply | None = None

    @property
    def result(self) -> llm.Reply:
        """The final reply, or the text so far."""
        if self._final_reply is not None:
            return self._final_reply
        if not self._sent_words:
            return empty_reply(self._model, self._offline.name)
        return self._build_reply(llm.assistant("".join(self._sent_words)), "unknown")

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        """Return the next events; none after `Done`."""
        if self._final_reply is not None:
            return ()
        try:
            if self._remaining_words is None:
                response = await self._offline.run_in_thread(
                    lambda: answer(self._request), self._deadline
                )
                if response.call is not None:
                    return self._tool_call_events(response.call)
                self._remaining_words = iter(self._limited_words(response.text))
            else:
                # Other backends wait for the network here. Do as they do, so that other tasks
                # run and a cancellation is noticed.
                await checkpoint()
        except MajordomoError as error:
            error.with_context(self._offline.name, self._model)
            raise
        word = next(self._remaining_words, None)
        if word is not None:
            self._sent_words.append(word)
            return [llm.TextDelta(word)]
        text = "".join(self._sent_words)
        output = (
            read_output(self._request.output, text) if self._request.output is not None else None
        )
        return [self._done(llm.assistant(text), self._finish_reason, output)]

    def _limited_words(self, text: str) -> list[str]:
        """Split the text into words, up to a stop sequence or `max_tokens`."""
        stops = [index for stop in self._request.stop if (index := text.find(stop)) >= 0]
        words = re.findall(r"\S+\s*|\s+", text[: min(stops)] if stops else text)
        max_words = self._request.max_tokens
        if max_words is not None and len(words) > max_words:
            self._finish_reason = "length"
            return words[:max_words]
        return words

    def _tool_call_events(self, call: llm.ToolCallPart) -> list[llm.ChatEvent]:
        return [
            llm.ToolCallStarted(0, call.id, call.name),
            llm.ToolCallDelta(0, call.arguments_json),
            llm.ToolCall(0, call),
            self._done(llm.assistant(call), "tool_calls"),
        ]

    def _done(self, message: llm.Message, reason: llm.FinishReason, output: Any = None) -> llm.Done:
        self._final_reply = self._build_reply(message, reason, output)
        return llm.Done(self._final_reply)

    def _build_reply(
        self, message: llm.Message, reason: llm.FinishReason, output: Any = None
    ) -> llm.Reply:
        raw = {"engine": "majordomo offline chat", "neural_network": False, "note": NOTE}
        return llm.Reply(
            message,
            reason,
            model=self._model,
            provider=self._offline.name,
            output=output,
            warnings=self._warnings,
            raw=raw,
        )

    async def aclose(self) -> None:
        """Do nothing: no resource is open between two calls of `next_events`."""
