"""Validation of requests to Anthropic's Messages API, and the input that they give to the model."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tests.servers.hashed_images import decode_image

OLD, NEW = "2023-06-01", "2026-10-21"
MAX_BODY_BYTES = 32 * 1024 * 1024
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
IMAGE_MIME_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
EFFORTS = ("low", "medium", "high", "xhigh", "max")

# The shapes of a request. A type is a scalar or a container whose content is not checked, a tuple
# lists the accepted strings, and a dict has the shape of each field: "!" after the name marks a
# required field, "?" one that may be null.
ANY = object()
CACHE = {"type!": ("ephemeral",), "ttl": ("5m", "1h")}
CACHEABLE: dict[str, Any] = {"type!": str, "cache_control?": CACHE}
BLOCKS: dict[str, dict[str, Any]] = {
    "text": CACHEABLE | {"text!": str, "citations?": list},
    "image": CACHEABLE | {"source!": dict},
    "document": CACHEABLE
    | {"source!": dict, "title?": str, "context?": str, "citations?": {"enabled": bool}},
    "tool_use": CACHEABLE | {"id!": str, "name!": str, "input!": dict, "caller": dict},
    "tool_result": CACHEABLE | {"tool_use_id!": str, "content": ANY, "is_error": bool},
    "thinking": {"type!": str, "thinking!": str, "signature!": str},
    "redacted_thinking": {"type!": str, "data!": str},
}
HOSTED_BLOCKS = [
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
    "tool_search_tool_result",
    "advisor_tool_result",
    "compaction",
    "container_upload",
]
BLOCKS_BY_ROLE = {
    "user": ["text", "image", "document", "tool_result"],
    "assistant": ["text", "tool_use", "thinking", "redacted_thinking", "document", *HOSTED_BLOCKS],
    "system": ["text"],
    "tool_result": ["text", "image", "document", "search_result", "tool_reference"],
}
SOURCES: dict[str, dict[str, dict[str, Any]]] = {
    "image": {
        "base64": {"type!": str, "media_type!": IMAGE_MIME_TYPES, "data!": str},
        "url": {"type!": str, "url!": str},
        "file": {"type!": str, "file_id!": str},
    },
    "document": {
        "base64": {"type!": str, "media_type!": ("application/pdf",), "data!": str},
        "text": {"type!": str, "media_type!": ("text/plain",), "data!": str},
        "url": {"type!": str, "url!": str},
        "file": {"type!": str, "file_id!": str},
        "content": {"type!": str, "content!": ANY},
    },
}
SAMPLING: dict[str, Any] = {"temperature": float, "top_p": float, "top_k": int}
FORMAT = {"type!": ("json_schema",), "schema!": dict}
COMMON_FIELDS: dict[str, Any] = {
    "model!": str,
    "messages!": [{"role!": str, "content!": ANY}],
    "system": ANY,
    "tools": list,
    "tool_choice": {
        "type!": ("auto", "any", "tool", "none"),
        "name": str,
        "disable_parallel_tool_use": bool,
    },
    "thinking": {
        "type!": ("enabled", "adaptive", "disabled"),
        "budget_tokens": int,
        "display?": ("summarized", "omitted"),
    },
    "output_config": {"effort?": EFFORTS, "format?": FORMAT},
    "stop_sequences": [str],
    "metadata": {"user_id?": str},
    "service_tier": ("auto", "standard_only"),
    "speed?": str,
    "inference_geo?": str,
    "container?": ANY,
    "cache_control?": CACHE,
    **SAMPLING,
}
BETA_FIELDS: dict[str, Any] = {
    "mcp_servers": list,
    "context_management?": dict,
    "output_format?": FORMAT,
}
TOOL: dict[str, Any] = {
    "name!": str,
    "description": str,
    "input_schema!": dict,
    "type?": ("custom",),
    "strict": bool,
    "cache_control?": CACHE,
}
TYPE_NAMES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "dictionary",
    list: "list",
}


@dataclass(frozen=True)
class Model:
    """A model of the server."""

    newer: bool = False
    """Whether the model has the rules of the newer models.

    These refuse sampling parameters, a thinking budget and a prefill, and accept system messages
    between the others.
    """
    efforts: Sequence[str] = ("low", "medium", "high")
    """Effort levels that the model accepts."""


class Refused(Exception):
    """An error in Anthropic's envelope."""

    def __init__(self, message: str, status: int = 400, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"type": ERROR_TYPES.get(status, "api_error"), "message": message} | (
            {"details": details} if details else {}
        )


class ServerState(Protocol):
    """The state of a server that requests are checked against."""

    models: dict[str, Model]
    files: dict[str, bytes]
    signed: dict[str, str]
    """The visible thinking by its signature or redacted data."""
    thought: dict[str, list[Any]]
    """The thinking and the calls of a message, by the id of each of its calls."""
    refuse_limits: bool


class Request:
    """A request with all fields validated, and the input that it gives to the model."""

    def __init__(
        self, account: ServerState, body: Any, version: str, beta: str, is_count: bool
    ) -> None:
        self.account, self.body, self.version, self.beta, self.is_count = (
            account,
            body,
            version,
            beta,
            is_count,
        )
        fields = COMMON_FIELDS if is_count else COMMON_FIELDS | {"max_tokens!": int, "stream": bool}
        if version == NEW:
            fields = {name: wanted for name, wanted in fields.items() if name not in SAMPLING}
        _check(body, fields | (BETA_FIELDS if beta else {}), "")
        if body["model"] not in account.models:
            raise Refused(f"model: {body['model']}", 404)
        self.model = account.models[body["model"]]
        self.cache_marks = int(bool(body.get("cache_control")))
        self.texts: list[str] = []
        self.descriptions: list[str] = []
        self._settings()
        self._tools()
        self._system()
        self.merged = self._messages()
        self._check_pairs()
        self._check_thinking()
        if self.cache_marks > 4:
            raise Refused(
                "A maximum of 4 blocks with cache_control may be provided. "
                f"Found {self.cache_marks}."
            )
        self._read_input()
        self.tokens = len(
            json.dumps([body["messages"], body.get("system"), body.get("tools")]).split()
        )

    def _settings(self) -> None:
        body = self.body
        limits: dict[str, tuple[float, float]] = {
            "max_tokens": (1, 64_000),
            "temperature": (0, 1),
            "top_p": (0, 1),
            "top_k": (0, 500),
        }
        for name, (minimum, maximum) in limits.items():
            if name in body and not minimum <= body[name] <= maximum:
                raise Refused(f"{name}: {body[name]} is not in the range {minimum} to {maximum}")
            if name in body and name in SAMPLING and self.model.newer:
                raise Refused(f"`{name}` is not supported by this model.")
        thinking = body.get("thinking", {"type": "disabled"})
        self.thinking, self.omits_thinking = (
            thinking["type"] != "disabled",
            thinking.get("display") == "omitted",
        )
        if thinking["type"] == "enabled":
            if self.model.newer:
                raise Refused(
                    '"thinking.type.enabled" is not supported for this model. '
                    'Use "thinking.type.adaptive".'
                )
            if thinking.get("budget_tokens", 0) < 1024:
                raise Refused(
                    "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
                )
            if not self.is_count and thinking["budget_tokens"] >= body["max_tokens"]:
                raise Refused("`max_tokens` must be greater than `thinking.budget_tokens`.")
        elif "budget_tokens" in thinking:
            raise Refused(
                f"thinking.{thinking['type']}.budget_tokens: Extra inputs are not permitted"
            )
        if self.thinking and body.get("temperature", 1) != 1:
            raise Refused("`temperature` may only be set to 1 when thinking is enabled.")
        config = body.get("output_config", {})
        if config.get("effort") not in (None, *self.model.efforts):
            raise Refused(
                f"This model does not support effort level '{config['effort']}'. "
                f"Supported levels: {', '.join(self.model.efforts)}."
            )
        output_format = config.get("format") or body.get("output_format")
        self.schema = output_format["schema"] if output_format else None
        if output_format:
            _check_output_schema(self.schema, self.schema, self.account.refuse_limits, ())

    def _tools(self) -> None:
        self.tools: list[str] = []
        for index, tool in enumerate(self.body.get("tools", [])):
            path = f"tools.{index}"
            hosted = isinstance(tool, dict) and re.fullmatch(
                r"[a-z_]+_20\d{6}", str(tool.get("type", ""))
            )
            _check(
                tool,
                {"type!": str, "name!": str} | dict.fromkeys(tool, ANY) if hosted else TOOL,
                path,
            )
            if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"]):
                raise Refused(
                    f"{path}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
                )
            if not hosted and tool["input_schema"].get("type") != "object":
                raise Refused(f"{path}.custom.input_schema.type: Input should be 'object'")
            if not hosted and _has_nulls(tool["input_schema"]):
                raise Refused(
                    f"{path}.custom.input_schema: JSON schema is invalid. "
                    "It must match JSON Schema draft 2020-12"
                )
            self.cache_marks += bool(tool.get("cache_control"))
            self.tools.append(tool["name"])
        if len(set(self.tools)) < len(self.tools):
            raise Refused("tools: Tool names must be unique.")
        choice = self.body.get("tool_choice")
        if choice is None:
            return
        if not self.tools:
            raise Refused("tool_choice may only be specified while providing tools.")
        if (choice["type"] == "tool") != ("name" in choice) or (
            choice["type"] == "none" and "disable_parallel_tool_use" in choice
        ):
            raise Refused(
                f"tool_choice.{choice['type']}: `name` goes with type tool only, "
                "`disable_parallel_tool_use` not with none"
            )
        if "name" in choice and choice["name"] not in self.tools:
            raise Refused(f"Tool '{choice['name']}' not found in provided tools")
        if (
            choice["type"] in ("any", "tool")
            and self.body.get("thinking", {}).get("type") == "enabled"
        ):
            raise Refused("Thinking may not be enabled when tool_choice forces tool use.")

    # Messages

    def _system(self) -> None:
        system = self.body.get("system", "")
        if not isinstance(system, str):
            self._blocks(system, "system", "system")

    def _messages(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return the messages, with consecutive messages of one role merged."""
        merged: list[tuple[str, list[dict[str, Any]]]] = []
        messages = self.body["messages"]
        if not messages:
            raise Refused("messages: at least one message is required")
        roles = ("user", "assistant", "system") if self.model.newer else ("user", "assistant")
        for index, message in enumerate(messages):
            role, content, path = message["role"], message["content"], f"messages.{index}"
            _check(role, roles, f"{path}.role")
            if (
                not content
                and content is not None
                and not (role == "assistant" and index == len(messages) - 1)
            ):
                raise Refused(
                    f"{path}: all messages must have non-empty content "
                    "except for the optional final assistant message"
                )
            blocks = (
                [{"type": "text", "text": content}]
                if isinstance(content, str)
                else self._blocks(content, role, f"{path}.content")
            )
            if merged and merged[-1][0] == role:
                merged[-1][1].extend(blocks)
            elif role != "system" or not merged:
                merged.append((role, list(blocks)))
        if merged[0][0] != "user":
            raise Refused("messages: first message must use the user role")
        role, blocks = merged[-1]
        # A last assistant message with a hosted call continues after pause_turn; any other is a
        # prefill.
        if role == "assistant" and not any(block["type"] == "server_tool_use" for block in blocks):
            if self.model.newer or self.thinking:
                raise Refused(
                    "This model does not support assistant message prefill. "
                    "The conversation must end with a user message."
                )
            if (
                blocks
                and blocks[-1]["type"] == "text"
                and blocks[-1]["text"] != blocks[-1]["text"].rstrip()
            ):
                raise Refused(
                    "messages: final assistant content cannot end with trailing whitespace"
                )
        return merged

    def _blocks(self, blocks: Any, where: str, path: str) -> list[dict[str, Any]]:
        _check(blocks, list, path)
        for index, block in enumerate(blocks):
            self._block(block, where, f"{path}.{index}")
        return list(blocks)

    def _block(self, block: Any, where: str, path: str) -> None:
        _check(block, dict, path)
        block_type = block.get("type")
        if block_type not in BLOCKS_BY_ROLE[where] or (
            where == "assistant" and block_type == "document" and self.version == NEW
        ):
            tags = ", ".join(f"'{name}'" for name in BLOCKS_BY_ROLE[where])
            raise Refused(
                f"{path}: Input tag '{block_type}' found using 'type' "
                f"does not match any of the expected tags: {tags}"
            )
        _check(block, BLOCKS.get(block_type, dict), f"{path}.{block_type}")
        self.cache_marks += bool(block.get("cache_control"))
        if block_type == "text" and not block["text"]:
            raise Refused(f"{path.partition('.')[0]}: text content blocks must be non-empty")
        if (
            block_type == "text"
            and where == "user"
            and block.get("citations")
            and self.version == NEW
        ):
            raise Refused(f"{path}.text.citations: citations are not permitted in user messages")
        for name in ("id", "tool_use_id"):
            if (
                name in block
                and block_type in ("tool_use", "tool_result")
                and not re.fullmatch(r"[a-zA-Z0-9_-]+", block[name])
            ):
                raise Refused(
                    f"{path}.{block_type}.{name}: String should match pattern '^[a-zA-Z0-9_-]+$'"
                )
        if block_type in SOURCES:
            self._source(block_type, block["source"], f"{path}.{block_type}.source")
        if block_type == "tool_result" and not isinstance(block.get("content", ""), str):
            self._blocks(block["content"], "tool_result", f"{path}.tool_result.content")

    def _source(self, block_type: str, source: dict[str, Any], path: str) -> None:
        _check(source.get("type"), tuple(SOURCES[block_type]), f"{path}.type")
        _check(source, SOURCES[block_type][source["type"]], f"{path}.{source['type']}")
        if source["type"] == "file" and (
            "files-api" not in self.beta or source["file_id"] not in self.account.files
        ):
            message = (
                "File not found: " + source["file_id"]
                if "files-api" in self.beta
                else f"{path}.file: Extra inputs are not permitted"
            )
            raise Refused(message, 404 if "files-api" in self.beta else 400)
        if source["type"] != "base64":
            return
        try:
            data = b64decode(source["data"], validate=True)
        except ValueError:
            raise Refused(f"{path}.base64.data: Invalid base64 data") from None
        if block_type == "document":
            if not data.startswith(b"%PDF-"):
                raise Refused(f"{path}.base64.data: The PDF specified was not valid.")
            return
        image = decode_image(data)
        if image is None or f"image/{image.format}".lower() not in IMAGE_MIME_TYPES:
            raise Refused(f"{path}.base64.data: Could not process image")
        if f"image/{image.format}".lower() != source["media_type"]:
            difference = f"but the image appears to be an image/{str(image.format).lower()} image"
            raise Refused(
                f"{path}.base64: The image was specified using the {source['media_type']} "
                f"media type, {difference}"
            )

    def _check_pairs(self) -> None:
        """Check that calls and results match.

        Every call has exactly one result, at the beginning of the next message; every result has
        its call in the message before.
        """
        used: set[str] = set()
        for index, (role, blocks) in enumerate(self.merged):
            call_ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
            if len(set(call_ids)) < len(call_ids) or used & set(call_ids):
                raise Refused(f"messages.{index}: `tool_use` ids must be unique")
            used |= set(call_ids)
            if call_ids and not self.tools:
                raise Refused("Requires `tools` to be defined when using `tool_use` blocks")
            next_blocks = self.merged[index + 1][1] if index + 1 < len(self.merged) else []
            result_ids = [
                block["tool_use_id"] for block in next_blocks if block["type"] == "tool_result"
            ]
            unanswered = [call_id for call_id in call_ids if call_id not in result_ids]
            if unanswered:
                raise Refused(
                    f"messages.{index}: `tool_use` ids were found without `tool_result` blocks "
                    f"immediately after: {', '.join(unanswered)}. "
                    "Each `tool_use` block must have a corresponding `tool_result` block "
                    "in the next message."
                )
            is_result = [block["type"] == "tool_result" for block in blocks]
            if is_result != sorted(is_result, reverse=True):
                raise Refused(
                    f"messages.{index}: `tool_result` blocks must come first "
                    "in the content of their message"
                )
            previous_call_ids = (
                [block["id"] for block in self.merged[index - 1][1] if block["type"] == "tool_use"]
                if index
                else []
            )
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            for call_id in results:
                if role == "user" and call_id not in previous_call_ids:
                    raise Refused(
                        f"messages.{index}: unexpected `tool_use_id` found "
                        f"in `tool_result` blocks: {call_id}."
                    )
                if results.count(call_id) > 1:
                    raise Refused(
                        f"messages.{index}: each tool_use must have a single result. "
                        f"Found multiple results with id: {call_id}"
                    )

    def _check_thinking(self) -> None:
        """Check signatures, and that thinking comes back unchanged during a tool loop.

        Nothing is checked while thinking is off.
        """
        if not self.thinking:
            return
        has_results = [
            any(block["type"] == "tool_result" for block in blocks) for _, blocks in self.merged
        ]
        last_user_index = max(
            (i for i, (role, _) in enumerate(self.merged) if role == "user" and not has_results[i]),
            default=-1,
        )
        for index, (role, blocks) in enumerate(self.merged):
            for block in blocks if role == "assistant" else []:
                if (
                    block["type"] == "thinking"
                    and self.account.signed.get(block["signature"]) != block["thinking"]
                ):
                    raise Refused(f"messages.{index}: Invalid `signature` in `thinking` block")
                if (
                    block["type"] == "redacted_thinking"
                    and block["data"] not in self.account.signed
                ):
                    raise Refused(f"messages.{index}: Invalid `data` in `redacted_thinking` block")
                expected = (
                    self.account.thought.get(block["id"], [])
                    if block["type"] == "tool_use" and index > last_user_index
                    else []
                )
                actual = thinking_and_calls(blocks)
                if len(expected) and not any(
                    actual[start : start + len(expected)] == expected
                    for start in range(len(actual))
                ):
                    raise Refused(
                        f"messages.{index}: `thinking` or `redacted_thinking` blocks in the "
                        "latest assistant message cannot be modified. "
                        "These blocks must remain as they were in the original response."
                    )

    # The input in the last user message

    def _read_input(self) -> None:
        blocks = next(blocks for role, blocks in reversed(self.merged) if role == "user")
        self.has_tool_results = any(block["type"] == "tool_result" for block in blocks)
        for block in blocks:
            if block["type"] == "text":
                self.texts.append(block["text"])
            elif block["type"] == "tool_result":
                content = block.get("content", "")
                items = [{"type": "text", "text": content}] if isinstance(content, str) else content
                parts = [
                    item["text"] if item["type"] == "text" else self._describe(item)
                    for item in items
                ]
                self.descriptions.append(
                    f"{'error' if block.get('is_error') else 'result'} "
                    f"{block['tool_use_id']}: {' '.join(parts)}".rstrip()
                )
            else:
                self.descriptions.append(self._describe(block))

    def _describe(self, block: dict[str, Any]) -> str:
        source = block["source"] if block["type"] in SOURCES else {"type": block["type"]}
        if source["type"] in ("url", "text"):
            return f"{block['type']} {source.get('url', source.get('data'))}"
        if source["type"] not in ("base64", "file"):
            return str(source["type"])
        data = (
            b64decode(source["data"])
            if source["type"] == "base64"
            else self.account.files[source["file_id"]]
        )
        image = decode_image(data) if block["type"] == "image" else None
        if image is None:
            return f"{block['type']} of {len(data)} bytes"
        pixels = image.convert("RGB").tobytes()
        means = [round(sum(pixels[channel::3]) / (len(pixels) // 3)) for channel in range(3)]
        return f"{image.width}x{image.height} #{bytes(means).hex()}"

    def calls(self, text: str) -> list[dict[str, Any]]:
        """Return one call for each tool that the text names.

        The JSON objects in the text become the inputs, in order. When no tool is named but the
        request forces a call, the forced or first tool is called.
        """
        choice = self.body.get("tool_choice", {"type": "auto"})
        if (
            not self.tools
            or choice["type"] == "none"
            or (self.has_tool_results and choice["type"] == "auto")
        ):
            return []
        names = [
            name for name in self.tools if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
        ]
        if choice["type"] != "auto":
            names = [choice["name"]] if "name" in choice else names or self.tools[:1]
        inputs = _json_objects(text) or [{}]
        blocks = [
            {"type": "tool_use", "name": name, "input": inputs[min(i, len(inputs) - 1)]}
            for i, name in enumerate(names)
        ]
        return blocks[:1] if choice.get("disable_parallel_tool_use") else blocks


def _check(value: Any, shape: Any, path: str) -> None:
    """Check a value against a shape; the error names the path of the invalid part."""
    prefix = f"{path}." if path else ""
    if shape is ANY:
        return
    if isinstance(shape, tuple):
        if value not in shape:
            raise Refused(f"{path}: Input should be {', '.join(repr(option) for option in shape)}")
        return
    base = shape if isinstance(shape, type) else type(shape)
    number = isinstance(value, int | float if base is float else int) and not isinstance(
        value, bool
    )
    if not (number if base in (int, float) else isinstance(value, base)):
        raise Refused(f"{path or 'body'}: Input should be a valid {TYPE_NAMES[base]}")
    if isinstance(shape, list):
        for index, item in enumerate(value):
            _check(item, shape[0], f"{prefix}{index}")
    if isinstance(shape, dict):
        shapes = {name.rstrip("!?"): (field_shape, name[-1]) for name, field_shape in shape.items()}
        for name, (_, mark) in shapes.items():
            if mark == "!" and name not in value:
                raise Refused(f"{prefix}{name}: Field required")
        for name, item in value.items():
            if name not in shapes:
                raise Refused(f"{prefix}{name}: Extra inputs are not permitted")
            if item is not None or shapes[name][1] != "?":
                _check(item, shapes[name][0], f"{prefix}{name}")


def _has_nulls(schema: Any) -> bool:
    """Return whether a keyword of the schema is null.

    Null is a valid value of `default` and `const`, and inside lists.
    """
    if isinstance(schema, list):
        return any(_has_nulls(value) for value in schema)
    if not isinstance(schema, dict):
        return False
    return any(
        value is None or _has_nulls(value)
        for name, value in schema.items()
        if name not in ("default", "const")
    )


# Schema keywords that are refused while `refuse_limits` is set.
LIMIT_KEYWORDS = {
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
}


def target(schema: dict[str, Any], root: Any) -> Any:
    """Return the schema that `$ref` refers to."""
    resolved = root
    for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
        resolved = resolved[step] if step else resolved
    return resolved


def _check_output_schema(
    schema: Any, root: Any, refuse_limits: bool, ancestors: tuple[str, ...]
) -> None:
    """Check that every object of an output schema forbids other properties and is not recursive."""
    if isinstance(schema, list):
        for item in schema:
            _check_output_schema(item, root, refuse_limits, ancestors)
    if not isinstance(schema, dict):
        return
    location = "output_config.format.schema"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise Refused(
            f"{location}: For 'object' type, 'additionalProperties' must be explicitly set to false"
        )
    if refuse_limits and LIMIT_KEYWORDS & set(schema):
        raise Refused(
            f"{location}: For '{schema.get('type')}' type, "
            f"property '{min(LIMIT_KEYWORDS & set(schema))}' is not supported"
        )
    if "$ref" in schema:
        if schema["$ref"] in ancestors or schema["$ref"] == "#":
            raise Refused(f"{location}: Recursive schemas are not supported")
        _check_output_schema(
            target(schema, root), root, refuse_limits, (*ancestors, schema["$ref"])
        )
    for name, item in schema.items():
        if name in ("properties", "$defs", "definitions"):
            _check_output_schema(list(item.values()), root, refuse_limits, ancestors)
        elif name in ("items", "anyOf", "allOf"):
            _check_output_schema(item, root, refuse_limits, ancestors)


def _json_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text."""
    objects, start = [], text.find("{")
    while start >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
            objects.append(value)
        except ValueError:
            end = start + 1
        start = text.find("{", end)
    return objects


def thinking_and_calls(blocks: list[dict[str, Any]]) -> list[Any]:
    """Return the thinking and the calls of a message in order; nothing without thinking."""
    items = [
        block.get("id") or block
        for block in blocks
        if block["type"] in ("thinking", "redacted_thinking", "tool_use")
    ]
    return items if any(isinstance(item, dict) for item in items) else []
