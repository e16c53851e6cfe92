"""Validation of the settings and tools of Responses API requests.

`openai_responses_input` validates the conversation.
"""

from __future__ import annotations

import json
from typing import Any

from tests.servers.openai_account import Model, ModelInput
from tests.servers.openai_images import Refused
from tests.servers.openai_responses_input import Input, ServerState
from tests.servers.openai_shapes import (
    ANY,
    Number,
    check,
    check_name,
    check_schema,
    invalid,
    not_supported,
    unsupported,
)

Json = dict[str, Any]
ENCRYPTED = "reasoning.encrypted_content"
INCLUDES = (
    ENCRYPTED,
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "file_search_call.results",
)
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
FIELDS: Json = {
    "model": str,
    "input!": ANY,
    "instructions": str,
    "previous_response_id": str,
    "store": bool,
    "include": [INCLUDES],
    "reasoning": {
        "effort": EFFORTS,
        "summary": ("auto", "concise", "detailed"),
        "mode": str,
        "context": ("auto", "current_turn", "all_turns"),
    },
    "text": {"format": dict, "verbosity": ("low", "medium", "high")},
    "tools": list,
    "tool_choice": ANY,
    "parallel_tool_calls": bool,
    "max_tool_calls": Number(1, 128, integer=True),
    "max_output_tokens": Number(16, 1 << 20, integer=True),
    "temperature": Number(0, 2),
    "top_p": Number(0, 1),
    "truncation": ("auto", "disabled"),
    "stream": bool,
    "stream_options": {"include_obfuscation": bool},
    "metadata": dict,
    "service_tier": ("auto", "default", "flex", "priority"),
    "prompt_cache_key": str,
    "prompt_cache_retention": ("in_memory", "24h"),
    "prompt_cache_options": {"mode": str, "ttl": str},
    "safety_identifier": str,
    "user": str,
}
UNSUPPORTED_FIELDS = (
    "background",
    "conversation",
    "context_management",
    "moderation",
    "top_logprobs",
)
FUNCTION: Json = {
    "type!": ("function",),
    "name!": str,
    "description?": str,
    "parameters!": dict,
    "strict?": bool,
}
IMAGE_GENERATION: Json = {
    "type!": ("image_generation",),
    "model": str,
    "quality": ("auto", "low", "medium", "high"),
    "size": ("auto", "1024x1024", "1536x1024", "1024x1536"),
    "output_format": ("png", "webp", "jpeg"),
    "output_compression": Number(0, 100, integer=True),
    "background": ("auto", "opaque", "transparent"),
    "input_fidelity": ("high", "low"),
    "input_image_mask": dict,
    "moderation": ("auto", "low"),
    "partial_images": Number(0, 3, integer=True),
    "action": ("auto", "generate", "edit"),
}
WEB_SEARCH: Json = {
    "type!": ("web_search",),
    "search_context_size": ("low", "medium", "high"),
    "user_location": dict,
    "filters": dict,
}
FORMATS: dict[str, Json] = {
    "text": {"type!": str},
    "json_object": {"type!": str},
    "json_schema": {
        "type!": str,
        "name!": str,
        "schema!": dict,
        "description": str,
        "strict?": bool,
    },
}


class Request:
    """A request with all fields validated, and the input that it gives to the model.

    `drawing` is the hosted image generation tool; None when the request does not offer it.
    """

    def __init__(self, account: ServerState, body: Json) -> None:
        self.body = body
        for name in UNSUPPORTED_FIELDS:
            if name in body:
                raise unsupported(name)
        check(body, FIELDS, "")
        if body.get("model") not in account.models:
            message = f"The requested model '{body.get('model')}' does not exist."
            raise Refused(message, "model_not_found", "model", 400)
        self.model: Model = account.models[body["model"]]
        reasoning = body.get("reasoning", {})
        self.model_input = ModelInput(
            body["model"], reasoning=self.model.is_reasoning(reasoning.get("effort"))
        )
        self.has_summaries = "summary" in reasoning
        self.encrypted = ENCRYPTED in body.get("include", [])
        self.image_tool: Json | None = None
        self._settings(reasoning)
        self._tools()
        self.input = Input(account, body, self.model_input)
        self._format()
        self.model_input.prompt_tokens = len(
            json.dumps([self.input.items, body.get("instructions"), body.get("tools")]).split()
        )

    def _settings(self, reasoning: Json) -> None:
        body = self.body
        if "stream_options" in body and not body.get("stream"):
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise invalid(message, "stream_options", None)
        if self.encrypted and not self.model.efforts:
            raise invalid("Encrypted content is not supported with this model.", "include", None)
        for name in reasoning:
            if not self.model.efforts:
                raise unsupported(f"reasoning.{name}")
        if reasoning.get("effort") not in (None, *self.model.efforts):
            raise not_supported(
                reasoning["effort"], self.model.efforts, "reasoning.effort", "unsupported_value"
            )
        for name in ("temperature", "top_p"):
            if name in body and self.model_input.reasoning:
                raise unsupported(name)
        self.model_input.max_tokens = body.get("max_output_tokens")

    def _tools(self) -> None:
        body, model_input = self.body, self.model_input
        for index, tool in enumerate(body.get("tools", [])):
            path = f"tools[{index}]"
            check(tool, dict, path)
            check(tool.get("type"), ("function", "image_generation", "web_search"), f"{path}.type")
            if tool["type"] == "web_search":
                check(tool, WEB_SEARCH, path)
                continue
            if tool["type"] == "image_generation":
                check(tool, IMAGE_GENERATION, path)
                self.image_tool = tool
                continue
            check(tool, FUNCTION, path)
            check_name(tool["name"], f"{path}.name")
            # "a missing value may be treated as strict" (openai-responses.md)
            strict = tool.get("strict") is not False
            check_schema(
                tool["parameters"],
                strict,
                f"function '{tool['name']}'",
                f"{path}.parameters",
                "invalid_function_parameters",
            )
            model_input.tools.append(tool["name"])
        model_input.parallel_calls = body.get("parallel_tool_calls", True)
        model_input.generates_image = self.image_tool is not None
        if "tool_choice" in body:
            self._choice(body["tool_choice"])

    def _choice(self, choice: Any) -> None:
        model_input = self.model_input
        if not self.body.get("tools"):
            raise invalid(
                "Tool choice must be specified with 'tools' parameter.", "tool_choice", None
            )
        if isinstance(choice, str):
            check(choice, ("none", "auto", "required"), "tool_choice")
            model_input.tool_choice = choice
            model_input.generates_image = model_input.generates_image and choice != "none"
            return
        check(choice, dict, "tool_choice")
        check(
            choice.get("type"),
            ("function", "allowed_tools", "image_generation"),
            "tool_choice.type",
        )
        names: list[str] = []
        if choice["type"] == "function":
            check(choice, {"type!": str, "name!": str}, "tool_choice")
            names, model_input.tool_choice = [choice["name"]], choice["name"]
        elif choice["type"] == "allowed_tools":
            allowed = [{"type!": ("function",), "name!": str}]
            check(
                choice,
                {"type!": str, "mode!": ("auto", "required"), "tools!": allowed},
                "tool_choice",
            )
            names, model_input.tool_choice = (
                [tool["name"] for tool in choice["tools"]],
                choice["mode"],
            )
        else:
            check(choice, {"type!": str}, "tool_choice")
        missing = [name for name in names if name not in model_input.tools]
        if missing or (choice["type"] == "image_generation" and self.image_tool is None):
            raise invalid(
                f"Tool choice '{(missing or ['image_generation'])[0]}' "
                "not found in 'tools' parameter.",
                "tool_choice",
                None,
            )
        model_input.tools = names
        model_input.generates_image = choice["type"] == "image_generation"

    def _format(self) -> None:
        output_format = self.body.get("text", {}).get("format", {"type": "text"})
        check(output_format.get("type"), tuple(FORMATS), "text.format.type")
        check(output_format, FORMATS[output_format["type"]], "text.format")
        if output_format["type"] == "json_object":
            if "json" not in json.dumps([self.input.items, self.body.get("instructions")]).lower():
                message = (
                    "Response input messages must contain the word 'json' in some form to use "
                    "'text.format' of type 'json_object'."
                )
                raise invalid(message, "input", None)
            self.model_input.schema = {
                "type": "object",
                "properties": {"answer": {"type": "string"}},
            }
        if output_format["type"] == "json_schema":
            check_name(output_format["name"], "text.format.name")
            strict = bool(output_format.get("strict"))
            check_schema(
                output_format["schema"],
                strict,
                f"response_format '{output_format['name']}'",
                "text.format.schema",
                "invalid_json_schema",
            )
            self.model_input.schema = output_format["schema"]
