"""Streams that break, lie, or never end, in every chat dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import majordomo as md
from tests.chaos.fault import Fault, Outcome, chat_backend, stream_call, whole_call
from tests.chaos.server_behaviors import Serve, chunked, floods, is_fine, sends, stays
from tests.support.chat_backends import Backend
from tests.support.loopback import Peer, whole

DIALECTS = ("anthropic", "ollama", "gemini", "openai", "openaicompatible")
SOON = md.Timeout(first_byte=0.4, idle=0.4, total=0.5)  # for what hangs on purpose
TEXT = "Grüße 🦊"


def head(backend: Backend, kind: str | None = None) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"
        % (kind or backend.kind).encode()
    )


def begun(backend: Backend, *pieces: bytes) -> bytes:
    return head(backend) + chunked(*pieces)


def events(backend: Backend) -> list[bytes]:
    """The stream's events, each with its end."""
    return re.findall(
        rb".*?(?:\r\n\r\n|\n\n|\n$)" if "ndjson" not in backend.kind else rb"[^\n]*\n",
        backend.dialect.stream,
        re.DOTALL,
    )


def _prefix(outcome: Outcome) -> None:
    """What was heard is the beginning of what was said, and nothing else; it is no whole answer."""
    error = outcome.error
    assert isinstance(
        error, (md.StreamBrokenError, md.BadResponseError, md.ConnectionFailedError)
    ), repr(error or outcome.value)
    assert TEXT.startswith(outcome.heard.text)
    if outcome.heard.text:
        assert isinstance(error, md.StreamBrokenError)
        assert error.partial.text == outcome.heard.text


def cuts(backend: Backend) -> dict[str, int]:
    """Families of points, as places in the stream's bytes."""
    data = backend.dialect.stream
    pieces = events(backend)
    assert b"".join(pieces) == data
    said = data.index("ße".encode()) if "ße".encode() in data else data.index(b"\\u00dfe")
    text = data.index(b"\n", said) + len(backend.dialect.end or b"\n\n")
    call = data.index(b"draw")
    return {
        "before anything": 0,
        "in the first event": len(pieces[0]) // 2,
        "behind the first event": len(pieces[0]),
        "in a character": said + 1,
        "behind some text": text,
        "in a tool call": call + 2,
        "in the last but one event": len(data) - len(pieces[-1]) - len(pieces[-2]) // 2 - 1,
    }


ENDS: dict[str, Callable[[Peer], object]] = {
    "closed": Peer.close,
    "reset": Peer.reset,
    "ended": Peer.end,
}


def _cut(name: str) -> list[Fault]:
    backend, call = chat_backend(name), stream_call(name)
    made = []
    for number, (where, place) in enumerate(cuts(backend).items()):
        for end in ("closed", list(ENDS)[1 + number % 2]):
            data = begun(backend, *([backend.dialect.stream[:place]] if place else []))
            # A message that came to its end leaves a connection that may be used again: closing it would race with the next call
            kept = None if end == "ended" else False
            made.append(
                Fault(
                    "streams that are cut",
                    f"{name}, {end} {where}",
                    sends(data, then=ENDS[end]),
                    _prefix,
                    call,
                    kept=kept,
                )
            )
    return made


def _says(name: str, *more: bytes, end: bool = True) -> Serve:
    """Two pieces of text, and then this."""
    backend = chat_backend(name)
    good = backend.dialect.says("Good ") + backend.dialect.says("evening")
    return stays(begun(backend, good, *more) + (chunked(b"") if end else b""))


GOOD = "Good evening"
BAD = {
    "a web page": b"<html>",
    "half an object": b"{",
    "a list": b"[]",
    "a number": b"7",
    "a text": b'"x"',
    "null": b"null",
    "something deep": b'{"a":' * 3000,
    "an error in words": b'{"error": "boom"}',
    "an error of another type": b'{"error": {"message": 5}}',
    "half a character": b'{"a": "\\ud800"}',
    "a byte that is no text": b"\xff",
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
}


def _garbage(name: str) -> list[Fault]:
    backend, call = chat_backend(name), stream_call(name)
    begin, end = (b"", b"\n") if "ndjson" in backend.kind else (b"data: ", b"\n\n")
    made = [
        Fault(
            "garbage in streams",
            f"{name}, {told}",
            _says(name, begin + bad + end),
            md.StreamBrokenError,
            call,
            heard=GOOD,
            requests=1,
        )
        for told, bad in BAD.items()
    ]
    made.append(
        Fault(
            "errors in streams",
            name,
            stays(begun(backend, backend.dialect.failing) + chunked(b"")),
            md.StreamBrokenError,
            call,
            heard=TEXT,
            words="too busy",
            requests=1,
        )
    )
    return made


def _marks(name: str) -> list[Fault]:
    """The end mark: missing, twice, and what comes behind it."""
    backend, call = chat_backend(name), stream_call(name)
    data = backend.dialect.stream
    twice = events(backend)[-1]
    if (
        name == "gemini"
    ):  # its mark is a finish reason and the end of the answer: what comes between is part of it
        return [
            Fault("end marks", f"{name}, none", _says(name), md.StreamBrokenError, call, heard=GOOD)
        ]
    return [
        Fault("end marks", f"{name}, none", _says(name), md.StreamBrokenError, call, heard=GOOD),
        Fault("end marks", f"{name}, twice", stays(begun(backend, data, twice) + chunked(b"")), is_fine, call),
        Fault("end marks", f"{name}, and text behind it", stays(begun(backend, data, backend.dialect.says("more")) + chunked(b"")), is_fine, call),
        Fault("end marks", f"{name}, and garbage behind it", stays(begun(backend, data, b"\xff<html>\n\n") + chunked(b"")), is_fine, call),
        Fault("end marks", f"{name}, and then reset", sends(begun(backend, data), then=lambda peer: (peer.wait_for_close(0.02), peer.reset())), is_fine, call, kept=False),
        Fault("end marks", f"{name}, and then silence", sends(begun(backend, data), then=lambda peer: peer.wait_for_close(5)), is_fine, call, kept=False, within=3),
        Fault("end marks", f"{name}, and a flood behind it", floods(begun(backend, data), again=chunked(b": x\n\n" * 10_000)), is_fine, call, kept=False, mib=64),
    ]  # fmt: skip


def _slicing(name: str) -> list[Fault]:
    """Odd, but the same stream."""
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
            "without blanks behind the colons": lines.replace(b"data: ", b"data:"),
            "with a byte order mark": b"\xef\xbb\xbf" + data
            if lines.startswith(b"event")
            else data,
        }
    else:
        shapes |= {"with empty lines": lines.replace(b"\n", b"\n\n \n")}
    made = []
    for told, shape in shapes.items():
        pieces = (
            [shape[at : at + 1] for at in range(len(shape))] if told == "byte by byte" else [shape]
        )
        made.append(
            Fault(
                "odd streams",
                f"{name}, {told}",
                stays(begun(backend, *pieces) + chunked(b"")),
                is_fine,
                call,
            )
        )
    made.append(
        Fault(
            "odd streams",
            f"{name}, until the connection ends",
            sends(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n\r\n" % backend.kind.encode() + data),
            is_fine,
            call,
            kept=False,
        )
    )
    made.append(
        Fault(
            "odd streams",
            f"{name}, all at once",
            stays(whole(data, headers={"content-type": backend.kind})),
            is_fine,
            call,
        )
    )
    made.append(
        Fault(
            "odd streams",
            f"{name}, without a type",
            stays(head(backend, "application/octet-stream") + chunked(data, b"")),
            is_fine,
            call,
        )
    )
    return made


def _endless(name: str) -> list[Fault]:
    """What never ends is ended: by its size, or by the total limit."""
    backend, call = chat_backend(name), stream_call(name)
    life = b"\n" if "ndjson" in backend.kind else b": still here\n\n"
    first = b'{"a": "' if "ndjson" in backend.kind else b"data: "
    text = chunked(backend.dialect.says("x" * (1 << 19)))

    def slowly(data: bytes) -> Serve:
        def serve(peer: Peer) -> None:
            peer.send(head(backend))
            while not peer.closed_by_client.wait(0.02):
                peer.socket.sendall(
                    data
                )  # an OSError once the client has gone: the server ends with it

        return serve

    late: dict[str, Any] = {
        "timeout": SOON,
        "kept": False,
        "expect": md.DeadlineExceededError,
        "call": call,
    }
    return [
        Fault("endless streams", f"{name}, signs of life", slowly(chunked(life)), **late),
        Fault("endless streams", f"{name}, empty pieces", slowly(chunked(backend.dialect.says(""))), **late),
        Fault("endless streams", f"{name}, a line letter by letter", slowly(chunked(b"x")), **late),
        Fault("endless streams", f"{name}, half an event", sends(begun(backend, first), then=lambda peer: peer.wait_for_close(5)), **late),
        Fault("endless streams", f"{name}, a line", floods(begun(backend, first), again=chunked(b"x" * (1 << 18))), md.BadResponseError, call, kept=False, mib=160 if name in ("gemini", "openai") else 64, heavy=True),
        Fault("endless streams", f"{name}, text", floods(begun(backend), again=text), (md.BadResponseError, md.StreamBrokenError), call, kept=False, mib=160, heavy=True),
        Fault(
            "endless streams", f"{name}, a giant event", stays(begun(backend, backend.dialect.says("x" * (5 << 20))) + chunked(b"")),
            # Where images can arrive an event may be that long, and then it is the end that is missing
            (md.BadResponseError, md.StreamBrokenError), call, mib=64, heavy=True,
        ),
    ]  # fmt: skip


def _other_dialect(name: str) -> list[Fault]:
    """A stream in another dialect, JSON where a stream was asked, and a stream where JSON was asked."""
    backend = chat_backend(name)
    streamed, at_once = stream_call(name), whole_call(name)
    strange = chat_backend("openaicompatible" if "ndjson" in backend.kind else "ollama")
    data = strange.dialect.stream
    return [
        Fault("answers of another kind", f"{name}, a stream of {strange.name}", stays(head(backend, strange.kind) + chunked(data, b"")), _never_whole, streamed),
        Fault("answers of another kind", f"{name}, its own type and a stream of {strange.name}", stays(head(backend) + chunked(data, b"")), _never_whole, streamed),
        Fault("answers of another kind", f"{name}, a whole answer to a stream", stays(whole(backend.dialect.whole)), is_fine, streamed),
        Fault("answers of another kind", f"{name}, a stream to a whole answer", stays(head(backend) + chunked(backend.dialect.stream, b"")), md.BadResponseError, at_once),
    ]  # fmt: skip


def _never_whole(outcome: Outcome) -> None:
    assert isinstance(outcome.error, (md.StreamBrokenError, md.BadResponseError)), repr(
        outcome.error or outcome.value
    )


# Two tool calls under one index, in the dialects that number them


def _chat_calls(*calls: dict[str, Any]) -> bytes:
    """As some servers send them: each call whole, and all with index 0."""
    made = b""
    for call in calls:
        choice = {
            "index": 0,
            "delta": {"tool_calls": [{"index": 0, "type": "function", **call}]},
            "finish_reason": None,
        }
        made += (
            b"data: "
            + json.dumps({"id": "x", "model": "m", "choices": [choice]}).encode()
            + b"\n\n"
        )
    last = {
        "id": "x",
        "model": "m",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}],
    }
    return made + b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"


def _two_calls(outcome: Outcome) -> None:
    if outcome.error is not None:
        raise AssertionError("two calls can be told apart by their ids") from outcome.error
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
            stays(begun(backend, data) + chunked(b"")),
            _two_calls,
            call,
        ),
        Fault(
            "tool calls",
            f"{name}, two in halves with one index",
            stays(begun(backend, halves) + chunked(b"")),
            _two_calls,
            call,
        ),
    ]


def _of(name: str) -> list[Fault]:
    parts: list[Callable[[str], list[Fault]]] = [
        _cut,
        _garbage,
        _marks,
        _slicing,
        _endless,
        _other_dialect,
    ]
    return [fault for part in parts for fault in part(name)]


_ALL = (
    [fault for name in DIALECTS for fault in _of(name)]
    + _calls("openaicompatible")
    + _calls("openai chat")
)
FAULTS = [replace(fault, turns=True) for fault in _ALL]
