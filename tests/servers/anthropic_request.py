"""Validation of requests to Anthropic's Messages API, and the input that they give to the model."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tests.servers.hashed_images import decoded

OLD, NEW = "2023-06-01", "2026-10-21"
LARGEST = 32 * 1024 * 1024
KINDS = {
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
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
EFFORTS = ("low", "medium", "high", "xhigh", "max")

# The shapes of a request. A type is a scalar or a container whose content is not checked, a tuple
# lists the accepted strings, and a dict has the shape of each field: "!" after the name marks a
# required field, "?" one that may be null.
ANY = object()
CACHE = {"type!": ("ephemeral",), "ttl": ("5m", "1h")}
_CACHED: dict[str, Any] = {"type!": str, "cache_control?": CACHE}
BLOCKS: dict[str, dict[str, Any]] = {
    "text": _CACHED | {"text!": str, "citations?": list},
    "image": _CACHED | {"source!": dict},
    "document": _CACHED
    | {"source!": dict, "title?": str, "context?": str, "citations?": {"enabled": bool}},
    "tool_use": _CACHED | {"id!": str, "name!": str, "input!": dict, "caller": dict},
    "tool_result": _CACHED | {"tool_use_id!": str, "content": ANY, "is_error": bool},
    "thinking": {"type!": str, "thinking!": str, "signature!": str},
    "redacted_thinking": {"type!": str, "data!": str},
}
REPLAYED = [
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
WHERE = {
    "user": ["text", "image", "document", "tool_result"],
    "assistant": ["text", "tool_use", "thinking", "redacted_thinking", "document", *REPLAYED],
    "system": ["text"],
    "tool_result": ["text", "image", "document", "search_result", "tool_reference"],
}
SOURCES: dict[str, dict[str, dict[str, Any]]] = {
    "image": {
        "base64": {"type!": str, "media_type!": IMAGES, "data!": str},
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
COUNTED: dict[str, Any] = {
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
WITH_BETA: dict[str, Any] = {
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
WORDS: dict[Any, str] = {
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
        self.error = {"type": KINDS.get(status, "api_error"), "message": message} | (
            {"details": details} if details else {}
        )


class Account(Protocol):
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

    def __init__(self, account: Account, body: Any, version: str, beta: str, counted: bool) -> None:
        self.account, self.body, self.version, self.beta, self.counted = (
            account,
            body,
            version,
            beta,
            counted,
        )
        fields = COUNTED if counted else COUNTED | {"max_tokens!": int, "stream": bool}
        if version == NEW:
            fields = {name: wanted for name, wanted in fields.items() if name not in SAMPLING}
        _check(body, fields | (WITH_BETA if beta else {}), "")
        if body["model"] not in account.models:
            raise Refused(f"model: {body['model']}", 404)
        self.model = account.models[body["model"]]
        self.cached = int(bool(body.get("cache_control")))
        self.text: list[str] = []
        self.sights: list[str] = []
        self._settings()
        self._tools()
        self._system()
        self.merged = self._messages()
        self._pairs()
        self._thoughts()
        if self.cached > 4:
            raise Refused(
                f"A maximum of 4 blocks with cache_control may be provided. Found {self.cached}."
            )
        self._look()
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
        for name, (least, most) in limits.items():
            if name in body and not least <= body[name] <= most:
                raise Refused(f"{name}: {body[name]} is not in the range {least} to {most}")
            if name in body and name in SAMPLING and self.model.newer:
                raise Refused(f"`{name}` is not supported by this model.")
        thinking = body.get("thinking", {"type": "disabled"})
        self.thinking, self.omitted = (
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
            if not self.counted and thinking["budget_tokens"] >= body["max_tokens"]:
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
        wanted = config.get("format") or body.get("output_format")
        self.schema = wanted["schema"] if wanted else None
        if wanted:
            _closed(self.schema, self.schema, self.account.refuse_limits, ())

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
            if not hosted and _nulls(tool["input_schema"]):
                raise Refused(
                    f"{path}.custom.input_schema: JSON schema is invalid. "
                    "It must match JSON Schema draft 2020-12"
                )
            self.cached += bool(tool.get("cache_control"))
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
        kind = block.get("type")
        if kind not in WHERE[where] or (
            where == "assistant" and kind == "document" and self.version == NEW
        ):
            tags = ", ".join(f"'{name}'" for name in WHERE[where])
            raise Refused(
                f"{path}: Input tag '{kind}' found using 'type' "
                f"does not match any of the expected tags: {tags}"
            )
        _check(block, BLOCKS.get(kind, dict), f"{path}.{kind}")
        self.cached += bool(block.get("cache_control"))
        if kind == "text" and not block["text"]:
            raise Refused(f"{path.partition('.')[0]}: text content blocks must be non-empty")
        if kind == "text" and where == "user" and block.get("citations") and self.version == NEW:
            raise Refused(f"{path}.text.citations: citations are not permitted in user messages")
        for name in ("id", "tool_use_id"):
            if (
                name in block
                and kind in ("tool_use", "tool_result")
                and not re.fullmatch(r"[a-zA-Z0-9_-]+", block[name])
            ):
                raise Refused(
                    f"{path}.{kind}.{name}: String should match pattern '^[a-zA-Z0-9_-]+$'"
                )
        if kind in SOURCES:
            self._source(kind, block["source"], f"{path}.{kind}.source")
        if kind == "tool_result" and not isinstance(block.get("content", ""), str):
            self._blocks(block["content"], "tool_result", f"{path}.tool_result.content")

    def _source(self, kind: str, source: dict[str, Any], path: str) -> None:
        _check(source.get("type"), tuple(SOURCES[kind]), f"{path}.type")
        _check(source, SOURCES[kind][source["type"]], f"{path}.{source['type']}")
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
        if kind == "document":
            if not data.startswith(b"%PDF-"):
                raise Refused(f"{path}.base64.data: The PDF specified was not valid.")
            return
        image = decoded(data)
        if image is None or f"image/{image.format}".lower() not in IMAGES:
            raise Refused(f"{path}.base64.data: Could not process image")
        if f"image/{image.format}".lower() != source["media_type"]:
            seems = f"but the image appears to be an image/{str(image.format).lower()} image"
            raise Refused(
                f"{path}.base64: The image was specified using the {source['media_type']} "
                f"media type, {seems}"
            )

    def _pairs(self) -> None:
        """Check that calls and results match.

        Every call has exactly one result, at the beginning of the next message; every result has
        its call in the message before.
        """
        used: set[str] = set()
        for index, (role, blocks) in enumerate(self.merged):
            calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
            if len(set(calls)) < len(calls) or used & set(calls):
                raise Refused(f"messages.{index}: `tool_use` ids must be unique")
            used |= set(calls)
            if calls and not self.tools:
                raise Refused("Requires `tools` to be defined when using `tool_use` blocks")
            after = self.merged[index + 1][1] if index + 1 < len(self.merged) else []
            given = [block["tool_use_id"] for block in after if block["type"] == "tool_result"]
            missing = [name for name in calls if name not in given]
            if missing:
                raise Refused(
                    f"messages.{index}: `tool_use` ids were found without `tool_result` blocks "
                    f"immediately after: {', '.join(missing)}. Each `tool_use` block must have a "
                    "corresponding `tool_result` block in the next message."
                )
            kinds = [block["type"] == "tool_result" for block in blocks]
            if kinds != sorted(kinds, reverse=True):
                raise Refused(
                    f"messages.{index}: `tool_result` blocks must come first "
                    "in the content of their message"
                )
            before = (
                [block["id"] for block in self.merged[index - 1][1] if block["type"] == "tool_use"]
                if index
                else []
            )
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            for name in results:
                if role == "user" and name not in before:
                    raise Refused(
                        f"messages.{index}: unexpected `tool_use_id` found "
                        f"in `tool_result` blocks: {name}."
                    )
                if results.count(name) > 1:
                    raise Refused(
                        f"messages.{index}: each tool_use must have a single result. "
                        f"Found multiple results with id: {name}"
                    )

    def _thoughts(self) -> None:
        """Check signatures, and that thinking comes back unchanged during a tool loop.

        Nothing is checked while thinking is off.
        """
        if not self.thinking:
            return
        results = [
            any(block["type"] == "tool_result" for block in blocks) for _, blocks in self.merged
        ]
        asked = max(
            (i for i, (role, _) in enumerate(self.merged) if role == "user" and not results[i]),
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
                wanted = (
                    self.account.thought.get(block["id"], [])
                    if block["type"] == "tool_use" and index > asked
                    else []
                )
                kept = order(blocks)
                if len(wanted) and not any(
                    kept[at : at + len(wanted)] == wanted for at in range(len(kept))
                ):
                    raise Refused(
                        f"messages.{index}: `thinking` or `redacted_thinking` blocks in the "
                        "latest assistant message cannot be modified. "
                        "These blocks must remain as they were in the original response."
                    )

    # The input in the last user message

    def _look(self) -> None:
        blocks = next(blocks for role, blocks in reversed(self.merged) if role == "user")
        self.answered = any(block["type"] == "tool_result" for block in blocks)
        for block in blocks:
            if block["type"] == "text":
                self.text.append(block["text"])
            elif block["type"] == "tool_result":
                held = block.get("content", "")
                inner = [{"type": "text", "text": held}] if isinstance(held, str) else held
                shown = [
                    item["text"] if item["type"] == "text" else self._sight(item) for item in inner
                ]
                self.sights.append(
                    f"{'error' if block.get('is_error') else 'result'} "
                    f"{block['tool_use_id']}: {' '.join(shown)}".rstrip()
                )
            else:
                self.sights.append(self._sight(block))

    def _sight(self, block: dict[str, Any]) -> str:
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
        image = decoded(data) if block["type"] == "image" else None
        if image is None:
            return f"{block['type']} of {len(data)} bytes"
        pixels = image.convert("RGB").tobytes()
        means = [round(sum(pixels[channel::3]) / (len(pixels) // 3)) for channel in range(3)]
        return f"{image.width}x{image.height} #{bytes(means).hex()}"

    def calls(self, said: str) -> list[dict[str, Any]]:
        """Return one call for each tool that the text names.

        The JSON objects in the text become the inputs, in order. When no tool is named but the
        request forces a call, the forced or first tool is called.
        """
        choice = self.body.get("tool_choice", {"type": "auto"})
        if (
            not self.tools
            or choice["type"] == "none"
            or (self.answered and choice["type"] == "auto")
        ):
            return []
        named = [
            name for name in self.tools if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", said)
        ]
        if choice["type"] != "auto":
            named = [choice["name"]] if "name" in choice else named or self.tools[:1]
        found = _objects(said) or [{}]
        blocks = [
            {"type": "tool_use", "name": name, "input": found[min(i, len(found) - 1)]}
            for i, name in enumerate(named)
        ]
        return blocks[:1] if choice.get("disable_parallel_tool_use") else blocks


def _check(value: Any, wanted: Any, path: str) -> None:
    """Check a value against a shape; the error names the path of the invalid part."""
    dotted = f"{path}." if path else ""
    if wanted is ANY:
        return
    if isinstance(wanted, tuple):
        if value not in wanted:
            raise Refused(f"{path}: Input should be {', '.join(repr(word) for word in wanted)}")
        return
    base = wanted if isinstance(wanted, type) else type(wanted)
    number = isinstance(value, int | float if base is float else int) and not isinstance(
        value, bool
    )
    if not (number if base in (int, float) else isinstance(value, base)):
        raise Refused(f"{path or 'body'}: Input should be a valid {WORDS[base]}")
    if isinstance(wanted, list):
        for index, item in enumerate(value):
            _check(item, wanted[0], f"{dotted}{index}")
    if isinstance(wanted, dict):
        shapes = {name.rstrip("!?"): (shape, name[-1]) for name, shape in wanted.items()}
        for name, (_, mark) in shapes.items():
            if mark == "!" and name not in value:
                raise Refused(f"{dotted}{name}: Field required")
        for name, item in value.items():
            if name not in shapes:
                raise Refused(f"{dotted}{name}: Extra inputs are not permitted")
            if item is not None or shapes[name][1] != "?":
                _check(item, shapes[name][0], f"{dotted}{name}")


def _nulls(schema: Any) -> bool:
    """Return whether a keyword of the schema is null.

    Null is a valid value of `default` and `const`, and inside lists.
    """
    if isinstance(schema, list):
        return any(_nulls(item) for item in schema)
    if not isinstance(schema, dict):
        return False
    return any(
        item is None or _nulls(item)
        for name, item in schema.items()
        if name not in ("default", "const")
    )


# Schema keywords that are refused while `refuse_limits` is set.
LIMITS = {
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
    found = root
    for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
        found = found[step] if step else found
    return found


def _closed(schema: Any, root: Any, limited: bool, above: tuple[str, ...]) -> None:
    """Check that every object of an output schema forbids other properties and is not recursive."""
    if isinstance(schema, list):
        for item in schema:
            _closed(item, root, limited, above)
    if not isinstance(schema, dict):
        return
    where = "output_config.format.schema"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise Refused(
            f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false"
        )
    if limited and LIMITS & set(schema):
        raise Refused(
            f"{where}: For '{schema.get('type')}' type, "
            f"property '{min(LIMITS & set(schema))}' is not supported"
        )
    if "$ref" in schema:
        if schema["$ref"] in above or schema["$ref"] == "#":
            raise Refused(f"{where}: Recursive schemas are not supported")
        _closed(target(schema, root), root, limited, (*above, schema["$ref"]))
    for name, item in schema.items():
        if name in ("properties", "$defs", "definitions"):
            _closed(list(item.values()), root, limited, above)
        elif name in ("items", "anyOf", "allOf"):
            _closed(item, root, limited, above)


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text."""
    found, at = [], text.find("{")
    while at >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
            found.append(value)
        except ValueError:
            end = at + 1
        at = text.find("{", end)
    return found


def order(blocks: list[dict[str, Any]]) -> list[Any]:
    """Return the thinking and the calls of a message in order; nothing without thinking."""
    kept = [
        block.get("id") or block
        for block in blocks
        if block["type"] in ("thinking", "redacted_thinking", "tool_use")
    ]
    return kept if any(isinstance(item, dict) for item in kept) else []
