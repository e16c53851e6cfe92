"""What each chat backend does with each field, asked of the dialects themselves: a request with the field is encoded beside one without."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image
from support.page import legend, of_one_page, table

import majordomo as md
from majordomo import llm
from majordomo.dialects.openai.presets import PRESETS
from majordomo.llm import FilePart, ThinkingPart, ToolCallPart

PICTURE = md.ImagePart.from_pil(Image.new("RGB", (8, 8)))
TOOL = md.Tool("look", "Look at something.")


@dataclass(frozen=True)
class Backend:
    """A column. What no `encode` tells is said in words; WORDS names the tests that show it. `pages` are those that have it."""

    name: str
    pages: tuple[str, ...]
    model: Callable[[], llm.Model]
    provider: Callable[[], llm.Provider]
    images: str = "–"
    usage: str = "input, output, cached, reasoning"
    cancel: str = "closes the connection"
    told: str = "–"


def _of(make: Callable[[], Any], name: str) -> dict[str, Any]:
    return {"model": lambda: make().model(name), "provider": make}


def _preset(name: str) -> Backend:
    pictures = "yes, with `modalities` in `extra`" if name == "openrouter" else COMPATIBLE["images"]
    made = _of(lambda: md.OpenAICompatible(preset=name, api_key="k"), "m")
    pages = ("compatible", "llama-cpp") if name == "llamacpp" else ("compatible",)
    return Backend(name, pages, **made, images=pictures, told=COMPATIBLE["told"])


COMPATIBLE = {"images": "if the server sends any", "told": "what the server declares"}
BACKENDS = [
    Backend(
        "`OpenAI` Responses",
        ("openai",),
        **_of(lambda: md.OpenAI("k", api="responses"), "gpt-5"),
        images="yes, with the hosted tool in `extra`",
        told="chat, images, embeddings, by name",
    ),
    Backend(
        '`OpenAI(api="chat")`',
        ("openai",),
        **_of(lambda: md.OpenAI("k", api="chat"), "gpt-5"),
        told="chat, images, embeddings, by name",
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
        told="what its operator declares; loaded or not",
    ),
    Backend(
        "`Ollama`",
        ("ollama",),
        **_of(lambda: md.Ollama(), "m"),
        usage="input, output",
        told="all; loaded or not",
    ),
    Backend(
        "`Anthropic` up to 4.5",
        ("anthropic",),
        **_of(lambda: md.Anthropic("k"), "claude-sonnet-4-5"),
        told="chat, sight, tools",
    ),
    Backend(
        "`Anthropic` from 4.7",
        ("anthropic",),
        **_of(lambda: md.Anthropic("k"), "claude-opus-4-8"),
        told="chat, sight, tools",
    ),
    Backend(
        '`Anthropic(version="2026-10-21")`',
        ("anthropic",),
        **_of(lambda: md.Anthropic("k", version="2026-10-21"), "claude-opus-4-8"),
        told="chat, sight, tools",
    ),
    Backend(
        "`Gemini` 2.5",
        ("gemini",),
        **_of(lambda: md.Gemini("k"), "gemini-2.5-flash"),
        images="yes",
        told="chat, sight, thinking, images, embeddings",
    ),
    Backend(
        "`Gemini` 3",
        ("gemini",),
        **_of(lambda: md.Gemini("k"), "gemini-3-pro"),
        images="yes",
        told="chat, sight, thinking, images, embeddings",
    ),
    Backend(
        "`Offline`",
        ("offline",),
        **_of(lambda: md.Offline(), "rules"),
        usage="–",
        cancel="stops",
        told="all",
    ),
]

# What stands in words above, and the tests that show it
WORDS = {
    "images in answers": [
        "tests/dialects/test_chat_dialects.py::test_responses_generate_images_with_the_hosted_tool",
        "tests/dialects/test_chat_dialects.py::test_gemini_returns_the_final_image_without_its_draft",
        "tests/dialects/test_openai_chat.py::test_images_in_responses_become_parts_and_links_are_not_fetched",
    ],
    "`usage` tells": ["tests/dialects/test_chat_dialects.py::test_a_complete_response_is_decoded"],
    "cancelling": [
        "tests/providers/test_chat_providers.py::test_leaving_a_stream_closes_its_connection",
        "tests/providers/test_chat_hostile.py::test_a_call_that_is_cancelled_in_any_phase_leaves_no_socket_and_the_next_one_works",
    ],
    "`models()` tells": [
        "tests/dialects/test_model_lists.py::test_a_list_gives_the_declared_capabilities",
        "tests/dialects/test_model_lists.py::test_openai_capabilities_follow_from_the_name",
        "tests/dialects/test_model_lists.py::test_gemini_capabilities_follow_from_the_methods",
    ],
    "one conversation, the same with all": [
        "tests/providers/test_one_conversation.py::test_the_conversation_is_the_same_with_every_backend"
    ],
}

TOOLS: dict[str, Any] = {"tools": (TOOL,)}
# row: (what is asked for, what the request it is compared with has, the field that a warning or an error would name)
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "`tools`": (TOOLS, {}, "tools"),
    '`tool_choice="none"`': (TOOLS | {"tool_choice": "none"}, TOOLS, "tool_choice"),
    '`tool_choice="required"`': (TOOLS | {"tool_choice": "required"}, TOOLS, "tool_choice"),
    "`tool_choice` a name": (TOOLS | {"tool_choice": "look"}, TOOLS, "tool_choice"),
    "`output`": (
        {"output": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        {},
        "output",
    ),
    "`temperature` to 1": ({"temperature": 0.5}, {}, "temperature"),
    "`temperature` above 1": ({"temperature": 1.5}, {}, "temperature"),
    "`top_p`": ({"top_p": 0.5}, {}, "top_p"),
    "`top_k`": ({"top_k": 5}, {}, "top_k"),
    "`seed`": ({"seed": 7}, {}, "seed"),
    "`stop`": ({"stop": ("x",)}, {}, "stop"),
    "`max_tokens`": ({"max_tokens": 7}, {}, "max_tokens"),
    '`reasoning="low"`': ({"reasoning": "low"}, {}, "reasoning"),
    "`reasoning` in tokens": ({"reasoning": 4000}, {}, "reasoning"),
    '`reasoning="off"`': ({"reasoning": "off"}, {}, "reasoning"),
    "`temperature` beside `reasoning`": (
        {"reasoning": "low", "temperature": 0.5},
        {"reasoning": "low"},
        "temperature",
    ),
}
WORDS_OF_CELLS = {
    "yes": "it arrives",
    "warning": "the backend has no such thing or only some values; the reply warns, `strict=True` makes it an `UnsupportedError`",
    "no": "`UnsupportedError` before anything is sent",
    "moved": "it travels in the user's turn that follows, with a line that says whence it came",
    "gathered": "all system turns stand together before the conversation, and the reply warns",
    "in words": "the schema is told to the model, which the server does not force",
}
LEGEND = """What thinking a model gets back: its text, its signature (or what the backend calls so), or both; another provider's is never sent.
A bare name is a preset of `OpenAICompatible`. Whether the model behind it can do what the backend can say, the model decides."""


def body_of(
    model: Any, messages: Sequence[llm.Message], fields: Mapping[str, Any]
) -> tuple[str, list[str | None]]:
    """The body in JSON, and the fields that warnings name. Offline has no body, and warns all the same."""
    request = llm.Request(tuple(messages), **fields)
    if not hasattr(model, "_codec"):
        return "", [warning.field for warning in model._stream(request)._warnings]
    wire, warnings = model._codec.encode_request(model.id, request)
    raw = wire.body if isinstance(wire.body, bytes) else b"".join(wire.body.chunks())
    return json.dumps(json.loads(raw), ensure_ascii=False), [warning.field for warning in warnings]


def field_cell(backend: Backend, model: Any, row: str) -> str:
    asked, beside, name = FIELDS[row]
    hello = [md.user("hi")]
    try:
        body, warned = body_of(model, hello, asked)
    except md.UnsupportedError:
        return "no"
    if name in warned:
        return "warning"
    plain, _ = body_of(model, hello, beside)
    if body == plain and body:
        sys.exit(f"{backend.name} drops {row} without a word")
    return "in words" if name == "output" and '"json_object"' in body else "yes"


def part_cell(model: Any, messages: Sequence[llm.Message], told: str, sent: str) -> str:
    """Whether `sent` arrives, and in the turn that also says `told`."""
    try:
        body, warned = body_of(model, messages, {})
    except md.UnsupportedError:
        return "no"
    if "messages" in warned:
        return "warning"
    if not body:
        return "yes"
    document = json.loads(body)
    turns = document.get("messages") or document.get("input") or document["contents"]
    where = [turn for turn in turns if sent in json.dumps(turn)]
    if not where:
        return "–"
    return "yes" if told in json.dumps(where[0]) else "moved"


def system_cell(model: Any) -> str:
    body, _ = body_of(model, [md.user("FIRST"), md.system("MIDDLE"), md.user("LAST")], {})
    if not body:
        return "yes"
    return "yes" if body.index("FIRST") < body.index("MIDDLE") < body.index("LAST") else "gathered"


def thinking_cell(model: Any) -> str:
    """What of its own thoughts a model is sent again, in a plain conversation and in a tool loop."""
    owner = model._codec.provider if hasattr(model, "_codec") else model.provider
    opaque = {
        "signature": "SIGNED",
        "encrypted_content": "SIGNED",
        "reasoning_details": [{"type": "x", "text": "PRIVATE", "signature": "SIGNED"}],
    }
    thought, call = ThinkingPart("PRIVATE", owner, opaque), ToolCallPart("c", "look", "{}")
    found = []
    for said in ([thought, "ok"], [thought, call]):
        results = [md.tool_result(call, "seen")] if call in said else []
        body, _ = body_of(
            model, [md.user("hi"), llm.assistant(*said), *results, md.user("go on")], {}
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
    picture, pdf, note = (
        PICTURE.to_base64(),
        FilePart(b"%PDF-1.4 sent", "application/pdf", "a.pdf"),
        FilePart(b"sent", "text/plain", "a.txt"),
    )
    looked = [md.user("hi"), llm.assistant(call), md.tool_result(call, "RESULT", PICTURE)]
    cells = {
        "images of the user": part_cell(model, [md.user("HERE", PICTURE)], "HERE", picture),
        "images in tool results": part_cell(model, looked, "RESULT", picture),
        "images of the assistant": part_cell(
            model,
            [md.user("hi"), llm.assistant("SAID", PICTURE), md.user("go on")],
            "SAID",
            picture,
        ),
        "PDF files": part_cell(model, [md.user("HERE", pdf)], "HERE", "HERE"),
        "text files": part_cell(model, [md.user("HERE", note)], "HERE", "HERE"),
        "system turns in the middle": system_cell(model),
    }
    cells |= {row: field_cell(backend, model, row) for row in FIELDS}
    cells["thinking sent back"] = thinking_cell(model)
    try:
        backend.provider().embedding_model("m")  # type: ignore[attr-defined]
        cells["embeddings"] = "yes"
    except md.UnsupportedError:
        cells["embeddings"] = "no"
    words = (backend.images, backend.usage, backend.cancel, backend.told)
    return cells | dict(
        zip(
            ("images in answers", "`usage` tells", "cancelling", "`models()` tells"),
            words,
            strict=True,
        )
    )


def grouped(columns: Sequence[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    """Backends in whose columns the same stands share one."""
    made: list[tuple[list[str], dict[str, str]]] = []
    for name, cells in columns:
        same = next((names for names, known in made if known == cells), None)
        if same is None:
            made.append(([name], cells))
        else:
            same.append(name)
    return [(", ".join(names), cells) for names, cells in made]


@cache
def columns() -> list[tuple[Backend, dict[str, str]]]:
    return [(backend, column(backend)) for backend in BACKENDS]


def whole_table() -> str:
    """All backends, each with a link to its page."""
    found = grouped(
        [
            (f"[{backend.name}](backends/{backend.pages[-1]}.md)", cells)
            for backend, cells in columns()
        ]
    )
    made = table(
        ["", *(name for name, _ in found)],
        [[row, *(cells[row] for _, cells in found)] for row in found[0][1]],
    )
    shown = "\n".join(
        f"* {row}: {', '.join(f'`{name}`' for name in names)}" for row, names in WORDS.items()
    )
    return f"{legend(WORDS_OF_CELLS)} {LEGEND}\n\n{made}\n\nThe rows in words, and more that no encoder tells, are shown by these tests:\n\n{shown}"


def page_tables() -> dict[str, str]:
    """The table of each backend's own page."""
    tables = {}
    for page in dict.fromkeys(page for backend, _ in columns() for page in backend.pages):
        found = grouped(
            [(backend.name, cells) for backend, cells in columns() if page in backend.pages]
        )
        if len(found) == 1 and found[0][0] in PRESETS:
            found = [(f'`OpenAICompatible(preset="{found[0][0]}")`', found[0][1])]
        tables[page] = of_one_page(WORDS_OF_CELLS, list(found[0][1]), found)
    return tables


def presets_table() -> str:
    """Where each preset of `OpenAICompatible` is, and where its key comes from."""
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
