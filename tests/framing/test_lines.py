from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from majordomo import BadResponseError
from majordomo.framing.lines import EventDecoder, JSONLinesDecoder

STREAMS = {
    "LF": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CR": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "mixed ends": (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
    "no space": (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
    "several data lines": (b"data: a\ndata: b\n\n", [b"a\nb"]),
    "several data lines, CRLF": (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    "several data lines, CR": (b"data: a\rdata: b\r\r", [b"a\nb"]),
    "comments, names, ids, hints": (b": hi\nevent: x\nid: 1\nretry: 5\ndata: a\n\n:\n\n", [b"a"]),
    "no final newline": (b"data: a\n\ndata: b", [b"a", b"b"]),
    "no final empty line": (b"data: a\n\ndata: b\n", [b"a", b"b"]),
    "separators of Unicode are text": (
        "data: a\u2028b\u0085c\n\n".encode(),
        ["a\u2028b\u0085c".encode()],
    ),
    "empty": (b"", []),
    "keep-alive lines": (b"\n\n\n\ndata: a\n\n\n", [b"a"]),
}


def decode_slices(
    decoder: EventDecoder | JSONLinesDecoder, data: bytes, cuts: list[int]
) -> list[bytes]:
    frames: list[bytes] = []
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(bounds):
        frames += decoder.feed(data[start:end])
    return frames + decoder.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(("data", "events"), STREAMS.values(), ids=STREAMS.keys())
def test_events_are_decoded_in_any_slicing(data: bytes, events: list[bytes], size: int) -> None:
    assert decode_slices(EventDecoder(1000), data, list(range(0, len(data), size))) == events


@given(
    st.lists(
        st.sampled_from(
            [b"data: x", b"data:", b": c", b"event: e", b"\n", b"\r", b"\r\n", b"y", b"\xff"]
        )
    ),
    st.lists(st.integers(0, 500)),
)
def test_any_slicing_of_any_stream_yields_the_same_events(
    parts: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(parts)
    assert decode_slices(EventDecoder(1000), data, cuts) == decode_slices(
        EventDecoder(1000), data, []
    )


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers())),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(0, 5000)),
)
def test_json_lines_survive_any_slicing(
    values: list[dict[str, object]], end: str, cuts: list[int]
) -> None:
    data = "".join(json.dumps(value, ensure_ascii=False) + end for value in values).encode()
    assert [
        json.loads(line) for line in decode_slices(JSONLinesDecoder(1_000_000), data, cuts)
    ] == values


def test_json_lines_skip_blank_lines_and_need_no_final_newline() -> None:
    assert decode_slices(JSONLinesDecoder(100), b'{"a":1}\n\n  \r\n{"b":2}', []) == [
        b'{"a":1}',
        b'{"b":2}',
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"data: " + b"x" * 200,
        b"x" * 200,
        b"data: " + b"x" * 200 + b"\n\n",
        b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n" * 9,
    ],
    ids=["endless line", "endless noise", "long line", "many lines"],
)
@pytest.mark.parametrize("size", [1, 50, 1000])
def test_an_event_beyond_the_limit_is_refused(data: bytes, size: int) -> None:
    decoder = EventDecoder(100)
    with pytest.raises(BadResponseError, match="100 bytes"):
        for at in range(0, len(data), size):
            decoder.feed(data[at : at + size])


def test_lines_that_are_not_part_of_an_event_are_kept_as_stray() -> None:
    decoder = EventDecoder(1000)
    assert decoder.feed(b'data: a\n\n{"src":"llama-swap"}\n\n') == [b"a"]
    assert decoder.stray == b'{"src":"llama-swap"}'
