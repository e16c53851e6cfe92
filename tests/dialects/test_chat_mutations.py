"""A value of another type anywhere in a response gives a reply or a typed error."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.llm import Done
from tests.support.chat_dialects import DIALECTS, Dialect, decode_chunks

REQUEST = llm.Request(
    (md.user("hi"),), output={"type": "object"}, tool_choice="draw", tools=(md.Tool("draw"),)
)
LIMITS = md.Limits()
OTHER_VALUES: list[Any] = [
    None,
    True,
    -1,
    10**30,
    1.5,
    float("inf"),
    "x",
    "",
    [],
    [None],
    [[1]],
    {},
    {"a": [1]},
    "\u2028",
]
# Removes the value instead of replacing it.
REMOVED = object()
pytestmark = pytest.mark.slow
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def iter_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for step, item in items:
        yield from iter_paths(item, (*path, step))


def replace_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    if new is REMOVED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return copy


def check(reply: llm.Reply) -> None:
    """Assert that every field of the reply has its type, and that the reply can be saved."""
    assert (
        isinstance(reply.text, str)
        and isinstance(reply.thinking, str)
        and isinstance(reply.model, str)
    )
    assert all(
        isinstance(call.id, str)
        and isinstance(call.name, str)
        and isinstance(call.arguments_json, str)
        for call in reply.tool_calls
    )
    for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
        tokens = getattr(reply.usage, name)
        assert tokens is None or (type(tokens) is int and tokens >= 0)
    assert llm.load_messages(llm.dump_messages([reply.message])) == [reply.message]


@contextlib.contextmanager
def allow_typed_errors() -> Iterator[None]:
    """Allow a MajordomoError, except one that blames the request or the configuration."""
    try:
        yield
    except md.MajordomoError as error:
        assert not isinstance(error, (md.InvalidRequestError, md.ConfigurationError)), error


@each_dialect
def test_a_complete_response_with_any_value_anywhere(dialect: Dialect) -> None:
    for path in iter_paths(dialect.complete_response):
        for other in (*OTHER_VALUES, REMOVED):
            with allow_typed_errors():
                check(
                    dialect.codec.decode_reply(
                        json.dumps(replace_at(dialect.complete_response, path, other)).encode(),
                        REQUEST,
                        LIMITS,
                    )
                )


@each_dialect
def test_a_stream_with_any_value_anywhere(dialect: Dialect) -> None:
    lines = dialect.stream.splitlines(keepends=True)
    for number, line in enumerate(lines):
        prefix = b"data: " if line.startswith(b"data: ") else b""
        if not line.startswith((b"data: {", b"{")):
            continue
        event = json.loads(line[len(prefix) :])
        for path in iter_paths(event):
            for other in (*OTHER_VALUES, REMOVED):
                mutated = prefix + json.dumps(replace_at(event, path, other)).encode() + b"\n"
                decoder = dialect.codec.stream_decoder(REQUEST, LIMITS)
                with allow_typed_errors():
                    events = decode_chunks(decoder, *lines[:number], mutated, *lines[number + 1 :])
                    assert isinstance(events[-1], Done)
                check(decoder.reply)
