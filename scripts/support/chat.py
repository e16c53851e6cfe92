"""Tables of what each chat backend does with each field.

The dialects themselves decide: a request with the field is encoded and compared with one without.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image
from support.page import legend, of_one_page, optional_examples, table

import majordomo as md
from majordomo import llm
from majordomo.dialects.openai.presets import PRESETS
from majordomo.llm import FilePart, ThinkingPart, ToolCallPart

IMAGE = md.ImagePart.from_pil(Image.new("RGB", (8, 8)))
TOOL = md.Tool("look", "Look at something.")


@dataclass(frozen=True)
class Backend:
    """A column of the tables.

    What encoding a request cannot show is written as text; TESTS names the tests that prove it.
    `pages` are the backend pages that have the column.
    """

    name: str
    pages: tuple[str, ...]
    model: Callable[[], llm.Model]
    provider: Callable[[], llm.Provider]
    images: str = "–"
    usage: str = "input, output, cached, reasoning"
    cancel: str = "closes the connection"
    models_report: str = "–"


def _of(make: Callable[[], Any], name: str) -> dict[str, Any]:
    return {"model": lambda: make().model(name), "provider": make}


def _preset(name: str) -> Backend:
    images = "yes, with `modalities` in `extra`" if name == "openrouter" else COMPATIBLE["images"]
    factories = _of(lambda: md.OpenAICompatible(preset=name, api_key="k"), "m")
    pages = ("compatible", "llama-cpp") if name == "llamacpp" else ("compatible",)
    return Backend(
        name, pages, **factories, images=images, models_report=COMPATIBLE["models_report"]
    )


COMPATIBLE = {"images": "if the server sends any", "models_report": "what the server declares"}
BACKENDS = [
    Backend(
        "`OpenAI` Responses",
        ("openai",),
        **_of(lambda: md.OpenAI("k", api="responses"), "gpt-5"),
        images="yes, with the hosted tool in `extra`",
        models_report="chat, images, embeddings, by name",
    ),
    Backend(
        '`OpenAI(api="chat")`',
        ("openai",),
        **_of(lambda: md.OpenAI("k", api="chat"), "gpt-5"),
        models_report="chat, images, embeddings, by name",
    ),
    Backend(
        "`OpenAICompatible`",
        ("compatible",),
        **_of(lambda: md.OpenAICompatible(), "m"),
        **COMPATIBLE,
    ),
    *(_preset(name) for name in PRESETS),
    Backend(
        "`LlamaSwap`",
        ("llama-swap",),
        **_of(lambda: md.LlamaSwap(), "m"),
        images="if the server sends any",
        models_report="what its operator declares; loaded or not",
    ),
    Backend(
        "`Ollama`",
        ("ollama",),
        **_of(lambda: md.Ollama(), "m"),
        usage="input, output",
        models_report="all; loaded or not",
    ),
    Backend(
        "`Anthropic` up to 4.5",
        ("anthropic",),
        **_of(lambda: md.Anthropic("k"), "claude-sonnet-4-5"),
        models_report="chat, vision, tools",
    ),
    Backend(
        "`Anthropic` from 4.7",
        ("anthropic",),
        **_of(lambda: md.Anthropic("k"), "claude-opus-4-8"),
        models_report="chat, vision, tools",
    ),
    Backend(
        '`Anthropic(version="2026-10-21")`',
        ("anthropic",),
        **_of(lambda: md.Anthropic("k", version="2026-10-21"), "claude-opus-4-8"),
        models_report="chat, vision, tools",
    ),
    Backend(
        "`Gemini` 2.5",
        ("gemini",),
        **_of(lambda: md.Gemini("k"), "gemini-2.5-flash"),
        images="yes",
        models_report="chat, vision, thinking, images, embeddings",
    ),
    Backend(
        "`Gemini` 3",
        ("gemini",),
        **_of(lambda: md.Gemini("k"), "gemini-3-pro"),
        images="yes",
        models_report="chat, vision, thinking, images, embeddings",
    ),
    Backend(
        "`Offline`",
        ("offline",),
        **_of(lambda: md.Offline(), "rules"),
        usage="–",
        cancel="stops",
        models_report="all",
    ),
]

# The tests for the rows that are written as text.
TESTS = {
    "images in answers": [
        "tests/dialects/test_chat_dialects.py::test_responses_generate_images_with_the_hosted_tool",
        "tests/dialects/test_chat_dialects.py::test_gemini_returns_the_final_image_without_its_draft",
        "tests/dialects/test_openai_chat.py::test_images_in_responses_become_parts_and_links_are_not_fetched",
    ],
    "`usage` reports": [
        "tests/dialects/test_chat_dialects.py::test_a_complete_response_is_decoded"
    ],
    "cancelling": [
        "tests/providers/test_chat_providers.py::test_leaving_a_stream_closes_its_connection",
        "tests/providers/test_chat_hostile.py::test_cancelling_in_any_phase_leaves_no_socket_and_the_next_call_works",
    ],
    "`models()` reports": [
        "tests/dialects/test_model_lists.py::test_a_list_gives_the_declared_capabilities",
        "tests/dialects/test_model_lists.py::test_openai_capabilities_follow_from_the_name",
        "tests/dialects/test_model_lists.py::test_gemini_capabilities_follow_from_the_methods",
    ],
    "one conversation with all backends": [
        "tests/providers/test_one_conversation.py::test_the_conversation_is_the_same_with_every_backend"
    ],
}

TOOLS: dict[str, Any] = {"tools": (TOOL,)}
Probe = tuple[dict[str, Any], dict[str, Any], str]
# By field: rows that the example of the field alone does not show. A row has fields of the request,
# fields of the request that it is compared with, and the field that a warning or an error names.
SPECIAL_FIELDS: dict[str, dict[str, Probe]] = {
    "tools": {"`tools`": (TOOLS, {}, "tools")},
    "tool_choice": {
        '`tool_choice="none"`': (TOOLS | {"tool_choice": "none"}, TOOLS, "tool_choice"),
        '`tool_choice="required"`': (TOOLS | {"tool_choice": "required"}, TOOLS, "tool_choice"),
        "`tool_choice` a name": (TOOLS | {"tool_choice": "look"}, TOOLS, "tool_choice"),
    },
    "output": {
        "`output`": (
            {"output": {"type": "object", "properties": {"a": {"type": "integer"}}}},
            {},
            "output",
        )
    },
    "temperature": {
        "`temperature` to 1": ({"temperature": 0.5}, {}, "temperature"),
        "`temperature` above 1": ({"temperature": 1.5}, {}, "temperature"),
    },
    "reasoning": {
        '`reasoning="low"`': ({"reasoning": "low"}, {}, "reasoning"),
        "`reasoning` in tokens": ({"reasoning": 4000}, {}, "reasoning"),
        '`reasoning="off"`': ({"reasoning": "off"}, {}, "reasoning"),
        "`temperature` with `reasoning`": (
            {"reasoning": "low", "temperature": 0.5},
            {"reasoning": "low"},
            "temperature",
        ),
    },
}
FIELDS: dict[str, Probe] = {
    row: probe
    for name, example in optional_examples(llm.Request, SPECIAL_FIELDS)
    for row, probe in SPECIAL_FIELDS.get(name, {f"`{name}`": ({name: example}, {}, name)}).items()
}
CELL_VALUES = {
    "yes": "the field is sent",
    "warning": "the backend does not support the field or only some values; the reply has a"
    " warning, with `strict=True` an `UnsupportedError` is raised",
    "no": "an `UnsupportedError` is raised before anything is sent",
    "moved": "sent in the next user message, labeled with its source",
    "merged": "all system messages are combined at the start, and the reply has a warning",
    "prompted": "the schema is put in the prompt, not enforced by the server",
}
LEGEND = """\
`thinking sent back` lists which parts of its own thinking a model gets back: the text, the
signature (or its equivalent), or both. Thinking of another provider is never sent. A name
without a class is a preset of `OpenAICompatible`. What the backend supports, the model behind
it may not."""


def body_of(
    model: Any, messages: Sequence[llm.Message], fields: Mapping[str, Any]
) -> tuple[str, list[str | None]]:
    """Return the body as JSON and the fields that warnings name; Offline has no body."""
    request = llm.Request(tuple(messages), **fields)
    if not hasattr(model, "_codec"):
        source = model._stream(request, model._start_call(request, None, None))
        return "", [warning.field for warning in source._warnings]
    http_request, warnings = model._codec.encode_request(model.id, request)
    raw = (
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )
    return json.dumps(json.loads(raw), ensure_ascii=False), [warning.field for warning in warnings]


def field_cell(backend: Backend, model: Any, row: str) -> str:
    fields, baseline, name = FIELDS[row]
    hello = [md.user("hi")]
    try:
        body, warned = body_of(model, hello, fields)
    except md.UnsupportedError:
        return "no"
    if name in warned:
        return "warning"
    plain, _ = body_of(model, hello, baseline)
    if body == plain and body:
        sys.exit(f"{backend.name} drops {row} without a warning")
    return "prompted" if name == "output" and '"json_object"' in body else "yes"


def part_cell(model: Any, messages: Sequence[llm.Message], nearby: str, sent: str) -> str:
    """Return whether `sent` is in the body, and in the same message as `nearby`."""
    try:
        body, warned = body_of(model, messages, {})
    except md.UnsupportedError:
        return "no"
    if "messages" in warned:
        return "warning"
    if not body:
        return "yes"
    document = json.loads(body)
    sent_messages = document.get("messages") or document.get("input") or document["contents"]
    containing = [message for message in sent_messages if sent in json.dumps(message)]
    if not containing:
        return "–"
    return "yes" if nearby in json.dumps(containing[0]) else "moved"


def system_cell(model: Any) -> str:
    body, _ = body_of(model, [md.user("FIRST"), md.system("MIDDLE"), md.user("LAST")], {})
    if not body:
        return "yes"
    return "yes" if body.index("FIRST") < body.index("MIDDLE") < body.index("LAST") else "merged"


def thinking_cell(model: Any) -> str:
    """Return which parts of its thinking a model gets back, without tools and in a tool loop."""
    provider = model._codec.provider if hasattr(model, "_codec") else model.provider
    opaque = {
        "signature": "SIGNED",
        "encrypted_content": "SIGNED",
        "reasoning_details": [{"type": "x", "text": "PRIVATE", "signature": "SIGNED"}],
    }
    thought, call = ThinkingPart("PRIVATE", provider, opaque), ToolCallPart("c", "look", "{}")
    found = []
    for parts in ([thought, "ok"], [thought, call]):
        results = [md.tool_result(call, "seen")] if call in parts else []
        body, _ = body_of(
            model, [md.user("hi"), llm.assistant(*parts), *results, md.user("go on")], {}
        )
        kinds = [
            word for word, mark in (("text", "PRIVATE"), ("signature", "SIGNED")) if mark in body
        ]
        found.append(" and ".join(kinds))
    plain, looped = found
    return (plain or "–") if plain == looped else f"{looped}, in tool loops only"


def column(backend: Backend) -> dict[str, str]:
    model = backend.model()
    call = ToolCallPart("c", "look", "{}")
    image, pdf, note = (
        IMAGE.to_base64(),
        FilePart(b"%PDF-1.4 sent", "application/pdf", "a.pdf"),
        FilePart(b"sent", "text/plain", "a.txt"),
    )
    messages_with_result = [
        md.user("hi"),
        llm.assistant(call),
        md.tool_result(call, "RESULT", IMAGE),
    ]
    cells = {
        "images of the user": part_cell(model, [md.user("HERE", IMAGE)], "HERE", image),
        "images in tool results": part_cell(model, messages_with_result, "RESULT", image),
        "images of the assistant": part_cell(
            model,
            [md.user("hi"), llm.assistant("SAID", IMAGE), md.user("go on")],
            "SAID",
            image,
        ),
        "PDF files": part_cell(model, [md.user("HERE", pdf)], "HERE", "HERE"),
        "text files": part_cell(model, [md.user("HERE", note)], "HERE", "HERE"),
        "system messages in the middle": system_cell(model),
    }
    cells |= {row: field_cell(backend, model, row) for row in FIELDS}
    cells["thinking sent back"] = thinking_cell(model)
    try:
        backend.provider().embedding_model("m")  # type: ignore[attr-defined]
        cells["embeddings"] = "yes"
    except md.UnsupportedError:
        cells["embeddings"] = "no"
    words = (backend.images, backend.usage, backend.cancel, backend.models_report)
    return cells | dict(
        zip(
            ("images in answers", "`usage` reports", "cancelling", "`models()` reports"),
            words,
            strict=True,
        )
    )


def grouped(columns: Sequence[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    """Merge the columns of backends with equal cells."""
    merged: list[tuple[list[str], dict[str, str]]] = []
    for name, cells in columns:
        same = next((names for names, known in merged if known == cells), None)
        if same is None:
            merged.append(([name], cells))
        else:
            same.append(name)
    return [(", ".join(names), cells) for names, cells in merged]


@cache
def columns() -> list[tuple[Backend, dict[str, str]]]:
    return [(backend, column(backend)) for backend in BACKENDS]


def full_table() -> str:
    """Return the table of all backends, each with a link to its page."""
    found = grouped(
        [
            (f"[{backend.name}](backends/{backend.pages[-1]}.md)", cells)
            for backend, cells in columns()
        ]
    )
    support = table(
        ["", *(name for name, _ in found)],
        [[row, *(cells[row] for _, cells in found)] for row in found[0][1]],
    )
    proofs = "\n".join(
        f"* {row}: {', '.join(f'`{name}`' for name in names)}" for row, names in TESTS.items()
    )
    return (
        f"{legend(CELL_VALUES)}\n\n{LEGEND}\n\n{support}\n\n"
        f"These tests prove the rows that are written as text:\n\n{proofs}"
    )


def page_tables() -> dict[str, str]:
    """Return the table of each backend's own page."""
    tables = {}
    for page in dict.fromkeys(page for backend, _ in columns() for page in backend.pages):
        found = grouped(
            [(backend.name, cells) for backend, cells in columns() if page in backend.pages]
        )
        if len(found) == 1 and found[0][0] in PRESETS:
            found = [(f'`OpenAICompatible(preset="{found[0][0]}")`', found[0][1])]
        tables[page] = of_one_page(CELL_VALUES, list(found[0][1]), found)
    return tables


def presets_table() -> str:
    """Return the table of presets of `OpenAICompatible`: address and key variable."""
    rows = [
        [
            f"`{name}`",
            f"`{row.base_url}`",
            f"`{row.key_variable}`",
            "if it has one" if row.local else "yes",
            "local" if row.local else "hosted",
        ]
        for name, row in PRESETS.items()
    ]
    return table(["`preset`", "address", "variable of the key", "key needed", "time limits"], rows)
