from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import majordomo as md
from majordomo.transport.gather import Gatherer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def sliced(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]


def heard(pieces: list[bytes]) -> tuple[object, ...]:
    """What the protocol library makes of these bytes: the body, how often it came, and how it ended."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    body, times, end = b"", 0, "open"
    try:
        for piece in [*pieces, b""]:
            connection.receive_data(piece)
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                if isinstance(event, h11.Data):
                    body += bytes(event.data)
                    times += 1
                elif isinstance(event, h11.EndOfMessage):
                    end = f"whole {event.headers!r}"
                elif isinstance(event, h11.ConnectionClosed):
                    break
            if end != "open":
                break
    except h11.RemoteProtocolError:
        end = "error"
    return body, end, times


def gathered(pieces: list[bytes]) -> list[bytes]:
    gatherer = Gatherer()
    return [out for piece in pieces if (out := gatherer.feed(piece))]


def chunk(data: bytes, form: str = "%x") -> bytes:
    return (form % len(data)).encode() + b"\r\n" + data + b"\r\n"


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=12)
SIZES = st.lists(st.integers(1, 60), max_size=60)


@given(CHUNKS, SIZES, st.sampled_from(["%x", "%X", "%04x"]), st.sampled_from([b"0\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n", b""]))
def test_it_says_the_same_with_fewer_pieces(chunks: list[bytes], sizes: list[int], form: str, end: bytes) -> None:
    pieces = sliced(HEAD + b"".join(chunk(data, form) for data in chunks) + end, sizes)
    plain, fewer = heard(pieces), heard(gathered(pieces))
    assert fewer[:2] == plain[:2]
    assert fewer[2] <= plain[2]  # type: ignore[operator]  # both are counts


@given(st.binary(max_size=200), SIZES)
@example(b"5;a=b\r\nhello\r\n0\r\n\r\n", [])
@example(b"0x5\r\nhello\r\n", [])
@example(b"+5\r\nhello\r\n", [])
@example(b"1_0\r\nhello world 0123\r\n", [])
@example(b" 5\r\nhello\r\n", [])
@example(b"5 \r\nhello\r\n", [3])
@example(b"5\nhello\n0\n\n", [])
@example(b"5\r\nhello!\r\n", [])
@example(b"\r\n\r\n", [])
@example(b"fffffffff\r\n", [])
@example(b"5\r\nhello\r\n5\r\nhello\r\n1\r", [])
def test_what_is_not_well_formed_is_judged_as_it_would_be_without(garbage: bytes, sizes: list[int]) -> None:
    for body in (garbage, chunk(b"one") + chunk(b"two") + garbage):
        pieces = sliced(HEAD + body, sizes)
        assert heard(gathered(pieces))[:2] == heard(pieces)[:2]


@given(st.binary(max_size=120), SIZES)
def test_a_head_may_be_anything(head: bytes, sizes: list[int]) -> None:
    pieces = sliced(head + b"\r\n\r\n" + chunk(b"one") + chunk(b"two") + b"0\r\n\r\n", sizes)
    assert heard(gathered(pieces))[:2] == heard(pieces)[:2]


@pytest.mark.parametrize("ends", [b"\n\n", b"\r\n\n", b"\n\r\n"])
@pytest.mark.parametrize("sizes", [[], [1] * 200])
def test_a_head_ends_where_the_protocol_library_sees_its_end(ends: bytes, sizes: list[int]) -> None:
    body = b"\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"one") + chunk(b"two")
    pieces = sliced(b"HTTP/1.1 200 OK\r\ncontent-length: %d" % len(body) + ends + body, sizes)
    assert heard(pieces)[:2] == (body, "whole <Headers([])>")
    assert heard(gathered(pieces))[:2] == heard(pieces)[:2]
    bare = b"HTTP/1.1 200 OK\ntransfer-encoding: chunked" + ends
    assert gathered([bare + chunk(b"one") + chunk(b"two")]) == [bare + b"6\r\nonetwo\r\n"]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: transfer-encoding: chunked\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
def test_a_body_that_is_not_chunked_is_left_alone(head: bytes) -> None:
    body = chunk(b"one") + chunk(b"two")
    assert b"".join(gathered([head + body])) == head + body


def test_the_answer_after_a_provisional_one_is_gathered_too() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    assert gathered([early + HEAD + chunk(b"one") + chunk(b"two")]) == [early + HEAD + b"6\r\nonetwo\r\n"]


def test_a_thousand_provisional_answers_may_come_before_and_no_more() -> None:
    early = b"HTTP/1.1 100 \r\n\r\n" * 1000
    assert gathered([early + HEAD + chunk(b"one") + chunk(b"two")]) == [early + HEAD + b"6\r\nonetwo\r\n"]
    with pytest.raises(md.BadResponseError, match="provisional"):
        gathered([early, early])


def test_all_chunks_of_a_read_become_one_and_a_part_of_one_is_handed_on_at_once() -> None:
    gatherer = Gatherer()
    gatherer.feed(HEAD)
    assert gatherer.feed(chunk(b"one") + chunk(b"two") + b"a\r\n01234") == b"6\r\nonetwo\r\na\r\n01234"
    assert gatherer.feed(b"56789") == b"56789"
    assert gatherer.feed(b"\r\n" + chunk(b"three") + chunk(b"four") + b"1") == b"\r\n9\r\nthreefour\r\n"
    assert gatherer.feed(b"2\r\n") == b"12\r\n"
