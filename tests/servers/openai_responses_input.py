"""Validation of the conversation in a Responses API request.

It checks the fields of each item and which items belong together, and it reads the input for the
model from them.
"""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.servers.hashed_images import decode_image, fingerprint
from tests.servers.openai_account import Model, ModelInput
from tests.servers.openai_images import Refused
from tests.servers.openai_shapes import (
    ANY,
    Text,
    check,
    check_filled,
    check_name,
    describe_file,
    describe_image,
    invalid,
    not_supported,
)

Json = dict[str, Any]
STATES = ("in_progress", "completed", "incomplete")
ID = Text(64)
ITEMS: dict[str, Json] = {
    "message": {
        "type": str,
        "role!": str,
        "content!": ANY,
        "id": ID,
        "status": STATES,
        "phase?": ("commentary", "final_answer"),
    },
    "function_call": {
        "type!": str,
        "id": ID,
        "call_id!": ID,
        "name!": str,
        "arguments!": str,
        "status": STATES,
        "namespace": str,
    },
    "function_call_output": {
        "type!": str,
        "id": ID,
        "call_id!": ID,
        "output!": ANY,
        "status": STATES,
    },
    "reasoning": {
        "type!": str,
        "id": ID,
        "summary!": [{"type!": ("summary_text",), "text!": str}],
        "content": [{"type!": ("reasoning_text",), "text!": str}],
        "encrypted_content?": str,
        "status": STATES,
    },
    "image_generation_call": {
        "type!": str,
        "id!": ID,
        "status": (*STATES, "generating", "failed"),
        "result?": str,
        **dict.fromkeys(
            ("revised_prompt", "size", "quality", "background", "output_format", "action"), str
        ),
    },
    "web_search_call": {
        "type!": str,
        "id!": ID,
        "status": (*STATES, "searching", "failed"),
        "action": dict,
    },
    "item_reference": {"type": str, "id!": ID},
}
ROLES = ("user", "assistant", "system", "developer")
PARTS: dict[str, Json] = {
    "input_text": {"type!": str, "text!": str},
    "input_image": {
        "type!": str,
        "detail": ("auto", "low", "high", "original"),
        "image_url": str,
        "file_id": str,
    },
    "input_file": {
        "type!": str,
        "filename": str,
        "file_data": str,
        "file_url": str,
        "file_id": str,
    },
    "output_text": {"type!": str, "text!": str, "annotations": list, "logprobs": list},
    "refusal": {"type!": str, "refusal!": str},
}
FILE_MIME_TYPES = (
    "application/pdf",
    "application/json",
    "text/plain",
    "text/csv",
    "text/html",
    "text/markdown",
)


@dataclass
class Known:
    """An item that the server returned earlier."""

    item: Json
    stored: bool
    """Whether the server stored the response with the item."""
    reasoning_id: str = ""
    """Id of the reasoning item directly before it; empty if there is none."""
    follower: Json | None = None
    """The item directly after it in the same response."""


@dataclass
class Stored:
    """A stored response."""

    response: Json
    items: list[Json] = field(default_factory=list)
    """The conversation up to and including the response."""


class ServerState(Protocol):
    """The state of a server that requests are checked against."""

    models: dict[str, Model]
    files: dict[str, bytes]
    known: dict[str, Known]
    """Returned items by id."""
    reasoning_ids: dict[str, str]
    """Ids of reasoning items by their encrypted content."""
    stored: dict[str, Stored]
    """Stored responses by id."""


class Input:
    """The validated input of a request.

    `items` are the items that the model reads: the stored history, then the items of the request.
    `images` are the fingerprints of the images that can be edited.
    """

    def __init__(self, account: ServerState, body: Json, model_input: ModelInput) -> None:
        self.account, self.model_input = account, model_input
        self.images: list[str] = []
        items = body["input"]
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        check(items, list, "input")
        check_filled(items, "input")
        history: list[Json] = []
        if previous := body.get("previous_response_id"):
            if previous not in account.stored:
                message = f"Previous response with id '{previous}' not found."
                raise Refused(message, "previous_response_not_found", "previous_response_id")
            history = account.stored[previous].items
        for index, item in enumerate(items):
            self._check(item, f"input[{index}]")
        request_items = [self._resolve(item) for item in items]
        self._check_reasoning(request_items)
        self.items = [*history, *request_items]
        self._pairs()
        for item in request_items:
            self._read(item)

    # Fields of the items

    def _check(self, item: Any, path: str) -> None:
        check(item, dict, path)
        item_type = item.get("type") or ("message" if "role" in item else "item_reference")
        check(item_type, tuple(ITEMS), f"{path}.type")
        check(item, ITEMS[item_type], path)
        if item_type == "message":
            check(item["role"], ROLES, f"{path}.role")
            legal = (
                ("output_text", "refusal")
                if item["role"] == "assistant"
                else ("input_text", "input_image", "input_file")
            )
            self._content(item["content"], legal, f"{path}.content")
        if item_type == "function_call":
            check_name(item["name"], f"{path}.name")
        if item_type == "function_call_output":
            self._content(
                item["output"], ("input_text", "input_image", "input_file"), f"{path}.output"
            )

    def _content(self, content: Any, legal: tuple[str, ...], path: str) -> None:
        if isinstance(content, str):
            return
        check(content, list, path)
        check_filled(content, path)
        for index, part in enumerate(content):
            part_path = f"{path}[{index}]"
            check(part, dict, part_path)
            if part.get("type") not in legal:
                raise not_supported(part.get("type"), legal, f"{part_path}.type")
            check(part, PARTS[part["type"]], part_path)
            self._describe(part, part_path)

    def _describe(self, part: Json, path: str) -> str:
        """Describe a content part; images and files are decoded completely."""
        part_type = part["type"]
        if part_type not in ("input_image", "input_file"):
            return str(part.get("text", part.get("refusal")))
        name = part_type.removeprefix("input_")
        if "file_id" in part:
            if part["file_id"] not in self.account.files:
                raise invalid(
                    f"File {part['file_id']} was not found.", f"{path}.file_id", None, 404
                )
            return f"{name} of {len(self.account.files[part['file_id']])} bytes"
        if "file_url" in part:
            return f"file at {part['file_url']}"
        for key in ("image_url",) if name == "image" else ("filename", "file_data"):
            if key not in part:
                raise Refused(
                    f"Missing required parameter: '{path}.{key}'.",
                    "missing_required_parameter",
                    f"{path}.{key}",
                )
        if name == "image":
            return describe_image(part["image_url"], f"{path}.image_url")
        file = describe_file(part["file_data"], FILE_MIME_TYPES, f"{path}.file_data")
        return f"{part['filename']}: {file}"

    # Items that belong together

    def _resolve(self, item: Json) -> Json:
        """Return the complete item; an item that is sent by id only is looked up."""
        item_id = item.get("id")
        if item_id is None:
            return item
        known = self.account.known.get(item_id)
        inline = (
            item.get("encrypted_content")
            or item.get("result")
            or item.get("type", "item_reference") in ("message", "function_call")
        )
        if known is None or (not known.stored and not inline):
            hint = (
                " Items are not persisted when `store` is set to false. Try again with `store` "
                "set to true, or remove this item from your input."
            )
            raise Refused(
                f"Item with id '{item_id}' not found.{hint if known else ''}", None, "input", 404
            )
        return known.item | {
            name: value for name, value in item.items() if value is not None and name != "type"
        }

    def _check_reasoning(self, items: list[Json]) -> None:
        """Check that reasoning items and the items that follow them come back together.

        A reasoning item needs the item that followed it, and an item with an id needs the
        reasoning item before it. Images are exempt: "id alone is enough when stored".
        """
        for index, item in enumerate(items):
            if item.get("type") == "reasoning":
                self._check_follower(item, items[index + 1] if index + 1 < len(items) else None)
            elif (
                (known := self.account.known.get(item.get("id", "")))
                and known.reasoning_id
                and item["type"] != "image_generation_call"
            ):
                before = items[index - 1] if index else {}
                if (
                    before.get("type") != "reasoning"
                    or self._reasoning_id(before) != known.reasoning_id
                ):
                    message = (
                        f"Item '{item['id']}' of type '{item['type']}' was provided without its "
                        f"required 'reasoning' item: '{known.reasoning_id}'."
                    )
                    raise invalid(message, "input", None)

    def _reasoning_id(self, item: Json) -> str:
        """Return the id of a reasoning item, from its `id` or from its encrypted content."""
        encrypted = item.get("encrypted_content")
        if encrypted is None and "id" not in item:
            raise Refused(
                "Missing required parameter: 'input.encrypted_content'.",
                "missing_required_parameter",
                "input",
            )
        if encrypted is None:
            return str(item["id"])
        if encrypted not in self.account.reasoning_ids:
            message = (
                f"The encrypted content {encrypted[:8]}... could not be verified. "
                "Reason: Encrypted content could not be decrypted or parsed."
            )
            raise Refused(message, "invalid_encrypted_content", None)
        reasoning_id = self.account.reasoning_ids[encrypted]
        if item.get("id", reasoning_id) != reasoning_id:
            raise Refused(
                "Encrypted content item_id did not match the target item id.",
                "invalid_encrypted_content",
                None,
            )
        return reasoning_id

    def _check_follower(self, item: Json, next_item: Json | None) -> None:
        reasoning_id = self._reasoning_id(item)
        follower = self.account.known[reasoning_id].follower
        if follower is None or next_item is None or identity(next_item) != identity(follower):
            message = (
                f"Item '{reasoning_id}' of type 'reasoning' was provided "
                "without its required following item."
            )
            raise invalid(message, "input", None)

    def _pairs(self) -> None:
        """Check that every call has one output after it, and every output a call before it."""
        waiting: list[str] = []
        answered: set[str] = set()
        for item in self.items:
            if item.get("type") == "function_call":
                if item["call_id"] in answered | set(waiting):
                    raise invalid(
                        f"Duplicate function call with call_id {item['call_id']}.", "input", None
                    )
                waiting.append(item["call_id"])
            elif item.get("type") == "function_call_output":
                if item["call_id"] not in waiting:
                    raise invalid(
                        "No tool call found for function call output "
                        f"with call_id {item['call_id']}.",
                        "input",
                        None,
                    )
                waiting.remove(item["call_id"])
                answered.add(item["call_id"])
        if waiting:
            raise invalid(f"No tool output found for function call {waiting[0]}.", "input", None)

    # The input after the last output of the model

    def _read(self, item: Json) -> None:
        model_input, item_type = self.model_input, item.get("type", "message")
        if item_type == "image_generation_call":
            self._add_image(item["result"])
        if (
            item_type in ("reasoning", "function_call", "image_generation_call", "web_search_call")
            or item.get("role") == "assistant"
        ):
            model_input.clear()
            return
        content = item["output"] if item_type == "function_call_output" else item["content"]
        parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
        descriptions = [(part["type"], self._describe(part, "input")) for part in parts]
        for part in parts:
            if part["type"] == "input_image" and part.get("image_url", "").startswith("data:"):
                self._add_image(part["image_url"].partition(",")[2])
        if item_type == "function_call_output":
            model_input.has_tool_results = True
            model_input.descriptions.append(
                f"result {item['call_id']}: {' '.join(text for _, text in descriptions)}".rstrip()
            )
        elif item["role"] == "user":
            model_input.user_texts += [text for name, text in descriptions if name == "input_text"]
            model_input.descriptions += [
                text for name, text in descriptions if name != "input_text"
            ]

    def _add_image(self, data: str) -> None:
        image = decode_image(b64decode(data))
        if image is None:
            raise invalid("The result of an image generation call is no image.", "input")
        self.images.append(fingerprint(image))


def identity(item: Json) -> str:
    """Return the content that identifies an item when it comes back, with or without its id."""
    item_type = item.get("type", "message")
    if item_type == "function_call":
        return json.dumps([item_type, item["call_id"], item["name"], item["arguments"]])
    if item_type == "message":
        content = item["content"]
        text = (
            content
            if isinstance(content, str)
            else "".join(part.get("text", part.get("refusal", "")) for part in content)
        )
        return json.dumps([item_type, item["role"], text])
    return json.dumps([item_type, item.get("encrypted_content") or item.get("id")])
