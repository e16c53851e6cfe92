from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import majordomo as md
from majordomo.transport.chunks import BadChunkError, Chunks
from tests.support.h11_reference import alone, past

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def sliced(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]


def chunk(data: bytes, form: str = "%x") -> bytes:
    return (form % len(data)).encode() + b"\r\n" + data + b"\r\n"


LAST = b"0\r\n\r\n"
CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=12)
SIZES = st.lists(st.integers(1, 60), max_size=60)


ENDS = [LAST, b"0\r\nx-trailer: 1\r\n\r\n", b""]


@given(CHUNKS, SIZES, st.sampled_from(["%x", "%X", "%04x"]), st.sampled_from(ENDS))
def test_the_body_is_the_same_and_only_its_end_is_shown(
    chunks: list[bytes], sizes: list[int], form: str, end: bytes
) -> None:
    pieces = sliced(HEAD + b"".join(chunk(data, form) for data in chunks) + end, sizes)
    heard, shown = past(pieces)
    assert heard == alone(pieces)
    assert shown == len(HEAD) + len(end)


@given(st.binary(max_size=200), SIZES)
@example(b"5;a=b\r\nhello\r\n0\r\n\r\n", [])
@example(b"0x5\r\nhello\r\n", [])
@example(b"+5\r\nhello\r\n", [])
@example(b"1_0\r\nhello world 0123\r\n", [])
@example(b" 5\r\nhello\r\n", [])
@example(b"5 \r\nhello\r\n", [3])
@example(b"5\nhello\n0\n\n", [])
@example(b"5\r\nhello!\r\n", [])
@example(b"5\r\nhello!\r\n", [80 + 22 + 5])
@example(b"5\r\nhello\r!", [1] * 200)
@example(b"\r\n\r\n", [])
@example(b"fffffffff\r\n", [])
@example(b"5\r\nhello\r\n5\r\nhello\r\n1\r", [])
def test_what_is_not_well_formed_is_judged_as_it_would_be_without(
    garbage: bytes, sizes: list[int]
) -> None:
    for body in (garbage, chunk(b"one") + chunk(b"two") + garbage):
        pieces = sliced(HEAD + body, sizes)
        assert past(pieces)[0] == alone(pieces)


@given(st.binary(max_size=120), SIZES)
def test_a_head_may_be_anything(head: bytes, sizes: list[int]) -> None:
    pieces = sliced(head + b"\r\n\r\n" + chunk(b"one") + chunk(b"two") + b"0\r\n\r\n", sizes)
    assert past(pieces)[0] == alone(pieces)


@pytest.mark.parametrize("ends", [b"\n\n", b"\r\n\n", b"\n\r\n"])
@pytest.mark.parametrize("sizes", [[], [1] * 200])
def test_a_head_ends_where_the_protocol_library_sees_its_end(ends: bytes, sizes: list[int]) -> None:
    body = b"\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"one") + chunk(b"two")
    pieces = sliced(b"HTTP/1.1 200 OK\r\ncontent-length: %d" % len(body) + ends + body, sizes)
    assert past(pieces)[0] == alone(pieces) == (body, "whole <Headers([])>")
    bare = b"HTTP/1.1 200 OK\ntransfer-encoding: chunked" + ends
    pieces = sliced(bare + chunk(b"one") + chunk(b"two") + LAST, sizes)
    assert past(pieces) == ((b"onetwo", "whole <Headers([])>"), len(bare + LAST))


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: transfer-encoding: chunked\r\ncontent-length: 16\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
def test_a_body_that_is_not_chunked_is_left_alone(head: bytes) -> None:
    body = chunk(b"one") + chunk(b"two")
    chunks = Chunks()
    assert chunks.feed(head + body) == head + body
    assert not chunks.plain
    assert past([head + body])[0] == alone([head + body])


def test_the_answer_to_head_has_no_chunks_whatever_stands_behind_it() -> None:
    assert (
        past([HEAD + chunk(b"one")], "HEAD")[0]
        == alone([HEAD + chunk(b"one")], "HEAD")
        == (b"", "whole <Headers([])>")
    )


def test_provisional_answers_may_come_before() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    assert past([early + HEAD + chunk(b"one") + chunk(b"two") + LAST]) == (
        (b"onetwo", "whole <Headers([])>"),
        len(early + HEAD + LAST),
    )


def test_a_thousand_provisional_answers_may_come_before_and_no_more() -> None:
    early = b"HTTP/1.1 100 \r\n\r\n" * 1000
    chunks = Chunks()
    assert chunks.feed(early + HEAD + chunk(b"one")) == early + HEAD
    assert chunks.take() == b"one"
    chunks = Chunks()
    chunks.feed(early)
    with pytest.raises(md.BadResponseError, match="provisional"):
        chunks.feed(early)


def test_all_chunks_of_a_read_are_one_piece_and_a_part_of_one_is_given_at_once() -> None:
    chunks = Chunks()
    assert chunks.feed(HEAD + chunk(b"one")) == HEAD
    assert chunks.take(chunk(b"two") + b"a\r\n01234") == b"onetwo01234"
    assert chunks.take(b"56789") == b"56789"
    assert chunks.take(b"\r\n" + chunk(b"three") + chunk(b"four") + b"1") == b"threefour"
    assert chunks.holds
    assert chunks.take(b"2\r\n") == b""
    assert not chunks.holds
    assert chunks.take(b"x" * 18 + b"\r") == b"x" * 18
    assert chunks.take(b"\n1\r") == b""
    assert chunks.plain
    assert (chunks.take(b"\n!\r\n" + LAST), chunks.plain, chunks.release(), chunks.holds) == (
        b"!",
        False,
        LAST,
        False,
    )


def test_a_size_without_end_is_not_kept() -> None:
    chunks = Chunks()
    chunks.feed(HEAD + chunk(b"one") + b"0" * 8 + b"\r")
    assert (chunks.take(), chunks.plain) == (b"one", True)
    assert (chunks.take(b"0"), chunks.plain, chunks.release()) == (b"", False, b"0" * 8 + b"\r0")
    chunks = Chunks()
    chunks.feed(HEAD + b"1" * 10)
    assert (chunks.take(), chunks.plain, chunks.release()) == (b"", False, b"1" * 10)


def test_what_was_never_taken_is_released_as_it_came() -> None:
    chunks = Chunks()
    chunks.feed(HEAD + chunk(b"one"))
    assert (chunks.release(), chunks.plain) == (chunk(b"one"), False)
    assert chunks.feed(chunk(b"two")) == chunk(b"two")


@pytest.mark.parametrize("behind", [b"!", b"\r!", b"\n\r"])
@pytest.mark.parametrize("sizes", [[], [1, 1]])
def test_a_chunk_longer_than_it_says_is_bad_once_its_beginning_was_given(
    behind: bytes, sizes: list[int]
) -> None:
    chunks = Chunks()
    chunks.feed(HEAD + b"5\r\nhe")
    assert chunks.take() == b"he"
    assert chunks.take(b"llo") == b"llo"
    with pytest.raises(BadChunkError):
        for piece in sliced(behind, sizes):
            chunks.take(piece)
    chunks = Chunks()
    chunks.feed(HEAD + b"5\r\nhe")
    assert chunks.take() + chunks.take(b"llo" + behind) == b"hello"  # told before the error
    with pytest.raises(BadChunkError):
        chunks.take()
