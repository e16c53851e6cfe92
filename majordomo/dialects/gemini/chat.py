"""Gemini's generateContent as a chat.

Sources: pydantic-ai at 4fda389, vercel/ai at ed857f5, recorded traffic of the developer API and of Vertex up to August 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from majordomo.dialects.chat_accumulator import (
    ChatAccumulator,
    ChatStreamDecoder,
    as_json,
    as_objects,
    as_text,
    as_token_count,
)
from majordomo.dialects.conversation import (
    arguments_of,
    attachments,
    merge_system_messages,
    normalize_tool_ids,
    own_thinking,
    refuse_misplaced,
    text_of,
    tool_results,
)
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.gemini.images import LARGEST_SEED, without_bytes
from majordomo.dialects.gemini.partial_arguments import PartialArguments
from majordomo.dialects.gemini.usage import tokens_by_modality, usage_by_modality
from majordomo.dialects.image_fields import parse_base64_image
from majordomo.dialects.request_body import UNSUPPORTED, json_request
from majordomo.errors import BadResponseError, CallWarning, ContentRefusedError, plain_text
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object
from majordomo.framing.lines import EventDecoder
from majordomo.llm import (
    ChatEvent,
    FilePart,
    ImagePart,
    Message,
    Part,
    Reply,
    Request,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from majordomo.llm.reply import FinishReason
from majordomo.llm.tools import output_schema
from majordomo.media.image_limits import COMMON_FORMATS, ImageSupport
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

# What Google's SDK puts where a call was not made by this model: base64 of "skip_thought_signature_validator"
SENTINEL = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
# Steps of hosted tools: they go back as they came, signatures included
_HOSTED = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")
_BUDGET = {"off": 0, "low": 1024, "medium": 8192, "high": 24576}
_VERSION = re.compile(r"gemini-(\d{1,3})")
_CONFIG = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "max_tokens": "maxOutputTokens",
}


@dataclass(frozen=True, slots=True)
class GeminiChatCodec:
    """Client door of one `model`: signatures of another one are never sent."""

    model: str
    provider: str = "gemini"
    image_support: ImageSupport = COMMON_FORMATS

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """The request, and what of it will not happen as asked."""
        warnings: list[CallWarning] = []
        splices = Splices()
        messages = normalize_tool_ids(request.messages)
        body: dict[str, Any] = {"contents": self._contents(messages, splices, warnings, model)}
        if said := [
            {"text": part.text}
            for m in messages
            if m.role == "system"
            for part in m.parts
            if isinstance(part, TextPart)
        ]:
            body["systemInstruction"] = {"parts": said}
        warnings += merge_system_messages(messages)
        config: dict[str, Any] = {
            word: value
            for name, word in _CONFIG.items()
            if (value := getattr(request, name)) is not None
        }
        if request.stop:
            config["stopSequences"] = list(request.stop[:5])
            if len(request.stop) > 5:
                warnings.append(
                    CallWarning(
                        UNSUPPORTED,
                        "Gemini takes five stop texts: the first five were sent",
                        "stop",
                    )
                )
        if request.seed is not None and request.seed > LARGEST_SEED:
            warnings.append(
                CallWarning(UNSUPPORTED, f"Gemini's seeds go up to {LARGEST_SEED}", "seed")
            )
        elif request.seed is not None:
            config["seed"] = request.seed
        if request.output is not None:
            config |= {
                "responseMimeType": "application/json",
                "responseJsonSchema": output_schema(request.output),
            }
        if request.reasoning is not None:
            config["thinkingConfig"] = _thinking(request.reasoning, _generation(model), warnings)
        if config:
            body["generationConfig"] = config
        if request.tools:
            body["tools"] = [
                {
                    "functionDeclarations": [
                        {
                            "name": t.name,
                            "description": t.description,
                            "parametersJsonSchema": dict(t.parameters),
                        }
                        for t in request.tools
                    ]
                }
            ]
            if request.tool_choice is not None:
                mode = {"auto": "AUTO", "none": "NONE"}.get(request.tool_choice, "ANY")
                calling: dict[str, Any] = {"mode": mode}
                if request.tool_choice not in ("auto", "none", "required"):
                    calling["allowedFunctionNames"] = [request.tool_choice]
                body["toolConfig"] = {"functionCallingConfig": calling}
        # Without alt=sse the stream is one JSON array
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return json_request(
            f"/models/{quote(model, safe='')}:{method}", body, request.extra, splices, stream=stream
        ), warnings

    def _contents(
        self, messages: list[Message], splices: Splices, warnings: list[CallWarning], model: str
    ) -> list[dict[str, Any]]:
        """User and model in turn. All results of a step stand in one content; images of other models move to the user's next."""
        contents: list[dict[str, Any]] = []
        drawn: list[dict[str, Any]] = []
        for message in messages:
            if message.role == "system":
                continue
            parts: list[dict[str, Any]] = []
            if message.role == "assistant":
                parts = self._assistant_parts(message.parts, splices, drawn, model)
            elif message.role == "tool":
                for result in tool_results(message):
                    parts += _result(result, splices, _generation(model))
            else:
                parts, drawn = drawn, []
                for part in message.parts:
                    refuse_misplaced(part)
                    parts += _part(part, splices)
            if not parts:  # "no content may have empty parts"
                continue
            role = "model" if message.role == "assistant" else "user"
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"] += parts
            else:
                contents.append({"role": role, "parts": parts})
        if drawn:
            contents.append({"role": "user", "parts": drawn})
        if contents and contents[0]["role"] == "model":  # "a call turn must follow a user turn"
            warnings.append(
                CallWarning(
                    "HISTORY_CHANGED",
                    "a conversation begins with the user here: a turn was put first",
                    "messages",
                )
            )
            contents.insert(0, {"role": "user", "parts": [{"text": "(the conversation so far)"}]})
        return contents

    def _assistant_parts(
        self, parts: tuple[Part, ...], splices: Splices, drawn: list[dict[str, Any]], model: str
    ) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        signature: str | None = None
        called = False
        for part in parts:
            if isinstance(part, ThinkingPart):
                if own_thinking(part, self.provider, model) and isinstance(
                    part.opaque.get("part"), dict
                ):
                    said.append(part.opaque["part"])
                elif own_thinking(part, self.provider, model) and (
                    found := as_text(part.opaque.get("signature"))
                ):
                    if part.opaque.get("on") == "nothing":
                        said.append(
                            {"text": "", "thoughtSignature": found}
                        )  # "never drop an empty text part that has one"
                    else:
                        signature = found
                continue
            signed: dict[str, Any] = {"thoughtSignature": signature} if signature else {}
            if isinstance(part, ToolCallPart):
                if not signed and not called and _generation(model) >= 3:
                    signed = {"thoughtSignature": SENTINEL}
                called = True
                said.append(
                    {"functionCall": {"id": part.id, "name": part.name, "args": arguments_of(part)}}
                    | signed
                )
            elif isinstance(part, ImagePart) and not signature:
                drawn += [{"text": "(from the model's turn above)"}, *_part(part, splices)]
            else:
                refuse_misplaced(part)
                said += [made | signed for made in _part(part, splices)]
            signature = None
        return said

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """The reply in a whole answer. Raises ContentRefusedError when the prompt was blocked, BadResponseError for what is no answer."""
        document = decode_object(body, limits.max_json_depth)
        if "error" in document and not document.get("candidates"):
            raise build_error(200, error_value(document), {})
        answer = GeminiAccumulator(request, limits, self.provider, self.model)
        events: list[ChatEvent] = []
        answer.chunk(document, events)
        if not isinstance(document.get("candidates"), list):
            raise BadResponseError('the answer has no list "candidates"')
        answer.close(events)
        return answer.reply(whole=True, raw=without_bytes(document))

    def stream_decoder(self, request: Request, limits: Limits) -> GeminiStreamDecoder:
        return GeminiStreamDecoder(
            GeminiAccumulator(request, limits, self.provider, self.model),
            EventDecoder(limits.max_image_event_bytes),
            limits,
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        return (
            limits.max_image_reply_bytes
        )  # "image parts … up to 3 MB, sometimes bigger than the image"


class GeminiAccumulator(ChatAccumulator):
    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "STOP": "stop",
        "MAX_TOKENS": "length",
        **dict.fromkeys(
            (
                "SAFETY",
                "RECITATION",
                "BLOCKLIST",
                "PROHIBITED_CONTENT",
                "SPII",
                "IMAGE_SAFETY",
                "IMAGE_PROHIBITED_CONTENT",
                "IMAGE_RECITATION",
                "MODEL_ARMOR",
            ),
            "content_filter",
        ),
        **dict.fromkeys(
            (
                "LANGUAGE",
                "MALFORMED_FUNCTION_CALL",
                "UNEXPECTED_TOOL_CALL",
                "NO_IMAGE",
                "MALFORMED_RESPONSE",
                "MISSING_THOUGHT_SIGNATURE",
                "TOO_MANY_TOOL_CALLS",
                "OTHER",
            ),
            "error",
        ),
    }

    def __init__(self, request: Request, limits: Limits, owner: str, asked: str) -> None:
        super().__init__(request, limits, owner)
        self._asked = asked
        self._pieces: PartialArguments | None = None  # of the last call, while it is still written

    def chunk(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        feedback = document.get("promptFeedback")
        if isinstance(feedback, dict) and (reason := as_text(feedback.get("blockReason"))):
            message = plain_text(as_text(feedback.get("blockReasonMessage")) or "", 500)
            raise ContentRefusedError(
                f"Gemini refused the prompt ({reason}) {message}".strip(),
                details={"reason": reason},
            )
        self.model: str = as_text(document.get("modelVersion")) or self.model
        if isinstance(usage := document.get("usageMetadata"), dict):
            self.usage: Usage = _usage(usage)  # cumulative, "and may shrink: take the last"
        for candidate in as_objects(document.get("candidates"))[:1]:
            content = candidate.get("content")
            for part in as_objects(content.get("parts") if isinstance(content, dict) else None):
                self._take(part, events)
            self.finish_reason: str | None = (
                as_text(candidate.get("finishReason")) or self.finish_reason
            )

    def _take(self, part: dict[str, Any], events: list[ChatEvent]) -> None:
        text, call, inline = part.get("text"), part.get("functionCall"), part.get("inlineData")
        signature = as_text(part.get("thoughtSignature"))
        if any(name in part for name in _HOSTED):
            self.attach_opaque({"part": part, "model": self._asked}, apart=True)
            return
        if part.get("thought") is True:
            if isinstance(text, str):
                self.add_thinking(text, events)  # drafts of images are no answer
            return
        if signature:
            # It belongs to this part and goes back on it, so it is kept just before it
            self.attach_opaque(
                {
                    "signature": signature,
                    **({"fallback_on": "nothing"} if text == "" else {}),
                    "model": self._asked,
                },
                apart=True,
            )
        if isinstance(call, dict):
            self._take_call(call, events)
        elif isinstance(inline, dict) and str(inline.get("mimeType", "")).startswith("image/"):
            self.add_image(
                parse_base64_image(as_text(inline.get("data")) or "", self._limits), events
            )
        elif isinstance(text, str):
            self.add_text(text, events)
        if signature:
            self.end_part()

    def _take_call(self, call: dict[str, Any], events: list[ChatEvent]) -> None:
        """A call comes whole, or (`streamFunctionCallArguments`) as its name, then pieces, then an empty one that closes it."""
        name, arguments = as_text(call.get("name")), call.get("args")
        goes_on, pieces = call.get("willContinue") is True, as_objects(call.get("partialArgs"))
        if name:
            self._end_pieces(events)
            if arguments or not (goes_on or pieces):
                self.add_call(as_text(call.get("id")) or "", name, as_json(arguments or {}), events)
                return
            self.start_call(as_text(call.get("id")) or "", name, events)
            self._pieces = PartialArguments(self._limits.max_json_depth)
        if self._pieces is None:
            return
        for piece in pieces:
            self.add_arguments(self.calls - 1, self._pieces.feed(piece), events)
        if not goes_on:
            self._end_pieces(events)

    def _end_pieces(self, events: list[ChatEvent]) -> None:
        if self._pieces is not None:
            self.add_arguments(self.calls - 1, self._pieces.close(), events)
            self.end_call(self.calls - 1, events)
            self._pieces = None


class GeminiStreamDecoder(ChatStreamDecoder):
    """There is no end mark: whole when the bytes end after some chunk had a finishReason."""

    accumulator: GeminiAccumulator

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        self.accumulator.chunk(document, events)
        self.complete: bool = self.accumulator.finish_reason is not None


def _result(result: ToolResultPart, splices: Splices, generation: int) -> list[dict[str, Any]]:
    """`response` must be an object: text that is a JSON object goes in as that object, any other is wrapped."""
    text = text_of(result.parts)
    response: Any = None
    if result.is_error:
        response = {"error": text}
    elif text.lstrip().startswith("{"):
        try:
            response = json.loads(text)
        except (ValueError, RecursionError):
            response = None
    if not isinstance(response, dict):
        response = {"result": text}
    answered: dict[str, Any] = {"id": result.call_id, "name": result.name, "response": response}
    files = [made for part in attachments(result.parts) for made in _part(part, splices)]
    if files and generation >= 3:
        answered["parts"] = files
        files = []
    return [{"functionResponse": answered}, *files]


def _part(part: Part, splices: Splices) -> list[dict[str, Any]]:
    if isinstance(part, TextPart):
        return [{"text": part.text}] if part.text else []
    if isinstance(part, (ImagePart, FilePart)):
        return [{"inlineData": {"mimeType": part.mime, "data": splices.base64(part)}}]
    return []


def _thinking(wish: str | int, generation: int, warnings: list[CallWarning]) -> dict[str, Any]:
    """Models before Gemini 3 take a number of tokens, later ones a level; never both."""
    shown: dict[str, Any] = {} if wish == "off" else {"includeThoughts": True}
    if generation < 3:
        return shown | {"thinkingBudget": wish if isinstance(wish, int) else _BUDGET[wish]}
    if isinstance(wish, int):
        warnings.append(
            CallWarning(
                UNSUPPORTED,
                "this model takes low, medium and high, not a number of tokens",
                "reasoning",
            )
        )
        return shown
    if wish == "off":
        warnings.append(
            CallWarning(
                UNSUPPORTED,
                "this model always thinks; it was asked to think as little as it can",
                "reasoning",
            )
        )
        return {"thinkingLevel": "MINIMAL"}
    return shown | {"thinkingLevel": wish.upper()}


def _generation(model: str) -> int:
    """3 of gemini-3-pro; a name without a number is taken for a newer one."""
    found = _VERSION.search(model)
    return int(found[1]) if found else 3


def _usage(usage: dict[str, Any]) -> Usage:
    """Of this dialect: "zero and false fields are omitted": within usage a missing count is 0."""
    asked, tools, made, thought = (
        as_token_count(usage.get(name)) or 0
        for name in (
            "promptTokenCount",
            "toolUsePromptTokenCount",
            "candidatesTokenCount",
            "thoughtsTokenCount",
        )
    )
    read = usage_by_modality(usage, "promptTokensDetails", "toolUsePromptTokensDetails")
    written = usage_by_modality(usage, "candidatesTokensDetails")
    return Usage(
        asked + tools,
        made + thought,
        as_token_count(usage.get("cachedContentTokenCount")) or 0,
        thought,
        text_input_tokens=tokens_by_modality(read, "TEXT", "DOCUMENT"),
        image_input_tokens=tokens_by_modality(read, "IMAGE"),
        audio_input_tokens=tokens_by_modality(read, "AUDIO"),
        text_output_tokens=tokens_by_modality(written, "TEXT", "DOCUMENT"),
        image_output_tokens=tokens_by_modality(written, "IMAGE"),
        audio_output_tokens=tokens_by_modality(written, "AUDIO"),
    )
