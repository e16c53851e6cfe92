"""Faults of response bodies with a success status.

The body is broken JSON, deeply nested, of another shape or an HTML page; or unusual but valid.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import majordomo as md
from tests.chaos.fault import Call, Fault, Outcome, chat_backend, reply_call, stream_call
from tests.chaos.server_behaviors import fine_or, is_fine, stays
from tests.support.chat_backends import Backend
from tests.support.loopback import http_response

DIALECTS = ("anthropic", "ollama", "gemini", "openai", "openaicompatible")
UNREADABLE = (md.BadResponseError, md.BackendError)


def invalid_bodies(backend: Backend) -> dict[str, bytes]:
    text = json.dumps(backend.dialect.complete_response)
    deep = json.loads(text)
    deep["extra"] = functools.reduce(lambda inner, _: [inner], range(200), [])
    return {
        "an HTML page": b"<html>hi</html>",
        "an empty body": b"",
        "whitespace": b" \n ",
        "null": b"null",
        "a list": b"[]",
        "a list of one answer": f"[{text}]".encode(),
        "a number": b"5",
        "a text": b'"hi"',
        "plain text": b"all is well",
        "an empty object": b"{}",
        "half of it": text[: len(text) // 2].encode(),
        "all but the end": text[:-1].encode(),
        "two responses": (text + text).encode(),
        "a comma at its end": (text[:-1] + ",}").encode(),
        "a comment": (text[:-1] + "/* */}").encode(),
        "single quotes": text.replace('"', "'").encode(),
        "UTF-16": text.encode("utf-16"),
        "200 nested lists": json.dumps(deep).encode(),
        "100,000 nested objects": b'{"a":' * 100_000,
        "1,000,000 nested lists": b"[" * 1_000_000,
        "a number of 5,000 digits": text[:-1].encode() + b', "n": ' + b"9" * 5000 + b"}",
        "a lone surrogate": text.replace("Gr\\u00fc", "\\ud800").encode(),
        "invalid UTF-8": text.encode().replace(b"Gr\\u00fc", b"\xff"),
        "an error": b'{"error": {"message": "boom", "code": 500}}',
        "an error as text": b'{"error": "boom"}',
        "an error of another format": b'{"type": "error", "error": {"type": "x"}}',
        # Only where arguments are an object; a text of arguments may be invalid JSON.
        **(
            {"NaN in arguments": text.replace('{"what": "fox"}', '{"what": NaN}').encode()}
            if '{"what": "fox"}' in text
            else {}
        ),
    }


def ambiguous_bodies(backend: Backend) -> dict[str, bytes]:
    """Bodies that a strict parser may refuse."""
    text = json.dumps(backend.dialect.complete_response)
    first = next(iter(backend.dialect.complete_response))
    return {
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "a duplicate key": f"{{{json.dumps(first)}: 7, {text[1:]}".encode(),
        "NaN in an unknown field": f'{{"new": NaN, {text[1:]}'.encode(),
        "1e999 in an unknown field": f'{{"new": 1e999, {text[1:]}'.encode(),
        "a lone surrogate in an unknown field": f'{{"new": "\\ud800", {text[1:]}'.encode(),
        "NUL in an unknown field": f'{{"new": "\\u0000", {text[1:]}'.encode(),
    }


def valid_bodies(backend: Backend) -> dict[str, bytes]:
    text = json.dumps(backend.dialect.complete_response)
    return {
        "whitespace around it": b" \r\n\t" + text.encode() + b"\n\n",
        "unescaped non-ASCII letters": json.dumps(
            backend.dialect.complete_response, ensure_ascii=False
        ).encode(),
        "many unknown fields": (
            text[:-1] + "".join(f', "x{number}": [{number}]' for number in range(1000)) + "}"
        ).encode(),
        "indented over many lines": json.dumps(
            backend.dialect.complete_response, indent=8
        ).encode(),
        "a megabyte of spaces": text.encode() + b" " * (1 << 20),
    }


def _valid_reply_or_typed_error(outcome: Outcome) -> None:
    """Judge that a field of another type is dropped, or that the response is refused.

    A reply has only values of the documented types.
    """
    if outcome.error is None:
        reply = outcome.value
        assert isinstance(reply.text, str) and isinstance(reply.model, str)
        assert all(isinstance(call.arguments_json, str) for call in reply.tool_calls)
    else:
        assert isinstance(
            outcome.error,
            (md.BadResponseError, md.BackendError, md.ContentRefusedError, md.StreamBrokenError),
        )


def _faults_of(name: str) -> list[Fault]:
    backend = chat_backend(name)
    call_without_stream, streamed_call = reply_call(name), stream_call(name)
    bodies = invalid_bodies(backend)
    faults = [
        Fault(
            "bodies that are not a response",
            f"{name}, {description}",
            stays(http_response(body)),
            UNREADABLE,
            call_without_stream,
        )
        for description, body in bodies.items()
    ]
    faults += [
        Fault(
            "bodies that are not a stream",
            f"{name}, {description}",
            stays(http_response(bodies[description])),
            UNREADABLE,
            streamed_call,
        )
        for description in (
            "an HTML page",
            "an empty body",
            "null",
            "plain text",
            "an empty object",
            "half of it",
            "100,000 nested objects",
            "an error",
            "an error as text",
        )
    ]
    call = reply_call(name)
    faults += [
        Fault(
            "unusual bodies",
            f"{call.name}, {description}",
            stays(http_response(body)),
            fine_or(md.BadResponseError),
            call,
            reuses_connection=True,
        )
        for description, body in ambiguous_bodies(backend).items()
    ]
    faults += [
        Fault(
            "unusual bodies",
            f"{call.name}, {description}",
            stays(http_response(body)),
            is_fine,
            call,
            reuses_connection=True,
        )
        for description, body in valid_bodies(backend).items()
    ]
    others: tuple[Any, ...] = (7, None, [None], "x", {"a": [1]}, [], True, -1.5)
    for number, field in enumerate(backend.dialect.complete_response):
        value = others[(number + len(name)) % len(others)]
        body = http_response({**backend.dialect.complete_response, field: value})
        faults.append(
            Fault(
                "fields of another type",
                f"{name}, {json.dumps(value)} as {field}",
                stays(body),
                _valid_reply_or_typed_error,
                call,
            )
        )
    return faults


def _content_type_faults(call: Call, dialect: str) -> list[Fault]:
    """A valid body with another content type: only the body counts."""
    body = json.dumps(chat_backend(dialect).dialect.complete_response).encode()
    return [
        Fault(
            "unusual bodies",
            f"{call.name}, content type {kind!r}",
            stays(http_response(body, headers={"content-type": kind})),
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


_ALL = [fault for name in DIALECTS for fault in _faults_of(name)] + _content_type_faults(
    reply_call("openaicompatible"), "openaicompatible"
)
FAULTS = [replace(fault, rotates=True) for fault in _ALL]
