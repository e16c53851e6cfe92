"""Gemini's generateContent as a chat.

Sources: pydantic-ai at 4fda389, vercel/ai at ed857f5, recorded traffic of the developer API and of
Vertex up to August 2026.
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
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.gemini.images import MAX_SEED, without_image_bytes
from majordomo.dialects.gemini.partial_arguments import PartialArguments
from majordomo.dialects.gemini.usage import tokens_by_modality, usage_by_modality
from majordomo.dialects.image_fields import parse_base64_image
from majordomo.dialects.request_body import (
    UNSUPPORTED,
    json_request,
    named_values,
    other_fields,
    unsupported,
)
from majordomo.errors import BadResponseError, CallWarning, ContentRefusedError, plain_text
from majordomo.framing.base64_placeholders import Base64Placeholders
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

# The signature that Google's SDK puts on a tool call that this model did not make: base64 of
# "skip_thought_signature_validator".
SENTINEL = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="

# Steps of hosted tools. They are sent back unchanged, signatures included.
_HOSTED_TOOL_PARTS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")
_THINKING_BUDGETS = {"off": 0, "low": 1024, "medium": 8192, "high": 24576}
_GENERATION = re.compile(r"gemini-(\d{1,3})")
_CONFIG_FIELDS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "max_tokens": "maxOutputTokens",
}
_MAX_STOP_SEQUENCES = 5


@dataclass(frozen=True, slots=True)
class GeminiChatCodec:
    """Client-side codec for chats with one Gemini model."""

    model: str
    """The model. Thought signatures of another model are never sent to it."""
    provider: str = "gemini"
    """Name of the provider whose thinking parts are sent back."""
    image_support: ImageSupport = COMMON_FORMATS
    """The images that the API accepts. Other images are converted first."""

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """Return the HTTP request, and a warning for each field that has no or another effect."""
        warnings: list[CallWarning] = []
        placeholders = Base64Placeholders()
        messages = normalize_tool_ids(request.messages)
        body: dict[str, Any] = {
            "contents": self._encode_contents(messages, placeholders, warnings, model)
        }
        if instructions := [
            {"text": part.text}
            for message in messages
            if message.role == "system"
            for part in message.parts
            if isinstance(part, TextPart)
        ]:
            body["systemInstruction"] = {"parts": instructions}
        warnings += merge_system_messages(messages)
        config = named_values(request, _CONFIG_FIELDS)
        others = other_fields(request, (*_CONFIG_FIELDS, "stop", "seed", "reasoning"))
        warnings += unsupported(request, others, "Gemini has no such field")
        if request.stop:
            config["stopSequences"] = list(request.stop[:_MAX_STOP_SEQUENCES])
            if len(request.stop) > _MAX_STOP_SEQUENCES:
                warnings.append(
                    CallWarning(
                        UNSUPPORTED,
                        f"Gemini accepts at most {_MAX_STOP_SEQUENCES} stop sequences; "
                        f"got {len(request.stop)}, sent the first {_MAX_STOP_SEQUENCES}",
                        "stop",
                    )
                )
        if request.seed is not None and request.seed > MAX_SEED:
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    f"seed has no effect: it must be at most {MAX_SEED} for Gemini; "
                    f"got {request.seed}",
                    "seed",
                )
            )
        elif request.seed is not None:
            config["seed"] = request.seed
        if request.output is not None:
            config |= {
                "responseMimeType": "application/json",
                "responseJsonSchema": output_schema(request.output),
            }
        if request.reasoning is not None:
            config["thinkingConfig"] = _thinking_config(
                request.reasoning, _generation(model), warnings
            )
        if config:
            body["generationConfig"] = config
        if request.tools:
            body["tools"] = [
                {
                    "functionDeclarations": [
                        {
                            "name": tool.name,
                            "description": tool.description,
                            "parametersJsonSchema": dict(tool.parameters),
                        }
                        for tool in request.tools
                    ]
                }
            ]
            if request.tool_choice is not None:
                mode = {"auto": "AUTO", "none": "NONE"}.get(request.tool_choice, "ANY")
                calling_config: dict[str, Any] = {"mode": mode}
                if request.tool_choice not in ("auto", "none", "required"):
                    calling_config["allowedFunctionNames"] = [request.tool_choice]
                body["toolConfig"] = {"functionCallingConfig": calling_config}
        # Without alt=sse the stream is one JSON array.
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        path = f"/models/{quote(model, safe='')}:{method}"
        return json_request(path, body, request.extra, placeholders, stream=stream), warnings

    def _encode_contents(
        self,
        messages: list[Message],
        placeholders: Base64Placeholders,
        warnings: list[CallWarning],
        model: str,
    ) -> list[dict[str, Any]]:
        """Return alternating user and model contents.

        All tool results of a step are in one content. Images of the assistant that carry no
        signature of this model are sent in the next user content.
        """
        contents: list[dict[str, Any]] = []
        deferred: list[dict[str, Any]] = []
        for message in messages:
            if message.role == "system":
                continue
            parts: list[dict[str, Any]] = []
            if message.role == "assistant":
                parts = self._encode_assistant_parts(message.parts, placeholders, deferred, model)
            elif message.role == "tool":
                for result in tool_results(message):
                    parts += _encode_tool_result(result, placeholders, _generation(model))
            else:
                parts, deferred = deferred, []
                for part in message.parts:
                    refuse_misplaced(part)
                    parts += _encode_part(part, placeholders)
            # "no content may have empty parts"
            if not parts:
                continue
            role = "model" if message.role == "assistant" else "user"
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"] += parts
            else:
                contents.append({"role": role, "parts": parts})
        if deferred:
            contents.append({"role": "user", "parts": deferred})
        # "a call turn must follow a user turn"
        if contents and contents[0]["role"] == "model":
            warnings.append(
                CallWarning(
                    "HISTORY_CHANGED",
                    "the first message must be a user message; one was inserted",
                    "messages",
                )
            )
            contents.insert(0, {"role": "user", "parts": [{"text": "(the conversation so far)"}]})
        return contents

    def _encode_assistant_parts(
        self,
        parts: tuple[Part, ...],
        placeholders: Base64Placeholders,
        deferred: list[dict[str, Any]],
        model: str,
    ) -> list[dict[str, Any]]:
        encoded: list[dict[str, Any]] = []
        signature: str | None = None
        has_call = False
        for part in parts:
            if isinstance(part, ThinkingPart):
                if not own_thinking(part, self.provider, model):
                    continue
                if isinstance(part.opaque.get("part"), dict):
                    encoded.append(part.opaque["part"])
                elif part_signature := as_text(part.opaque.get("signature")):
                    if part.opaque.get("on") == "nothing":
                        # "never drop an empty text part that has one"
                        encoded.append({"text": "", "thoughtSignature": part_signature})
                    else:
                        signature = part_signature
                continue
            signed: dict[str, Any] = {"thoughtSignature": signature} if signature else {}
            if isinstance(part, ToolCallPart):
                if not signed and not has_call and _generation(model) >= 3:
                    signed = {"thoughtSignature": SENTINEL}
                has_call = True
                encoded.append(
                    {"functionCall": {"id": part.id, "name": part.name, "args": arguments_of(part)}}
                    | signed
                )
            elif isinstance(part, ImagePart) and not signature:
                deferred += [
                    {"text": "(from the model's turn above)"},
                    *_encode_part(part, placeholders),
                ]
            else:
                refuse_misplaced(part)
                encoded += [item | signed for item in _encode_part(part, placeholders)]
            signature = None
        return encoded

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """Return the reply in a response body that is not streamed.

        Raises:
            ContentRefusedError: The prompt was blocked.
            BadResponseError: The body is not a valid response.
            MajordomoError: The body of the 200 response is an error.
        """
        document = decode_object(body, limits.max_json_depth)
        if "error" in document and not document.get("candidates"):
            raise build_error(200, read_error_value(document), {})
        accumulator = GeminiAccumulator(request, limits, self.provider, self.model)
        events: list[ChatEvent] = []
        accumulator.add_chunk(document, events)
        if not isinstance(document.get("candidates"), list):
            raise BadResponseError('the response has no list "candidates"')
        accumulator.close(events)
        return accumulator.reply(complete=True, raw=without_image_bytes(document))

    def stream_decoder(self, request: Request, limits: Limits) -> GeminiStreamDecoder:
        """Return a decoder of the server-sent events of one response."""
        return GeminiStreamDecoder(
            GeminiAccumulator(request, limits, self.provider, self.model),
            EventDecoder(limits.max_image_event_bytes),
            limits,
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        """Return the maximum size of a response body in bytes."""
        # "image parts … up to 3 MB, sometimes bigger than the image"
        return limits.max_image_reply_bytes


class GeminiAccumulator(ChatAccumulator):
    """The reply of one request, built chunk by chunk."""

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

    def __init__(
        self, request: Request, limits: Limits, provider: str, requested_model: str
    ) -> None:
        super().__init__(request, limits, provider)
        self._requested_model = requested_model
        # Arguments of the last tool call while they are streamed, else None.
        self._partial_arguments: PartialArguments | None = None

    def add_chunk(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        """Add one response document. Raises ContentRefusedError when the prompt was blocked."""
        feedback = document.get("promptFeedback")
        if isinstance(feedback, dict) and (reason := as_text(feedback.get("blockReason"))):
            message = plain_text(as_text(feedback.get("blockReasonMessage")) or "", 500)
            raise ContentRefusedError(
                f"Gemini refused the prompt ({reason}) {message}".strip(),
                details={"reason": reason},
            )
        self.model: str = as_text(document.get("modelVersion")) or self.model
        if isinstance(usage := document.get("usageMetadata"), dict):
            # The counts are cumulative, "and may shrink: take the last".
            self.usage: Usage = _usage(usage)
        for candidate in as_objects(document.get("candidates"))[:1]:
            content = candidate.get("content")
            for part in as_objects(content.get("parts") if isinstance(content, dict) else None):
                self._add_part(part, events)
            self.finish_reason: str | None = (
                as_text(candidate.get("finishReason")) or self.finish_reason
            )

    def _add_part(self, part: dict[str, Any], events: list[ChatEvent]) -> None:
        text, call, inline = part.get("text"), part.get("functionCall"), part.get("inlineData")
        signature = as_text(part.get("thoughtSignature"))
        if any(name in part for name in _HOSTED_TOOL_PARTS):
            self.attach_opaque({"part": part, "model": self._requested_model}, apart=True)
            return
        if part.get("thought") is True:
            # Draft images are thoughts too. They are not part of the reply.
            if isinstance(text, str):
                self.add_thinking(text, events)
            return
        if signature:
            # A signature belongs to its part and must be sent back on it, so keep it directly
            # before that part.
            self.attach_opaque(
                {
                    "signature": signature,
                    **({"on": "nothing"} if text == "" else {}),
                    "model": self._requested_model,
                },
                apart=True,
            )
        if isinstance(call, dict):
            self._add_call(call, events)
        elif isinstance(inline, dict) and str(inline.get("mimeType", "")).startswith("image/"):
            self.add_image(
                parse_base64_image(as_text(inline.get("data")) or "", self._limits), events
            )
        elif isinstance(text, str):
            self.add_text(text, events)
        if signature:
            self.end_part()

    def _add_call(self, call: dict[str, Any], events: list[ChatEvent]) -> None:
        """Add a complete tool call, or one step of a streamed one.

        With `streamFunctionCallArguments` the name of a call comes first, then fragments of its
        arguments, then an empty call that ends it.
        """
        name, arguments = as_text(call.get("name")), call.get("args")
        will_continue = call.get("willContinue") is True
        fragments = as_objects(call.get("partialArgs"))
        if name:
            self._end_partial_arguments(events)
            if arguments or not (will_continue or fragments):
                self.add_call(as_text(call.get("id")) or "", name, as_json(arguments or {}), events)
                return
            self.start_call(as_text(call.get("id")) or "", name, events)
            self._partial_arguments = PartialArguments(self._limits.max_json_depth)
        if self._partial_arguments is None:
            return
        for fragment in fragments:
            self.add_arguments(self.calls - 1, self._partial_arguments.feed(fragment), events)
        if not will_continue:
            self._end_partial_arguments(events)

    def _end_partial_arguments(self, events: list[ChatEvent]) -> None:
        if self._partial_arguments is not None:
            self.add_arguments(self.calls - 1, self._partial_arguments.close(), events)
            self.end_call(self.calls - 1, events)
            self._partial_arguments = None


class GeminiStreamDecoder(ChatStreamDecoder):
    """A decoder of streamed replies.

    The stream has no end marker. It is complete when the bytes end after a chunk with a
    finishReason.
    """

    accumulator: GeminiAccumulator

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        """Apply one event of the stream to the reply."""
        self.accumulator.add_chunk(document, events)
        self.complete: bool = self.accumulator.finish_reason is not None


def _encode_tool_result(
    result: ToolResultPart, placeholders: Base64Placeholders, generation: int
) -> list[dict[str, Any]]:
    """Return the parts for a tool result.

    `response` must be an object: text that is a JSON object is sent as that object, any other
    text is wrapped in one.
    """
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
    encoded: dict[str, Any] = {"id": result.call_id, "name": result.name, "response": response}
    files = [
        item for part in attachments(result.parts) for item in _encode_part(part, placeholders)
    ]
    if files and generation >= 3:
        encoded["parts"] = files
        files = []
    return [{"functionResponse": encoded}, *files]


def _encode_part(part: Part, placeholders: Base64Placeholders) -> list[dict[str, Any]]:
    if isinstance(part, TextPart):
        return [{"text": part.text}] if part.text else []
    if isinstance(part, (ImagePart, FilePart)):
        return [{"inlineData": {"mimeType": part.mime, "data": placeholders.base64(part)}}]
    return []


def _thinking_config(
    reasoning: str | int, generation: int, warnings: list[CallWarning]
) -> dict[str, Any]:
    """Return `thinkingConfig`.

    Models before Gemini 3 accept a number of tokens, later models a level; neither accepts both.
    """
    config: dict[str, Any] = {} if reasoning == "off" else {"includeThoughts": True}
    if generation < 3:
        budget = reasoning if isinstance(reasoning, int) else _THINKING_BUDGETS[reasoning]
        return config | {"thinkingBudget": budget}
    if isinstance(reasoning, int):
        warnings.append(
            CallWarning(
                UNSUPPORTED,
                'this model accepts reasoning "low", "medium" or "high", not a number of tokens; '
                "the model decides how much it thinks",
                "reasoning",
            )
        )
        return config
    if reasoning == "off":
        warnings.append(
            CallWarning(
                UNSUPPORTED,
                "thinking cannot be turned off for this model; sent the lowest level",
                "reasoning",
            )
        )
        return {"thinkingLevel": "MINIMAL"}
    return config | {"thinkingLevel": reasoning.upper()}


def _generation(model: str) -> int:
    """Return the generation in a model id: 3 for gemini-3-pro, and for an id without a number."""
    match = _GENERATION.search(model)
    return int(match[1]) if match else 3


def _usage(usage: dict[str, Any]) -> Usage:
    """Return the token usage of a chat.

    "zero and false fields are omitted": in a usage object a missing count is 0.
    """
    prompt, tool_prompt, output, thinking = (
        as_token_count(usage.get(name)) or 0
        for name in (
            "promptTokenCount",
            "toolUsePromptTokenCount",
            "candidatesTokenCount",
            "thoughtsTokenCount",
        )
    )
    input_by_modality = usage_by_modality(
        usage, "promptTokensDetails", "toolUsePromptTokensDetails"
    )
    output_by_modality = usage_by_modality(usage, "candidatesTokensDetails")
    return Usage(
        prompt + tool_prompt,
        output + thinking,
        as_token_count(usage.get("cachedContentTokenCount")) or 0,
        thinking,
        text_input_tokens=tokens_by_modality(input_by_modality, "TEXT", "DOCUMENT"),
        image_input_tokens=tokens_by_modality(input_by_modality, "IMAGE"),
        audio_input_tokens=tokens_by_modality(input_by_modality, "AUDIO"),
        text_output_tokens=tokens_by_modality(output_by_modality, "TEXT", "DOCUMENT"),
        image_output_tokens=tokens_by_modality(output_by_modality, "IMAGE"),
        audio_output_tokens=tokens_by_modality(output_by_modality, "AUDIO"),
    )
