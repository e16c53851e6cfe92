"""Faults of streams in every chat dialect: cut, invalid, contradictory or endless."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import majordomo as md
from tests.chaos.fault import Fault, Outcome, chat_backend, reply_call, stream_call
from tests.chaos.server_behaviors import Serve, chunked, floods, is_fine, sends, stays
from tests.support.chat_backends import Backend
from tests.support.loopback import Peer, http_response

DIALECTS = ("anthropic", "ollama", "gemini", "openai", "openaicompatible")
# For faults that hang on purpose.
SHORT_TIMEOUT = md.Timeout(first_byte=0.4, idle=0.4, total=0.5)
TEXT = "Grüße 🦊"


def headers(backend: Backend, kind: str | None = None) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"
        % (kind or backend.kind).encode()
    )


def started(backend: Backend, *parts: bytes) -> bytes:
    return headers(backend) + chunked(*parts)


def events(backend: Backend) -> list[bytes]:
    """Return the stream's events, each with its delimiter."""
    return re.findall(
        rb".*?(?:\r\n\r\n|\n\n|\n$)" if "ndjson" not in backend.kind else rb"[^\n]*\n",
        backend.dialect.stream,
        re.DOTALL,
    )


def _received_prefix(outcome: Outcome) -> None:
    """Judge that the received text is a prefix of the sent text and that the call failed."""
    error = outcome.error
    assert isinstance(
        error, (md.StreamBrokenError, md.BadResponseError, md.ConnectionFailedError)
    ), repr(error or outcome.value)
    assert TEXT.startswith(outcome.received.text)
    if outcome.received.text:
        assert isinstance(error, md.StreamBrokenError)
        assert error.partial.text == outcome.received.text


def cuts(backend: Backend) -> dict[str, int]:
    """Return the offsets at which the stream is cut, by description."""
    data = backend.dialect.stream
    parts = events(backend)
    assert b"".join(parts) == data
    character = data.index("ße".encode()) if "ße".encode() in data else data.index(b"\\u00dfe")
    text = data.index(b"\n", character) + len(backend.dialect.end or b"\n\n")
    call = data.index(b"draw")
    return {
        "before anything": 0,
        "in the first event": len(parts[0]) // 2,
        "after the first event": len(parts[0]),
        "in a character": character + 1,
        "after some text": text,
        "in a tool call": call + 2,
        "in the second to last event": len(data) - len(parts[-1]) - len(parts[-2]) // 2 - 1,
    }


ENDS: dict[str, Callable[[Peer], object]] = {
    "closed": Peer.close,
    "reset": Peer.reset,
    "ended": Peer.end,
}


def _cut(name: str) -> list[Fault]:
    backend, call = chat_backend(name), stream_call(name)
    faults = []
    for number, (description, offset) in enumerate(cuts(backend).items()):
        for end in ("closed", list(ENDS)[1 + number % 2]):
            data = started(backend, *([backend.dialect.stream[:offset]] if offset else []))
            # A complete HTTP message leaves a connection that may be reused; closing it would race
            # with the next call.
            reuses_connection = None if end == "ended" else False
            faults.append(
                Fault(
                    "streams that are cut",
                    f"{name}, {end} {description}",
                    sends(data, then=ENDS[end]),
                    _received_prefix,
                    call,
                    reuses_connection=reuses_connection,
                )
            )
    return faults


def _text_then(name: str, *more: bytes, end: bool = True) -> Serve:
    """Send two text events, then `more`."""
    backend = chat_backend(name)
    good = backend.dialect.says("Good ") + backend.dialect.says("evening")
    return stays(started(backend, good, *more) + (chunked(b"") if end else b""))


GOOD_TEXT = "Good evening"
INVALID_EVENTS = {
    "an HTML page": b"<html>",
    "half an object": b"{",
    "a list": b"[]",
    "a number": b"7",
    "a text": b'"x"',
    "null": b"null",
    "3,000 nested objects": b'{"a":' * 3000,
    "an error as text": b'{"error": "boom"}',
    "an error of another type": b'{"error": {"message": 5}}',
    "a lone surrogate": b'{"a": "\\ud800"}',
    "an invalid UTF-8 byte": b"\xff",
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
}


def _invalid_events(name: str) -> list[Fault]:
    backend, call = chat_backend(name), stream_call(name)
    begin, end = (b"", b"\n") if "ndjson" in backend.kind else (b"data: ", b"\n\n")
    faults = [
        Fault(
            "invalid events",
            f"{name}, {description}",
            _text_then(name, begin + event + end),
            md.StreamBrokenError,
            call,
            received=GOOD_TEXT,
            requests=1,
        )
        for description, event in INVALID_EVENTS.items()
    ]
    faults.append(
        Fault(
            "errors in streams",
            name,
            stays(started(backend, backend.dialect.failing) + chunked(b"")),
            md.StreamBrokenError,
            call,
            received=TEXT,
            message="too busy",
            requests=1,
        )
    )
    return faults


def _end_markers(name: str) -> list[Fault]:
    """The end marker: missing, sent twice, and followed by more data."""
    backend, call = chat_backend(name), stream_call(name)
    data = backend.dialect.stream
    twice = events(backend)[-1]
    if name == "gemini":
        # Its marker is a finish reason and the end of the body; data in between belongs to it.
        return [
            Fault(
                "end markers",
                f"{name}, none",
                _text_then(name),
                md.StreamBrokenError,
                call,
                received=GOOD_TEXT,
            )
        ]
    return [
        Fault(
            "end markers",
            f"{name}, none",
            _text_then(name),
            md.StreamBrokenError,
            call,
            received=GOOD_TEXT,
        ),
        Fault(
            "end markers",
            f"{name}, twice",
            stays(started(backend, data, twice) + chunked(b"")),
            is_fine,
            call,
        ),
        Fault(
            "end markers",
            f"{name}, followed by text",
            stays(started(backend, data, backend.dialect.says("more")) + chunked(b"")),
            is_fine,
            call,
        ),
        Fault(
            "end markers",
            f"{name}, followed by invalid data",
            stays(started(backend, data, b"\xff<html>\n\n") + chunked(b"")),
            is_fine,
            call,
        ),
        Fault(
            "end markers",
            f"{name}, followed by a reset",
            sends(
                started(backend, data), then=lambda peer: (peer.wait_for_close(0.02), peer.reset())
            ),
            is_fine,
            call,
            reuses_connection=False,
        ),
        Fault(
            "end markers",
            f"{name}, followed by silence",
            sends(started(backend, data), then=lambda peer: peer.wait_for_close(5)),
            is_fine,
            call,
            reuses_connection=False,
            within=3,
        ),
        Fault(
            "end markers",
            f"{name}, followed by a flood",
            floods(started(backend, data), repeated=chunked(b": x\n\n" * 10_000)),
            is_fine,
            call,
            reuses_connection=False,
            mib=64,
        ),
    ]


def _encodings(name: str) -> list[Fault]:
    """Unusual encodings of the same stream."""
    backend, call = chat_backend(name), stream_call(name)
    data = backend.dialect.stream
    lines = data.replace(b"\r\n", b"\n")
    shapes = {"byte by byte": data, "with CRLF": lines.replace(b"\n", b"\r\n")}
    if "ndjson" not in backend.kind:
        mixed = b"".join(
            line + (b"\r\n", b"\n", b"\r")[number % 3]
            for number, line in enumerate(lines.split(b"\n"))
        )
        shapes |= {
            "with CR": lines.replace(b"\n", b"\r"),
            "with mixed line ends": mixed + b"\n\n",
            "with comments, ids and unknown fields": lines.replace(
                b"data:", b": c\nid: 7\nretry: 5\nnew: x\ndata:"
            ),
            "without spaces after the colons": lines.replace(b"data: ", b"data:"),
            "with a byte order mark": b"\xef\xbb\xbf" + data
            if lines.startswith(b"event")
            else data,
        }
    else:
        shapes |= {"with empty lines": lines.replace(b"\n", b"\n\n \n")}
    faults = []
    for description, shape in shapes.items():
        parts = (
            [shape[at : at + 1] for at in range(len(shape))]
            if description == "byte by byte"
            else [shape]
        )
        faults.append(
            Fault(
                "unusual streams",
                f"{name}, {description}",
                stays(started(backend, *parts) + chunked(b"")),
                is_fine,
                call,
            )
        )
    faults.append(
        Fault(
            "unusual streams",
            f"{name}, ended by the connection",
            sends(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n\r\n" % backend.kind.encode() + data),
            is_fine,
            call,
            reuses_connection=False,
        )
    )
    faults.append(
        Fault(
            "unusual streams",
            f"{name}, all at once",
            stays(http_response(data, headers={"content-type": backend.kind})),
            is_fine,
            call,
        )
    )
    faults.append(
        Fault(
            "unusual streams",
            f"{name}, with another content type",
            stays(headers(backend, "application/octet-stream") + chunked(data, b"")),
            is_fine,
            call,
        )
    )
    return faults


def _endless(name: str) -> list[Fault]:
    """Streams that never end are stopped by a size limit or by the total timeout."""
    backend, call = chat_backend(name), stream_call(name)
    keep_alive = b"\n" if "ndjson" in backend.kind else b": still here\n\n"
    first = b'{"a": "' if "ndjson" in backend.kind else b"data: "
    text = chunked(backend.dialect.says("x" * (1 << 19)))

    def slowly(data: bytes) -> Serve:
        def serve(peer: Peer) -> None:
            peer.send(headers(backend))
            while not peer.closed_by_client.wait(0.02):
                # Raises OSError, which ends the server, once the client has closed.
                peer.socket.sendall(data)

        return serve

    stopped_late: dict[str, Any] = {
        "timeout": SHORT_TIMEOUT,
        "reuses_connection": False,
        "expect": md.DeadlineExceededError,
        "call": call,
    }
    return [
        Fault(
            "endless streams",
            f"{name}, keep-alive lines",
            slowly(chunked(keep_alive)),
            **stopped_late,
        ),
        Fault(
            "endless streams",
            f"{name}, empty text events",
            slowly(chunked(backend.dialect.says(""))),
            **stopped_late,
        ),
        Fault(
            "endless streams",
            f"{name}, a line byte by byte",
            slowly(chunked(b"x")),
            **stopped_late,
        ),
        Fault(
            "endless streams",
            f"{name}, half an event",
            sends(started(backend, first), then=lambda peer: peer.wait_for_close(5)),
            **stopped_late,
        ),
        Fault(
            "endless streams",
            f"{name}, a line",
            floods(started(backend, first), repeated=chunked(b"x" * (1 << 18))),
            md.BadResponseError,
            call,
            reuses_connection=False,
            mib=160 if name in ("gemini", "openai") else 64,
            heavy=True,
        ),
        Fault(
            "endless streams",
            f"{name}, text",
            floods(started(backend), repeated=text),
            (md.BadResponseError, md.StreamBrokenError),
            call,
            reuses_connection=False,
            mib=160,
            heavy=True,
        ),
        Fault(
            "endless streams",
            f"{name}, a giant event",
            stays(started(backend, backend.dialect.says("x" * (5 << 20))) + chunked(b"")),
            # Where images can arrive an event may be that long, and only the end marker is missing.
            (md.BadResponseError, md.StreamBrokenError),
            call,
            mib=64,
            heavy=True,
        ),
    ]


def _other_dialect(name: str) -> list[Fault]:
    """A stream in another dialect, JSON instead of a stream, and a stream instead of JSON."""
    backend = chat_backend(name)
    streamed_call, call_without_stream = stream_call(name), reply_call(name)
    other = chat_backend("openaicompatible" if "ndjson" in backend.kind else "ollama")
    data = other.dialect.stream
    return [
        Fault(
            "responses of another kind",
            f"{name}, a stream of {other.name}",
            stays(headers(backend, other.kind) + chunked(data, b"")),
            _fails,
            streamed_call,
        ),
        Fault(
            "responses of another kind",
            f"{name}, its own type and a stream of {other.name}",
            stays(headers(backend) + chunked(data, b"")),
            _fails,
            streamed_call,
        ),
        Fault(
            "responses of another kind",
            f"{name}, JSON for a streamed call",
            stays(http_response(backend.dialect.complete_response)),
            is_fine,
            streamed_call,
        ),
        Fault(
            "responses of another kind",
            f"{name}, a stream for a call without streaming",
            stays(headers(backend) + chunked(backend.dialect.stream, b"")),
            md.BadResponseError,
            call_without_stream,
        ),
    ]


def _fails(outcome: Outcome) -> None:
    assert isinstance(outcome.error, (md.StreamBrokenError, md.BadResponseError)), repr(
        outcome.error or outcome.value
    )


# Two tool calls with one index, in the dialects that number them


def _chat_calls(*calls: dict[str, Any]) -> bytes:
    """Return tool calls as some servers send them: each complete, and all with index 0."""
    faults = b""
    for call in calls:
        choice = {
            "index": 0,
            "delta": {"tool_calls": [{"index": 0, "type": "function", **call}]},
            "finish_reason": None,
        }
        faults += (
            b"data: "
            + json.dumps({"id": "x", "model": "m", "choices": [choice]}).encode()
            + b"\n\n"
        )
    last = {
        "id": "x",
        "model": "m",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}],
    }
    return faults + b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"


def _two_calls(outcome: Outcome) -> None:
    if outcome.error is not None:
        raise AssertionError("two calls can be description apart by their ids") from outcome.error
    assert [(call.name, call.arguments) for call in outcome.value.tool_calls] == [
        ("draw", {"what": "fox"}),
        ("say", {"word": "hi"}),
    ]


def _calls(name: str) -> list[Fault]:
    backend, call = chat_backend(name), stream_call(name)
    draw = {"id": "c1", "function": {"name": "draw", "arguments": '{"what":"fox"}'}}
    say = {"id": "c2", "function": {"name": "say", "arguments": '{"word":"hi"}'}}
    data = _chat_calls(draw, say)
    halves = _chat_calls(
        {"id": "c1", "function": {"name": "draw", "arguments": '{"what":'}},
        {"function": {"arguments": '"fox"}'}},
        {"id": "c2", "function": {"name": "say", "arguments": '{"word":'}},
        {"function": {"arguments": '"hi"}'}},
    )
    return [
        Fault(
            "tool calls",
            f"{name}, two with one index",
            stays(started(backend, data) + chunked(b"")),
            _two_calls,
            call,
        ),
        Fault(
            "tool calls",
            f"{name}, two in halves with one index",
            stays(started(backend, halves) + chunked(b"")),
            _two_calls,
            call,
        ),
    ]


def _faults_of(name: str) -> list[Fault]:
    parts: list[Callable[[str], list[Fault]]] = [
        _cut,
        _invalid_events,
        _end_markers,
        _encodings,
        _endless,
        _other_dialect,
    ]
    return [fault for part in parts for fault in part(name)]


_ALL = (
    [fault for name in DIALECTS for fault in _faults_of(name)]
    + _calls("openaicompatible")
    + _calls("openai chat")
)
FAULTS = [replace(fault, rotates=True) for fault in _ALL]
