"""Validation of chat completion requests, and the input that they give to the model."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

from tests.servers.openai_account import Speech, Wish
from tests.servers.openai_images import Refused
from tests.servers.openai_shapes import (
    ANY,
    Number,
    Text,
    check,
    check_filled,
    check_name,
    check_schema,
    invalid,
    not_supported,
    read_file,
    read_image,
    unsupported,
)

Json = dict[str, Any]
WHOLE = Number(1, 1 << 20, whole=True)
FIELDS: Json = {
    "model!": str,
    "messages!": list,
    "stream": bool,
    "stream_options": {"include_usage": bool, "include_obfuscation": bool},
    "max_completion_tokens": WHOLE,
    "max_tokens": WHOLE,
    "temperature": Number(0, 2),
    "top_p": Number(0, 1),
    "frequency_penalty": Number(-2, 2),
    "presence_penalty": Number(-2, 2),
    "stop": ANY,
    "seed": int,
    "n": Number(1, 8, whole=True),
    "logit_bias": dict,
    "tools": list,
    "tool_choice": ANY,
    "parallel_tool_calls": bool,
    "response_format": dict,
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "verbosity": ("low", "medium", "high"),
    "store": bool,
    "metadata": dict,
    "service_tier": ("auto", "default", "flex", "scale", "priority"),
    "prompt_cache_key": str,
    "prompt_cache_retention": ("in_memory", "24h"),
    "prompt_cache_options": {"mode": str, "ttl": str},
    "safety_identifier": str,
    "user": str,
}
NOT_HERE = (
    "logprobs",
    "top_logprobs",
    "modalities",
    "audio",
    "web_search_options",
    "prediction",
    "moderation",
)
"""Parameters of models that this server does not have."""
SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "stop", "logit_bias")
_ASKED: Json = {"role!": str, "content!": ANY, "name": str}
MESSAGES: dict[str, Json] = {
    "developer": _ASKED,
    "system": _ASKED,
    "user": _ASKED,
    "assistant": {
        "role!": str,
        "content?": ANY,
        "name": str,
        "refusal?": str,
        # OpenAI's own SDK sends the annotations back unchanged, or null.
        "annotations?": list,
        "audio?": {"id!": str},
        "tool_calls?": list,
        "function_call?": dict,
    },
    "tool": {"role!": str, "content!": ANY, "tool_call_id!": Text(40)},
}
PARTS: dict[str, Json] = {
    "text": {"type!": str, "text!": str},
    "refusal": {"type!": str, "refusal!": str},
    "image_url": {"type!": str, "image_url!": {"url!": str, "detail": ("auto", "low", "high")}},
    "input_audio": {"type!": str, "input_audio!": {"data!": str, "format!": ("wav", "mp3")}},
    "file": {"type!": str, "file!": {"filename": str, "file_data": str, "file_id": str}},
}
WHERE = {"user": ("text", "image_url", "input_audio", "file"), "assistant": ("text", "refusal")}
CALL: Json = {
    "id!": Text(40),
    "type!": ("function",),
    "function!": {"name!": str, "arguments!": str},
}
TOOL: Json = {
    "type!": ("function",),
    "function!": {"name!": str, "description": str, "parameters": dict, "strict": bool},
}
FORMATS: dict[str, Json] = {
    "text": {"type!": str},
    "json_object": {"type!": str},
    "json_schema": {
        "type!": str,
        "json_schema!": {"name!": str, "description": str, "schema!": dict, "strict": bool},
    },
}


class Request:
    """A request with all fields validated, and the input that it gives to the model."""

    def __init__(self, account: Speech, body: Json) -> None:
        self.account, self.body = account, body
        for name in NOT_HERE:
            if name in body:
                raise unsupported(name)
        check(body, FIELDS, "")
        if body["model"] not in account.models:
            message = f"The model `{body['model']}` does not exist or you do not have access to it."
            raise Refused(message, "model_not_found", None, 404)
        self.model = account.models[body["model"]]
        self.wish = Wish(body["model"], reasons=self.model.reasons(body.get("reasoning_effort")))
        self._settings()
        self._tools()
        self._messages()
        self._pairs()
        self._format()
        self.wish.tokens = len(json.dumps([body["messages"], body.get("tools")]).split())

    def _settings(self) -> None:
        body, wish = self.body, self.wish
        if "stream_options" in body and not body.get("stream"):
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise invalid(message, "stream_options", None)
        effort = body.get("reasoning_effort")
        if effort is not None and not self.model.efforts:
            raise unsupported("reasoning_effort")
        if effort is not None and effort not in self.model.efforts:
            raise not_supported(effort, self.model.efforts, "reasoning_effort", "unsupported_value")
        if "max_tokens" in body and self.model.efforts:
            raise unsupported("max_tokens", " Use 'max_completion_tokens' instead.")
        if "max_tokens" in body and "max_completion_tokens" in body:
            raise invalid(
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time "
                "is not supported.",
                "max_tokens",
                None,
            )
        for name in SAMPLING:
            if name in body and wish.reasons:
                raise unsupported(name)
        stop = body.get("stop", [])
        check(stop, str if isinstance(stop, str) else [str], "stop")
        wish.stops = [stop] if isinstance(stop, str) else stop
        if len(wish.stops) > 4:
            raise Refused(
                "Invalid 'stop': array too long. Expected at most 4 texts.",
                "array_above_max_length",
                "stop",
            )
        wish.most = body.get("max_completion_tokens", body.get("max_tokens"))

    def _tools(self) -> None:
        body, wish = self.body, self.wish
        if "tools" in body:
            check_filled(body["tools"], "tools")
        for index, tool in enumerate(body.get("tools", [])):
            path = f"tools[{index}]"
            check(tool, TOOL, path)
            function = tool["function"]
            check_name(function["name"], f"{path}.function.name")
            schema = function.get(
                "parameters", {"type": "object", "properties": {}, "additionalProperties": False}
            )
            whose = f"function '{function['name']}'"
            check_schema(
                schema,
                function.get("strict", False),
                whose,
                f"{path}.function.parameters",
                "invalid_function_parameters",
            )
            wish.tools.append(function["name"])
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body and not wish.tools:
                raise invalid(
                    f"Invalid value for '{name}': '{name}' is only allowed "
                    "when 'tools' are specified.",
                    name,
                    None,
                )
        wish.parallel = body.get("parallel_tool_calls", True)
        wish.choice = self._choice(body.get("tool_choice", "auto"))

    def _choice(self, choice: Any) -> str:
        if isinstance(choice, str):
            check(choice, ("none", "auto", "required"), "tool_choice")
            return choice
        check(choice, dict, "tool_choice")
        check(choice.get("type"), ("function", "allowed_tools"), "tool_choice.type")
        if choice["type"] == "allowed_tools":
            allowed = {
                "mode!": ("auto", "required"),
                "tools!": [{"type!": ("function",), "function!": {"name!": str}}],
            }
            check(choice, {"type!": str, "allowed_tools!": allowed}, "tool_choice")
            named = [tool["function"]["name"] for tool in choice["allowed_tools"]["tools"]]
        else:
            check(choice, {"type!": str, "function!": {"name!": str}}, "tool_choice")
            named = [choice["function"]["name"]]
        for name in named:
            if name not in self.wish.tools:
                raise invalid(
                    f"Invalid value for 'tool_choice': no function named '{name}' "
                    "was specified in the 'tools' parameter.",
                    "tool_choice",
                    None,
                )
        if choice["type"] == "function":
            return str(named[0])
        self.wish.tools = named
        return str(choice["allowed_tools"]["mode"])

    # Messages

    def _messages(self) -> None:
        check_filled(self.body["messages"], "messages")
        for index, message in enumerate(self.body["messages"]):
            path = f"messages[{index}]"
            check(message, dict, path)
            role = message.get("role")
            check(role, tuple(MESSAGES), f"{path}.role")
            if role in self.model.roles:
                legal = [name for name in MESSAGES if name not in self.model.roles]
                raise not_supported(role, legal, f"{path}.role", "unsupported_value")
            check(message, MESSAGES[role], path)
            shown = self._content(message, role, path)
            if role == "assistant":
                self._said(message, path)
                self.wish.said, self.wish.sights, self.wish.answered = [], [], False
            elif role == "user":
                self._show(shown)
            elif role == "tool":
                self.wish.answered = True
                self.wish.sights.append(
                    f"result {message['tool_call_id']}: "
                    f"{''.join(text for _, text in shown)}".rstrip()
                )

    def _show(self, shown: list[tuple[str, str]]) -> None:
        self.wish.said += [text for kind, text in shown if kind == "text"]
        self.wish.sights += [text for kind, text in shown if kind != "text"]

    def _content(self, message: Json, role: str, path: str) -> list[tuple[str, str]]:
        """Return the type and a description of every content part."""
        content = message.get("content")
        if content is None and role == "assistant":
            if not message.get("tool_calls") and not message.get("refusal"):
                raise invalid(
                    f"Invalid value for 'content': expected a string, got null: '{path}.content'.",
                    f"{path}.content",
                    None,
                )
            return []
        if isinstance(content, str):
            return [("text", content)]
        check(content, list, f"{path}.content")
        check_filled(content, f"{path}.content")
        return [
            self._part(part, role, path, f"{path}.content[{index}]")
            for index, part in enumerate(content)
        ]

    def _part(self, part: Any, role: str, message: str, path: str) -> tuple[str, str]:
        check(part, dict, path)
        kind = part.get("type")
        if kind not in (legal := WHERE.get(role, ("text",))):
            # "reported against messages[N] as if only text and image_url existed"
            raise not_supported(
                kind,
                ("text", "image_url") if role == "user" else legal,
                message if role == "user" else f"{path}.type",
            )
        check(part, PARTS[kind], path)
        held = part[kind]
        if kind == "image_url":
            return kind, read_image(held["url"], f"{path}.image_url.url")
        if kind == "file":
            return kind, self._file(held, f"{path}.file")
        if kind == "input_audio":
            try:
                return (
                    kind,
                    f"{held['format']} of {len(b64decode(held['data'], validate=True))} bytes",
                )
            except ValueError:
                raise invalid(
                    f"Invalid '{path}.input_audio.data'. The value is no base64.",
                    f"{path}.input_audio.data",
                ) from None
        return kind, str(held)

    def _file(self, held: Json, path: str) -> str:
        if "file_id" in held:
            if held["file_id"] not in self.account.files:
                raise invalid(
                    f"No such File object: {held['file_id']}", f"{path}.file_id", None, 404
                )
            return f"file of {len(self.account.files[held['file_id']])} bytes"
        for name in ("filename", "file_data"):
            if name not in held:
                raise Refused(
                    f"Missing required parameter: '{path}.{name}'.",
                    "missing_required_parameter",
                    f"{path}.{name}",
                )
        return (
            f"{held['filename']}: "
            f"{read_file(held['file_data'], ('application/pdf',), f'{path}.file_data')}"
        )

    def _said(self, message: Json, path: str) -> None:
        if message.get("tool_calls") is not None:
            check_filled(message["tool_calls"], f"{path}.tool_calls")
        for index, call in enumerate(message.get("tool_calls") or []):
            check(call, CALL, f"{path}.tool_calls[{index}]")
            check_name(call["function"]["name"], f"{path}.tool_calls[{index}].function.name")

    def _pairs(self) -> None:
        """Check that exactly one tool message answers each call.

        The tool messages directly follow the message with the calls, before any other role.
        """
        waiting: list[str] = []
        for index, message in enumerate([*self.body["messages"], {"role": "the end"}]):
            if message["role"] == "tool":
                if message["tool_call_id"] not in waiting:
                    said = (
                        "messages with role 'tool' must be a response to a preceeding message "
                        "with 'tool_calls'."
                    )
                    raise invalid(f"Invalid parameter: {said}", f"messages.[{index}].role", None)
                waiting.remove(message["tool_call_id"])
                continue
            if waiting:
                said = (
                    "An assistant message with 'tool_calls' must be followed by tool messages "
                    "responding to each 'tool_call_id'."
                )
                missing = (
                    "The following tool_call_ids did not have response messages: "
                    f"{', '.join(waiting)}"
                )
                raise invalid(f"{said} {missing}", f"messages.[{index}].role", None)
            waiting = [call["id"] for call in message.get("tool_calls") or []]
            if len(set(waiting)) < len(waiting):
                raise invalid(
                    "Duplicate value for 'tool_call_id'.", f"messages.[{index}].tool_calls", None
                )

    def _format(self) -> None:
        wanted = self.body.get("response_format", {"type": "text"})
        check(wanted.get("type"), tuple(FORMATS), "response_format.type")
        check(wanted, FORMATS[wanted["type"]], "response_format")
        if wanted["type"] == "json_object":
            if "json" not in json.dumps(self.body["messages"]).lower():
                said = (
                    "'messages' must contain the word 'json' in some form, to use "
                    "'response_format' of type 'json_object'."
                )
                raise invalid(said, "messages", None)
            self.wish.schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
        if wanted["type"] == "json_schema":
            held = wanted["json_schema"]
            check_name(held["name"], "response_format.json_schema.name")
            check_schema(
                held["schema"],
                held.get("strict", False),
                f"response_format '{held['name']}'",
                "response_format",
                None,
            )
            self.wish.schema = held["schema"]
