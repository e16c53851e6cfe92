"""A value of another type at any place of any answer: a reply or a typed error, in every chat dialect."""

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
OTHERS: list[Any] = [
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
GONE = object()
pytestmark = pytest.mark.slow
each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
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
        yield from paths(item, (*path, step))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    made = json.loads(json.dumps(value))
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    if new is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return made


def check(reply: llm.Reply) -> None:
    """A reply is one through and through: it can be kept and sent again."""
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
        counted = getattr(reply.usage, name)
        assert counted is None or (type(counted) is int and counted >= 0)
    assert llm.load_messages(llm.dump_messages([reply.message])) == [reply.message]


@contextlib.contextmanager
def typed() -> Iterator[None]:
    """Whatever an answer holds, it is neither the request nor the program that is wrong."""
    try:
        yield
    except md.MajordomoError as error:
        assert not isinstance(error, (md.InvalidRequestError, md.ConfigurationError)), error


@each
def test_a_whole_answer_with_anything_anywhere(dialect: Dialect) -> None:
    for path in paths(dialect.whole):
        for other in (*OTHERS, GONE):
            with typed():
                check(
                    dialect.codec.decode_reply(
                        json.dumps(changed(dialect.whole, path, other)).encode(), REQUEST, LIMITS
                    )
                )


@each
def test_a_stream_with_anything_anywhere(dialect: Dialect) -> None:
    lines = dialect.stream.splitlines(keepends=True)
    for place, line in enumerate(lines):
        begin = b"data: " if line.startswith(b"data: ") else b""
        if not line.startswith((b"data: {", b"{")):
            continue
        event = json.loads(line[len(begin) :])
        for path in paths(event):
            for other in (*OTHERS, GONE):
                made = begin + json.dumps(changed(event, path, other)).encode() + b"\n"
                decoder = dialect.codec.stream_decoder(REQUEST, LIMITS)
                with typed():
                    events = decode_chunks(decoder, *lines[:place], made, *lines[place + 1 :])
                    assert isinstance(events[-1], Done)
                check(decoder.reply)
