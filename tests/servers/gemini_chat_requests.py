"""Validation of the requests to `gemini_chat.py`, and the default answers to them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.servers.gemini import (
    ANY,
    DATA_FIELDS,
    IMAGE_MIME_TYPES,
    REQUEST,
    _camel,
    _decode_base64,
    _invalid,
    _normalized,
    _Refused,
)
from tests.servers.hashed_images import decode_image

if TYPE_CHECKING:
    from tests.servers.gemini_chat import GeminiChat

Json = dict[str, Any]
CALLING_MODES = ("AUTO", "ANY", "NONE", "VALIDATED")
THINKING_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
_INLINE = {"mimeType": str, "data": str}
_PART: Json = REQUEST["contents"][0]["parts"][0] | {
    "functionCall": {"name": str, "args": ANY, "id": str},
    "functionResponse": {
        "name": str,
        "response": ANY,
        "id": str,
        "parts": [{"inlineData": _INLINE}],
    },
    "toolCall": ANY,
    "toolResponse": ANY,
    "videoMetadata": {"startOffset": str, "endOffset": str, "fps": float},
}
_CONTENT: Json = {"role": str, "parts": [_PART]}
_DECLARATION = {
    "name": str,
    "description": str,
    "parameters": ANY,
    "parametersJsonSchema": ANY,
    "responseJsonSchema": ANY,
}
CHAT_REQUEST: Json = REQUEST | {
    "contents": [_CONTENT],
    "systemInstruction": _CONTENT,
    "tools": [REQUEST["tools"][0] | {"functionDeclarations": [_DECLARATION]}],
    "toolConfig": {
        "functionCallingConfig": {"mode": str, "allowedFunctionNames": [str]},
        "includeServerSideToolInvocations": bool,
    },
}
EMBED_REQUEST: Json = {
    "model": str,
    "content": _CONTENT,
    "taskType": str,
    "title": str,
    "outputDimensionality": int,
}
PART_FIELDS = (*DATA_FIELDS, "toolCall", "toolResponse")
# The OpenAPI subset of `parameters` and `responseSchema`, in which the other keywords of JSON
# Schema are unknown fields.
SCHEMA_KEYWORDS = (
    r"type|format|title|description|nullable|enum|(max|min)(Items|Length|Properties|imum)"
    r"|properties|required|pattern|example|anyOf|propertyOrdering|default|items"
)
SCHEMA_TYPES = ("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")


class Request:
    """A request to generate content, with all fields validated."""

    def __init__(self, server: GeminiChat, model: str, raw_body: Any) -> None:
        self.server, self.model, self.is_gemini_3 = server, model, model.startswith("gemini-3")
        self.body: Json = _normalized(raw_body, CHAT_REQUEST, "")
        self.config: Json = self.body.get("generationConfig", {})
        self.contents: list[Json] = self.body.get("contents", [])
        self.declared: dict[str, Json] = {}
        self.texts: list[str] = []
        self.images: list[str] = []
        if not self.contents:
            raise _invalid(
                "* GenerateContentRequest.contents: contents is not specified", "contents"
            )
        self._config()
        self._tools()
        system = self.body.get("systemInstruction")
        if system is not None and not system.get("parts"):
            raise _invalid("* GenerateContentRequest.system_instruction.parts: must not be empty.")
        for content in self.contents:
            self._content(content)
        self._check_turns()
        self.thoughts: bool = self.config.get("thinkingConfig", {}).get("includeThoughts", False)
        user_texts = [
            part["text"]
            for content in self.contents
            if _role(content) == "user"
            for part in content["parts"]
            if "text" in part
        ]
        self.last_text: str = user_texts[-1] if user_texts else ""

    # Validation

    def _config(self) -> None:
        config, thinking = self.config, self.config.get("thinkingConfig", {})
        mime = config.get("responseMimeType", "text/plain")
        if mime not in ("text/plain", "application/json", "text/x.enum"):
            raise _invalid(
                "* GenerateContentRequest.generation_config.response_mime_type: "
                "allowed mimetypes are `text/plain`, `application/json`"
            )
        if "responseSchema" in config and "responseJsonSchema" in config:
            raise _invalid("Only one of `response_schema` and `response_json_schema` may be set.")
        if ("responseSchema" in config and mime == "text/plain") or (
            "responseJsonSchema" in config and mime != "application/json"
        ):
            raise _invalid("A response schema requires response_mime_type application/json.")
        if "responseSchema" in config:
            _check_schema_keywords(config["responseSchema"], "generation_config.response_schema")
        if "thinkingBudget" in thinking and "thinkingLevel" in thinking:
            raise _invalid("You can only set only one of thinking budget and thinking level.")
        if "thinkingBudget" in thinking and self.is_gemini_3:
            raise _invalid("Thinking budget is not supported for this model.")
        if "thinkingLevel" in thinking and (
            not self.is_gemini_3 or thinking["thinkingLevel"] not in THINKING_LEVELS
        ):
            raise _invalid("Thinking level is not supported for this model.")
        modalities = config.get("responseModalities", [])
        if not set(modalities) <= {"TEXT", "IMAGE"} or (
            "IMAGE" in modalities and not self.server.models[self.model].ratios
        ):
            raise _invalid(
                "The requested combination of response modalities is not supported by the model."
            )
        if len(config.get("stopSequences", [])) > 5:
            raise _invalid("* GenerateContentRequest.generation_config.stop_sequences: at most 5.")
        if config.get("candidateCount", 1) != 1:
            raise _invalid("Multiple candidates is not enabled for this model")
        if config.get("maxOutputTokens", 1) < 1:
            raise _invalid("max_output_tokens must be positive.")

    def _tools(self) -> None:
        tools = self.body.get("tools", [])
        for declaration in (
            each for tool in tools for each in tool.get("functionDeclarations", [])
        ):
            name = declaration.get("name", "")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}", name) or name in self.declared:
                raise _invalid(
                    "Invalid function name, or a duplicate function declaration found: " + name
                )
            if "parameters" in declaration and "parametersJsonSchema" in declaration:
                raise _invalid("Only one of `parameters` and `parameters_json_schema` may be set.")
            if "parameters" in declaration:
                _check_schema_keywords(
                    declaration["parameters"], "tools.function_declarations.parameters"
                )
            self.declared[name] = declaration
        hosted = any(set(tool) - {"functionDeclarations"} for tool in tools)
        if (
            self.declared
            and not self.is_gemini_3
            and (hosted or self.config.get("responseMimeType", "text/plain") != "text/plain")
        ):
            raise _invalid(
                "Tool use with a response mime type, or with built-in tools, "
                "is unsupported together with function calling"
            )
        calling = self.body.get("toolConfig", {}).get("functionCallingConfig", {})
        self.mode: str = calling.get("mode", "AUTO")
        self.allowed: list[str] = calling.get("allowedFunctionNames") or list(self.declared)
        if self.mode not in CALLING_MODES:
            raise _invalid(
                f"Invalid value at 'tool_config.function_calling_config.mode', \"{self.mode}\""
            )
        if calling.get("allowedFunctionNames") and (
            self.mode not in ("ANY", "VALIDATED") or not set(self.allowed) <= set(self.declared)
        ):
            raise _invalid(
                "Allowed function names are of declared functions, "
                "and only set when the mode is ANY or VALIDATED."
            )
        cached = self.body.get("cachedContent")
        if cached is not None and (
            not cached.startswith("cachedContents/")
            or {"systemInstruction", "tools", "toolConfig"} & set(self.body)
        ):
            raise _invalid(
                "CachedContent can not be used with GenerateContent request setting "
                "system_instruction, tools or tool_config."
            )

    def _content(self, content: Json) -> None:
        if content.get("role", "user") not in ("user", "model", "function"):
            raise _invalid("Please use a valid role: user, model.")
        if not content.get("parts"):
            raise _invalid(
                "* GenerateContentRequest.contents: contents.parts must not be empty.", "contents"
            )
        for part in content["parts"]:
            if sum(name in part for name in PART_FIELDS) != 1:
                raise _invalid(
                    "Invalid value at 'contents.parts' (oneof), "
                    "oneof field 'data' must have one initialized field"
                )
            is_user = _role(content) == "user"
            if "functionCall" in part if is_user else "functionResponse" in part:
                raise _invalid(
                    "Function calls come from the model, and function responses from the user."
                )
            if (
                "inlineData" in part
                and not is_user
                and self.is_gemini_3
                and "thoughtSignature" not in part
            ):
                raise _invalid("Image part is missing a thought_signature.")
            self.server.check_signature(self.model, part)
            self._part(part)

    def _part(self, part: Json) -> None:
        if "text" in part:
            self.texts.append(part["text"])
        elif "inlineData" in part:
            self._data(part["inlineData"])
        elif "fileData" in part:
            uri = part["fileData"].get("fileUri", "")
            if uri not in self.server.files and not uri.startswith("https://"):
                raise _Refused(
                    "PERMISSION_DENIED",
                    f"You do not have permission to access the File {uri} or it may not exist.",
                )
            self.images.append(uri)
        elif "functionCall" in part:
            _check_object(part["functionCall"], "args")
        elif "functionResponse" in part:
            response = part["functionResponse"]
            _check_object({"response": None} | response, "response")
            self.texts.append(json.dumps(response["response"]))
            if "parts" in response and not self.is_gemini_3:
                raise _invalid("Multimodal function responses are not supported for this model.")
            for response_part in response.get("parts", []):
                self._data(response_part.get("inlineData", {}))

    def _data(self, inline: Json) -> None:
        mime_type, data = inline.get("mimeType", ""), _decode_base64(inline.get("data", ""))
        if mime_type.startswith("image/"):
            image = decode_image(data)
            if mime_type not in IMAGE_MIME_TYPES or image is None:
                raise _invalid(
                    f"Unsupported MIME type: {mime_type}"
                    if image is not None
                    else "Unable to process input image."
                )
            average = image.convert("RGB").resize((1, 1), Image.Resampling.BOX)
            # Pillow types the pixel of any mode; that of an RGB image has three values.
            red, green, blue = average.getpixel((0, 0))  # type: ignore[misc]
            self.images.append(f"{image.width}x{image.height} #{red:02x}{green:02x}{blue:02x}")
        elif re.fullmatch(r"(audio|video|text)/[\w.+-]+|application/pdf", mime_type) and data:
            self.images.append(f"{mime_type} {len(data)} bytes")
        else:
            raise _invalid(f"Unsupported MIME type: {mime_type}")

    def _check_turns(self) -> None:
        """Check the order of calls and results.

        Calls follow a user content, and the next content answers all of them in order. Calls
        after the last user text need a signature.
        """
        last_user_index = max(
            (
                index
                for index, item in enumerate(self.contents)
                if _role(item) == "user" and not _values(item, "functionResponse")
            ),
            default=-1,
        )
        calls: list[Json] = []
        for index, content in enumerate(self.contents):
            # Google's SDK keeps each chunk of a stream as a content, so the empty text that ends a
            # stream may follow its calls.
            if (
                calls
                and _role(content) == "model"
                and all(part.get("text") == "" for part in content["parts"])
            ):
                continue
            responses = _values(content, "functionResponse")
            if [_match_key(item) for item in responses] != [_match_key(item) for item in calls]:
                if not calls:
                    raise _invalid(
                        "Please ensure that function response turn comes immediately "
                        "after a function call turn."
                    )
                message = (
                    "Please ensure that the number of function response parts is equal to "
                    "the number of function call parts of the function call turn."
                )
                raise _invalid(message)
            calls = _values(content, "functionCall")
            if not calls:
                continue
            if index == 0 or _role(self.contents[index - 1]) != "user":
                raise _invalid(
                    "Please ensure that function call turn comes immediately after a user turn "
                    "or after a function response turn."
                )
            first = next(part for part in content["parts"] if "functionCall" in part)
            if self.is_gemini_3 and index > last_user_index and not first.get("thoughtSignature"):
                position = f"function call `default_api:{calls[0]['name']}`, position {index + 1}"
                raise _invalid(
                    "Function call is missing a thought_signature in functionCall parts. "
                    f"Additional data, {position}."
                )
        if calls:
            raise _invalid(
                "Please ensure that function call turn is followed by a function response turn."
            )

    # Default answers

    def wanted_calls(self) -> list[tuple[str, Json]]:
        """Return one call for each function that the last user text names; ANY forces a call."""
        if not self.declared or self.mode == "NONE":
            return []
        has_results = bool(_values(self.contents[-1], "functionResponse"))
        names = [
            name
            for name in self.allowed
            if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", self.last_text)
        ]
        chosen = (
            names if names and not has_results else self.allowed[:1] if self.mode == "ANY" else []
        )
        match = re.search(r"\{.*\}", self.last_text, re.DOTALL)
        try:
            args = json.loads(match[0]) if match else None
        except ValueError:
            args = None
        return [
            (name, args if isinstance(args, dict) else self._sample_arguments(name))
            for name in chosen
        ]

    def _sample_arguments(self, name: str) -> Json:
        declaration = self.declared[name]
        schema = declaration.get("parametersJsonSchema", declaration.get("parameters", {}))
        value = sample_value(schema, schema)
        return value if isinstance(value, dict) else {}

    def answer_text(self) -> str:
        """Return the text of the answer.

        This is a value of the schema, or else the last user text, every image and the results in
        the last content.
        """
        schema = self.config.get("responseJsonSchema", self.config.get("responseSchema"))
        if schema is not None:
            value = sample_value(schema, schema)
            return (
                str(value)
                if self.config["responseMimeType"] == "text/x.enum"
                else json.dumps(value)
            )
        results = [
            f"{each['name']}={json.dumps(each['response'])}"
            for each in _values(self.contents[-1], "functionResponse")
        ]
        summary = " ".join([f"You said: {self.last_text}", *self.images, *results])
        return (
            json.dumps({"text": summary})
            if self.config.get("responseMimeType") == "application/json"
            else summary
        )


def sample_value(schema: Any, root: Any) -> Any:
    """Return a simple value that matches a JSON or OpenAPI schema."""
    if not isinstance(schema, dict):
        return "x"
    if "$ref" in schema:
        resolved = root
        for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
            resolved = resolved[step] if step else resolved
        return sample_value(resolved, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return sample_value(schema[keyword][0], root)
    schema_type = schema.get("type", "object" if "properties" in schema else "string")
    schema_type = (schema_type[0] if isinstance(schema_type, list) else schema_type).lower()
    if schema_type == "object":
        return {
            name: sample_value(subschema, root)
            for name, subschema in schema.get("properties", {}).items()
        }
    if schema_type == "array":
        return [sample_value(schema.get("items", {}), root)] * max(
            1, int(schema.get("minItems", 1))
        )
    if schema_type in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": True, "null": None}.get(schema_type, "x")


def _role(content: Json) -> str:
    return "model" if content.get("role") == "model" else "user"


def _values(content: Json, name: str) -> list[Json]:
    return [part[name] for part in content["parts"] if name in part]


def _match_key(call: Json) -> tuple[str, str | None]:
    """Return what matches a response with its call.

    This is the name, and the id when the client sets one; it must then set it on both.
    """
    return call.get("name", ""), call.get("id")


def _check_object(call: Json, name: str) -> None:
    if not call.get("name"):
        raise _invalid("The name of a function call or response must not be empty.")
    if not isinstance(call.get(name, {}), dict):
        raise _invalid(
            f"Invalid value at 'contents.parts.{name}' (type.googleapis.com/google.protobuf.Struct)"
        )


def _check_schema_keywords(schema: Any, path: str) -> None:
    if not isinstance(schema, dict):
        raise _invalid(f"Invalid value at '{path}'", path)
    for name, value in schema.items():
        if not re.fullmatch(SCHEMA_KEYWORDS, _camel(name)):
            raise _invalid(
                f"Invalid JSON payload received. Unknown name \"{name}\" at '{path}': "
                "Cannot find field.",
                path,
            )
        if name == "type" and value not in SCHEMA_TYPES:
            raise _invalid(
                f"Invalid value at '{path}.type' "
                "(type.googleapis.com/google.ai.generativelanguage.v1beta.Type), "
                f"{json.dumps(value)}"
            )
        subschemas = (
            list(value.values())
            if name == "properties"
            else value
            if _camel(name) == "anyOf"
            else [value]
            if name == "items"
            else []
        )
        for subschema in subschemas:
            _check_schema_keywords(subschema, f"{path}.{name}")
