"""Validation of chat completion requests, and the input that they give to the model."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

from tests.servers.openai_account import ModelInput, OpenAIServer
from tests.servers.openai_images import Refused
from tests.servers.openai_shapes import (
    ANY,
    Number,
    Text,
    check,
    check_filled,
    check_name,
    check_schema,
    describe_file,
    describe_image,
    invalid,
    not_supported,
    unsupported,
)

Json = dict[str, Any]
POSITIVE_INTEGER = Number(1, 1 << 20, integer=True)
FIELDS: Json = {
    "model!": str,
    "messages!": list,
    "stream": bool,
    "stream_options": {"include_usage": bool, "include_obfuscation": bool},
    "max_completion_tokens": POSITIVE_INTEGER,
    "max_tokens": POSITIVE_INTEGER,
    "temperature": Number(0, 2),
    "top_p": Number(0, 1),
    "frequency_penalty": Number(-2, 2),
    "presence_penalty": Number(-2, 2),
    "stop": ANY,
    "seed": int,
    "n": Number(1, 8, integer=True),
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
UNSUPPORTED_FIELDS = (
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
INPUT_MESSAGE: Json = {"role!": str, "content!": ANY, "name": str}
MESSAGES: dict[str, Json] = {
    "developer": INPUT_MESSAGE,
    "system": INPUT_MESSAGE,
    "user": INPUT_MESSAGE,
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
PARTS_BY_ROLE = {
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
}
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

    def __init__(self, account: OpenAIServer, body: Json) -> None:
        self.account, self.body = account, body
        for name in UNSUPPORTED_FIELDS:
            if name in body:
                raise unsupported(name)
        check(body, FIELDS, "")
        if body["model"] not in account.models:
            message = f"The model `{body['model']}` does not exist or you do not have access to it."
            raise Refused(message, "model_not_found", None, 404)
        self.model = account.models[body["model"]]
        self.model_input = ModelInput(
            body["model"], reasoning=self.model.is_reasoning(body.get("reasoning_effort"))
        )
        self._settings()
        self._tools()
        self._messages()
        self._pairs()
        self._format()
        self.model_input.prompt_tokens = len(
            json.dumps([body["messages"], body.get("tools")]).split()
        )

    def _settings(self) -> None:
        body, model_input = self.body, self.model_input
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
            if name in body and model_input.reasoning:
                raise unsupported(name)
        stop = body.get("stop", [])
        check(stop, str if isinstance(stop, str) else [str], "stop")
        model_input.stop_sequences = [stop] if isinstance(stop, str) else stop
        if len(model_input.stop_sequences) > 4:
            raise Refused(
                "Invalid 'stop': array too long. Expected at most 4 texts.",
                "array_above_max_length",
                "stop",
            )
        model_input.max_tokens = body.get("max_completion_tokens", body.get("max_tokens"))

    def _tools(self) -> None:
        body, model_input = self.body, self.model_input
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
            subject = f"function '{function['name']}'"
            check_schema(
                schema,
                function.get("strict", False),
                subject,
                f"{path}.function.parameters",
                "invalid_function_parameters",
            )
            model_input.tools.append(function["name"])
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body and not model_input.tools:
                raise invalid(
                    f"Invalid value for '{name}': '{name}' is only allowed "
                    "when 'tools' are specified.",
                    name,
                    None,
                )
        model_input.parallel_calls = body.get("parallel_tool_calls", True)
        model_input.tool_choice = self._choice(body.get("tool_choice", "auto"))

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
            names = [tool["function"]["name"] for tool in choice["allowed_tools"]["tools"]]
        else:
            check(choice, {"type!": str, "function!": {"name!": str}}, "tool_choice")
            names = [choice["function"]["name"]]
        for name in names:
            if name not in self.model_input.tools:
                raise invalid(
                    f"Invalid value for 'tool_choice': no function named '{name}' "
                    "was specified in the 'tools' parameter.",
                    "tool_choice",
                    None,
                )
        if choice["type"] == "function":
            return str(names[0])
        self.model_input.tools = names
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
            parts = self._content(message, role, path)
            if role == "assistant":
                self._check_calls(message, path)
                self.model_input.clear()
            elif role == "user":
                self._add_user_content(parts)
            elif role == "tool":
                self.model_input.has_tool_results = True
                self.model_input.descriptions.append(
                    f"result {message['tool_call_id']}: "
                    f"{''.join(text for _, text in parts)}".rstrip()
                )

    def _add_user_content(self, parts: list[tuple[str, str]]) -> None:
        self.model_input.user_texts += [text for part_type, text in parts if part_type == "text"]
        self.model_input.descriptions += [text for part_type, text in parts if part_type != "text"]

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
        part_type = part.get("type")
        if part_type not in (legal := PARTS_BY_ROLE.get(role, ("text",))):
            # "reported against messages[N] as if only text and image_url existed"
            raise not_supported(
                part_type,
                ("text", "image_url") if role == "user" else legal,
                message if role == "user" else f"{path}.type",
            )
        check(part, PARTS[part_type], path)
        content = part[part_type]
        if part_type == "image_url":
            return part_type, describe_image(content["url"], f"{path}.image_url.url")
        if part_type == "file":
            return part_type, self._file(content, f"{path}.file")
        if part_type == "input_audio":
            try:
                data = b64decode(content["data"], validate=True)
                return part_type, f"{content['format']} of {len(data)} bytes"
            except ValueError:
                raise invalid(
                    f"Invalid '{path}.input_audio.data'. The value is no base64.",
                    f"{path}.input_audio.data",
                ) from None
        return part_type, str(content)

    def _file(self, file: Json, path: str) -> str:
        if "file_id" in file:
            if file["file_id"] not in self.account.files:
                raise invalid(
                    f"No such File object: {file['file_id']}", f"{path}.file_id", None, 404
                )
            return f"file of {len(self.account.files[file['file_id']])} bytes"
        for name in ("filename", "file_data"):
            if name not in file:
                raise Refused(
                    f"Missing required parameter: '{path}.{name}'.",
                    "missing_required_parameter",
                    f"{path}.{name}",
                )
        return (
            f"{file['filename']}: "
            f"{describe_file(file['file_data'], ('application/pdf',), f'{path}.file_data')}"
        )

    def _check_calls(self, message: Json, path: str) -> None:
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
                    detail = (
                        "messages with role 'tool' must be a response to a preceeding message "
                        "with 'tool_calls'."
                    )
                    raise invalid(f"Invalid parameter: {detail}", f"messages.[{index}].role", None)
                waiting.remove(message["tool_call_id"])
                continue
            if waiting:
                detail = (
                    "An assistant message with 'tool_calls' must be followed by tool messages "
                    "responding to each 'tool_call_id'."
                )
                missing = (
                    "The following tool_call_ids did not have response messages: "
                    f"{', '.join(waiting)}"
                )
                raise invalid(f"{detail} {missing}", f"messages.[{index}].role", None)
            waiting = [call["id"] for call in message.get("tool_calls") or []]
            if len(set(waiting)) < len(waiting):
                raise invalid(
                    "Duplicate value for 'tool_call_id'.", f"messages.[{index}].tool_calls", None
                )

    def _format(self) -> None:
        response_format = self.body.get("response_format", {"type": "text"})
        check(response_format.get("type"), tuple(FORMATS), "response_format.type")
        check(response_format, FORMATS[response_format["type"]], "response_format")
        if response_format["type"] == "json_object":
            if "json" not in json.dumps(self.body["messages"]).lower():
                message = (
                    "'messages' must contain the word 'json' in some form, to use "
                    "'response_format' of type 'json_object'."
                )
                raise invalid(message, "messages", None)
            self.model_input.schema = {
                "type": "object",
                "properties": {"answer": {"type": "string"}},
            }
        if response_format["type"] == "json_schema":
            json_schema = response_format["json_schema"]
            check_name(json_schema["name"], "response_format.json_schema.name")
            check_schema(
                json_schema["schema"],
                json_schema.get("strict", False),
                f"response_format '{json_schema['name']}'",
                "response_format",
                None,
            )
            self.model_input.schema = json_schema["schema"]
