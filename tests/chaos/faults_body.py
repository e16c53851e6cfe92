"""Whole answers with a status of success that are none: JSON that is broken, deep, of another shape, or a web page; and odd ones that are fine."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import majordomo as md
from tests.chaos.fault import Call, Fault, Outcome, chat_backend, stream_call, whole_call
from tests.chaos.server_behaviors import fine_or, is_fine, stays
from tests.support.chat_backends import Backend
from tests.support.loopback import whole

DIALECTS = ("anthropic", "ollama", "gemini", "openai", "openaicompatible")
UNREADABLE = (md.BadResponseError, md.BackendError)


def garbage(backend: Backend) -> dict[str, bytes]:
    text = json.dumps(backend.dialect.whole)
    deep = json.loads(text)
    deep["extra"] = functools.reduce(lambda inner, _: [inner], range(200), [])
    return {
        "a web page": b"<html>hi</html>",
        "nothing": b"",
        "blanks": b" \n ",
        "null": b"null",
        "a list": b"[]",
        "a list of one answer": f"[{text}]".encode(),
        "a number": b"5",
        "a text": b'"hi"',
        "words": b"all is well",
        "an empty object": b"{}",
        "half": text[: len(text) // 2].encode(),
        "all but the end": text[:-1].encode(),
        "two": (text + text).encode(),
        "a comma at its end": (text[:-1] + ",}").encode(),
        "a comment": (text[:-1] + "/* */}").encode(),
        "single quotes": text.replace('"', "'").encode(),
        "UTF-16": text.encode("utf-16"),
        "deep": json.dumps(deep).encode(),
        "deeper": b'{"a":' * 100_000,
        "deep lists": b"[" * 1_000_000,
        "a number of 5,000 digits": text[:-1].encode() + b', "n": ' + b"9" * 5000 + b"}",
        "half a character": text.replace("Gr\\u00fc", "\\ud800").encode(),
        "no text": text.encode().replace(b"Gr\\u00fc", b"\xff"),
        "an error": b'{"error": {"message": "boom", "code": 500}}',
        "an error in words": b'{"error": "boom"}',
        "an error of another kind": b'{"type": "error", "error": {"type": "x"}}',
        # Where arguments are an object, and not a text that the model may get wrong
        **(
            {"a number that is none": text.replace('{"what": "fox"}', '{"what": NaN}').encode()}
            if '{"what": "fox"}' in text
            else {}
        ),
    }


def odd(backend: Backend) -> dict[str, bytes]:
    """What a strict reader could refuse."""
    text = json.dumps(backend.dialect.whole)
    first = next(iter(backend.dialect.whole))
    return {
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "a key twice": f"{{{json.dumps(first)}: 7, {text[1:]}".encode(),
        "NaN in an unknown field": f'{{"new": NaN, {text[1:]}'.encode(),
        "1e999 in an unknown field": f'{{"new": 1e999, {text[1:]}'.encode(),
        "a lone surrogate in an unknown field": f'{{"new": "\\ud800", {text[1:]}'.encode(),
        "NUL in an unknown field": f'{{"new": "\\u0000", {text[1:]}'.encode(),
    }


def good(backend: Backend) -> dict[str, bytes]:
    text = json.dumps(backend.dialect.whole)
    return {
        "blanks around it": b" \r\n\t" + text.encode() + b"\n\n",
        "letters as they are": json.dumps(backend.dialect.whole, ensure_ascii=False).encode(),
        "many unknown fields": (
            text[:-1] + "".join(f', "x{number}": [{number}]' for number in range(1000)) + "}"
        ).encode(),
        "spread over lines": json.dumps(backend.dialect.whole, indent=8).encode(),
        "a megabyte of blanks": text.encode() + b" " * (1 << 20),
    }


def _answer_or_typed(outcome: Outcome) -> None:
    """A field of another type is left out, or the answer is refused; whatever it is, it is a reply through and through."""
    if outcome.error is None:
        reply = outcome.value
        assert isinstance(reply.text, str) and isinstance(reply.model, str)
        assert all(isinstance(call.arguments_json, str) for call in reply.tool_calls)
    else:
        assert isinstance(
            outcome.error,
            (md.BadResponseError, md.BackendError, md.ContentRefusedError, md.StreamBrokenError),
        )


def _of(name: str) -> list[Fault]:
    backend = chat_backend(name)
    whole_one, streamed = whole_call(name), stream_call(name)
    bodies = garbage(backend)
    made = [
        Fault(
            "bodies that are no answer",
            f"{name}, {told}",
            stays(whole(body)),
            UNREADABLE,
            whole_one,
        )
        for told, body in bodies.items()
    ]
    made += [
        Fault(
            "bodies that are no stream",
            f"{name}, {told}",
            stays(whole(bodies[told])),
            UNREADABLE,
            streamed,
        )
        for told in (
            "a web page",
            "nothing",
            "null",
            "words",
            "an empty object",
            "half",
            "deeper",
            "an error",
            "an error in words",
        )
    ]
    call = whole_call(name)
    made += [
        Fault(
            "odd bodies",
            f"{call.name}, {told}",
            stays(whole(body)),
            fine_or(md.BadResponseError),
            call,
            kept=True,
        )
        for told, body in odd(backend).items()
    ]
    made += [
        Fault("odd bodies", f"{call.name}, {told}", stays(whole(body)), is_fine, call, kept=True)
        for told, body in good(backend).items()
    ]
    others: tuple[Any, ...] = (7, None, [None], "x", {"a": [1]}, [], True, -1.5)
    for number, field in enumerate(backend.dialect.whole):
        value = others[(number + len(name)) % len(others)]
        body = whole({**backend.dialect.whole, field: value})
        made.append(
            Fault(
                "fields of another type",
                f"{name}, {json.dumps(value)} as {field}",
                stays(body),
                _answer_or_typed,
                call,
            )
        )
    return made


def _types(call: Call, dialect: str) -> list[Fault]:
    """A good body whose header says that it is something else: what counts is what it is."""
    body = json.dumps(chat_backend(dialect).dialect.whole).encode()
    return [
        Fault(
            "odd bodies",
            f"{call.name}, said to be {kind!r}",
            stays(whole(body, headers={"content-type": kind})),
            is_fine,
            call,
        )
        for kind in (
            "text/html",
            "text/plain; charset=utf-16",
            "application/octet-stream",
            "",
            "image/png",
        )
    ]


_ALL = [fault for name in DIALECTS for fault in _of(name)] + _types(
    whole_call("openaicompatible"), "openaicompatible"
)
FAULTS = [replace(fault, turns=True) for fault in _ALL]
