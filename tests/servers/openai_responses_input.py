"""Validation of the conversation in a Responses API request.

It checks the fields of each item and which items belong together, and it reads the input for the
model from them.
"""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.servers.hashed_images import decoded, fingerprint
from tests.servers.openai_account import Model, Wish
from tests.servers.openai_images import Refused
from tests.servers.openai_shapes import (
    ANY,
    Text,
    check,
    check_filled,
    check_name,
    invalid,
    not_supported,
    read_file,
    read_image,
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
MIMES = (
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
    kept: bool
    """Whether the server stored the response with the item."""
    thought: str = ""
    """Id of the reasoning item directly before it; empty if there is none."""
    follower: Json | None = None
    """The item directly after it in the same response."""


@dataclass
class Stored:
    """A stored response."""

    response: Json
    items: list[Json] = field(default_factory=list)
    """The conversation up to and including the response."""


class Memory(Protocol):
    """The state of a server that requests are checked against."""

    models: dict[str, Model]
    files: dict[str, bytes]
    known: dict[str, Known]
    """Returned items by id."""
    sealed: dict[str, str]
    """Ids of reasoning items by their encrypted content."""
    stored: dict[str, Stored]
    """Stored responses by id."""


class Input:
    """The validated input of a request.

    `items` are the items that the model reads: the stored history, then the items of the request.
    `images` are the fingerprints of the images that can be edited.
    """

    def __init__(self, account: Memory, body: Json, wish: Wish) -> None:
        self.account, self.wish = account, wish
        self.images: list[str] = []
        given = body["input"]
        if isinstance(given, str):
            given = [{"role": "user", "content": given}]
        check(given, list, "input")
        check_filled(given, "input")
        before: list[Json] = []
        if previous := body.get("previous_response_id"):
            if previous not in account.stored:
                message = f"Previous response with id '{previous}' not found."
                raise Refused(message, "previous_response_not_found", "previous_response_id")
            before = account.stored[previous].items
        for index, item in enumerate(given):
            self._check(item, f"input[{index}]")
        own = [self._whole(item) for item in given]
        self._thoughts(own)
        self.items = [*before, *own]
        self._pairs()
        for item in own:
            self._look(item)

    # Fields of the items

    def _check(self, item: Any, path: str) -> None:
        check(item, dict, path)
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        check(kind, tuple(ITEMS), f"{path}.type")
        check(item, ITEMS[kind], path)
        if kind == "message":
            check(item["role"], ROLES, f"{path}.role")
            legal = (
                ("output_text", "refusal")
                if item["role"] == "assistant"
                else ("input_text", "input_image", "input_file")
            )
            self._content(item["content"], legal, f"{path}.content")
        if kind == "function_call":
            check_name(item["name"], f"{path}.name")
        if kind == "function_call_output":
            self._content(
                item["output"], ("input_text", "input_image", "input_file"), f"{path}.output"
            )

    def _content(self, content: Any, legal: tuple[str, ...], path: str) -> None:
        if isinstance(content, str):
            return
        check(content, list, path)
        check_filled(content, path)
        for index, part in enumerate(content):
            inner = f"{path}[{index}]"
            check(part, dict, inner)
            if part.get("type") not in legal:
                raise not_supported(part.get("type"), legal, f"{inner}.type")
            check(part, PARTS[part["type"]], inner)
            self._sight(part, inner)

    def _sight(self, part: Json, path: str) -> str:
        """Describe a content part; images and files are decoded completely."""
        kind = part["type"]
        if kind not in ("input_image", "input_file"):
            return str(part.get("text", part.get("refusal")))
        name = kind.removeprefix("input_")
        if "file_id" in part:
            if part["file_id"] not in self.account.files:
                raise invalid(
                    f"File {part['file_id']} was not found.", f"{path}.file_id", None, 404
                )
            return f"{name} of {len(self.account.files[part['file_id']])} bytes"
        if "file_url" in part:
            return f"file at {part['file_url']}"
        for wanted in ("image_url",) if name == "image" else ("filename", "file_data"):
            if wanted not in part:
                raise Refused(
                    f"Missing required parameter: '{path}.{wanted}'.",
                    "missing_required_parameter",
                    f"{path}.{wanted}",
                )
        if name == "image":
            return read_image(part["image_url"], f"{path}.image_url")
        return f"{part['filename']}: {read_file(part['file_data'], MIMES, f'{path}.file_data')}"

    # Items that belong together

    def _whole(self, item: Json) -> Json:
        """Return the complete item; an item that is sent by id only is looked up."""
        identity = item.get("id")
        if identity is None:
            return item
        known = self.account.known.get(identity)
        inline = (
            item.get("encrypted_content")
            or item.get("result")
            or item.get("type", "item_reference") in ("message", "function_call")
        )
        if known is None or (not known.kept and not inline):
            unkept = (
                " Items are not persisted when `store` is set to false. Try again with `store` "
                "set to true, or remove this item from your input."
            )
            raise Refused(
                f"Item with id '{identity}' not found.{unkept if known else ''}", None, "input", 404
            )
        return known.item | {
            name: value for name, value in item.items() if value is not None and name != "type"
        }

    def _thoughts(self, items: list[Json]) -> None:
        """Check that reasoning items and the items that follow them come back together.

        A reasoning item needs the item that followed it, and an item with an id needs the
        reasoning item before it. Images are exempt: "id alone is enough when stored".
        """
        for index, item in enumerate(items):
            if item.get("type") == "reasoning":
                self._follows(item, items[index + 1] if index + 1 < len(items) else None)
            elif (
                (known := self.account.known.get(item.get("id", "")))
                and known.thought
                and item["type"] != "image_generation_call"
            ):
                before = items[index - 1] if index else {}
                if before.get("type") != "reasoning" or self._named(before) != known.thought:
                    said = (
                        f"Item '{item['id']}' of type '{item['type']}' was provided without its "
                        f"required 'reasoning' item: '{known.thought}'."
                    )
                    raise invalid(said, "input", None)

    def _named(self, item: Json) -> str:
        """Return the id of a reasoning item, from its `id` or from its encrypted content."""
        held = item.get("encrypted_content")
        if held is None and "id" not in item:
            raise Refused(
                "Missing required parameter: 'input.encrypted_content'.",
                "missing_required_parameter",
                "input",
            )
        if held is None:
            return str(item["id"])
        if held not in self.account.sealed:
            said = (
                f"The encrypted content {held[:8]}... could not be verified. "
                "Reason: Encrypted content could not be decrypted or parsed."
            )
            raise Refused(said, "invalid_encrypted_content", None)
        identity = self.account.sealed[held]
        if item.get("id", identity) != identity:
            raise Refused(
                "Encrypted content item_id did not match the target item id.",
                "invalid_encrypted_content",
                None,
            )
        return identity

    def _follows(self, item: Json, after: Json | None) -> None:
        identity = self._named(item)
        wanted = self.account.known[identity].follower
        if wanted is None or after is None or essence(after) != essence(wanted):
            said = (
                f"Item '{identity}' of type 'reasoning' was provided "
                "without its required following item."
            )
            raise invalid(said, "input", None)

    def _pairs(self) -> None:
        """Check that every call has one output after it, and every output a call before it."""
        waiting: list[str] = []
        done: set[str] = set()
        for item in self.items:
            if item.get("type") == "function_call":
                if item["call_id"] in done | set(waiting):
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
                done.add(item["call_id"])
        if waiting:
            raise invalid(f"No tool output found for function call {waiting[0]}.", "input", None)

    # The input after the last output of the model

    def _look(self, item: Json) -> None:
        wish, kind = self.wish, item.get("type", "message")
        if kind == "image_generation_call":
            self._edit(item["result"])
        if (
            kind in ("reasoning", "function_call", "image_generation_call", "web_search_call")
            or item.get("role") == "assistant"
        ):
            wish.said, wish.sights, wish.answered = [], [], False
            return
        held = item["output"] if kind == "function_call_output" else item["content"]
        parts = [{"type": "input_text", "text": held}] if isinstance(held, str) else held
        shown = [(part["type"], self._sight(part, "input")) for part in parts]
        for part in parts:
            if part["type"] == "input_image" and part.get("image_url", "").startswith("data:"):
                self._edit(part["image_url"].partition(",")[2])
        if kind == "function_call_output":
            wish.answered = True
            wish.sights.append(
                f"result {item['call_id']}: {' '.join(text for _, text in shown)}".rstrip()
            )
        elif item["role"] == "user":
            wish.said += [text for name, text in shown if name == "input_text"]
            wish.sights += [text for name, text in shown if name != "input_text"]

    def _edit(self, data: str) -> None:
        image = decoded(b64decode(data))
        if image is None:
            raise invalid("The result of an image generation call is no image.", "input")
        self.images.append(fingerprint(image))


def essence(item: Json) -> str:
    """Return the content that identifies an item when it comes back, with or without its id."""
    kind = item.get("type", "message")
    if kind == "function_call":
        return json.dumps([kind, item["call_id"], item["name"], item["arguments"]])
    if kind == "message":
        content = item["content"]
        text = (
            content
            if isinstance(content, str)
            else "".join(part.get("text", part.get("refusal", "")) for part in content)
        )
        return json.dumps([kind, item["role"], text])
    return json.dumps([kind, item.get("encrypted_content") or item.get("id")])
