from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import majordomo as md
from majordomo.transport.chunks import BadChunkError, Chunks
from tests.support.h11_reference import decode_with_chunks, decode_with_h11

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def slice_bytes(data: bytes, sizes: list[int]) -> list[bytes]:
    slices, at = [], 0
    for size in sizes:
        slices.append(data[at : at + size])
        at += size
    return [part for part in [*slices, data[at:]] if part]


def chunk(data: bytes, size_format: str = "%x") -> bytes:
    return (size_format % len(data)).encode() + b"\r\n" + data + b"\r\n"


LAST_CHUNK = b"0\r\n\r\n"
CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=12)
SIZES = st.lists(st.integers(1, 60), max_size=60)


ENDS = [LAST_CHUNK, b"0\r\nx-trailer: 1\r\n\r\n", b""]


@given(CHUNKS, SIZES, st.sampled_from(["%x", "%X", "%04x"]), st.sampled_from(ENDS))
def test_a_chunked_body_is_unchanged_and_h11_sees_only_its_end(
    chunks: list[bytes], sizes: list[int], size_format: str, end: bytes
) -> None:
    slices = slice_bytes(HEAD + b"".join(chunk(data, size_format) for data in chunks) + end, sizes)
    outcome, seen_by_h11 = decode_with_chunks(slices)
    assert outcome == decode_with_h11(slices)
    assert seen_by_h11 == len(HEAD) + len(end)


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
def test_malformed_chunks_are_handled_as_by_h11_alone(garbage: bytes, sizes: list[int]) -> None:
    for body in (garbage, chunk(b"one") + chunk(b"two") + garbage):
        slices = slice_bytes(HEAD + body, sizes)
        assert decode_with_chunks(slices)[0] == decode_with_h11(slices)


@given(st.binary(max_size=120), SIZES)
def test_any_head_is_handled_as_by_h11_alone(head: bytes, sizes: list[int]) -> None:
    slices = slice_bytes(head + b"\r\n\r\n" + chunk(b"one") + chunk(b"two") + b"0\r\n\r\n", sizes)
    assert decode_with_chunks(slices)[0] == decode_with_h11(slices)


@pytest.mark.parametrize("head_end", [b"\n\n", b"\r\n\n", b"\n\r\n"])
@pytest.mark.parametrize("sizes", [[], [1] * 200])
def test_a_head_ends_where_h11_detects_its_end(head_end: bytes, sizes: list[int]) -> None:
    body = b"\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"one") + chunk(b"two")
    slices = slice_bytes(
        b"HTTP/1.1 200 OK\r\ncontent-length: %d" % len(body) + head_end + body, sizes
    )
    assert decode_with_chunks(slices)[0] == decode_with_h11(slices) == (body, "whole <Headers([])>")
    bare = b"HTTP/1.1 200 OK\ntransfer-encoding: chunked" + head_end
    slices = slice_bytes(bare + chunk(b"one") + chunk(b"two") + LAST_CHUNK, sizes)
    assert decode_with_chunks(slices) == (
        (b"onetwo", "whole <Headers([])>"),
        len(bare + LAST_CHUNK),
    )


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
def test_a_body_that_is_not_chunked_goes_to_h11(head: bytes) -> None:
    body = chunk(b"one") + chunk(b"two")
    chunks = Chunks()
    assert chunks.feed(head + body) == head + body
    assert not chunks.plain
    assert decode_with_chunks([head + body])[0] == decode_with_h11([head + body])


def test_a_response_to_head_has_no_chunks_whatever_follows_it() -> None:
    assert (
        decode_with_chunks([HEAD + chunk(b"one")], "HEAD")[0]
        == decode_with_h11([HEAD + chunk(b"one")], "HEAD")
        == (b"", "whole <Headers([])>")
    )


def test_informational_responses_may_precede_the_response() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    assert decode_with_chunks([early + HEAD + chunk(b"one") + chunk(b"two") + LAST_CHUNK]) == (
        (b"onetwo", "whole <Headers([])>"),
        len(early + HEAD + LAST_CHUNK),
    )


def test_more_than_a_thousand_informational_responses_raise_bad_response_error() -> None:
    early = b"HTTP/1.1 100 \r\n\r\n" * 1000
    chunks = Chunks()
    assert chunks.feed(early + HEAD + chunk(b"one")) == early + HEAD
    assert chunks.take() == b"one"
    chunks = Chunks()
    chunks.feed(early)
    with pytest.raises(md.BadResponseError, match="informational"):
        chunks.feed(early)


def test_chunks_of_one_read_are_joined_and_a_partial_chunk_is_returned_at_once() -> None:
    chunks = Chunks()
    assert chunks.feed(HEAD + chunk(b"one")) == HEAD
    assert chunks.take(chunk(b"two") + b"a\r\n01234") == b"onetwo01234"
    assert chunks.take(b"56789") == b"56789"
    assert chunks.take(b"\r\n" + chunk(b"three") + chunk(b"four") + b"1") == b"threefour"
    assert chunks.has_pending
    assert chunks.take(b"2\r\n") == b""
    assert not chunks.has_pending
    assert chunks.take(b"x" * 18 + b"\r") == b"x" * 18
    assert chunks.take(b"\n1\r") == b""
    assert chunks.plain
    assert (
        chunks.take(b"\n!\r\n" + LAST_CHUNK),
        chunks.plain,
        chunks.release(),
        chunks.has_pending,
    ) == (
        b"!",
        False,
        LAST_CHUNK,
        False,
    )


def test_an_unterminated_size_is_released() -> None:
    chunks = Chunks()
    chunks.feed(HEAD + chunk(b"one") + b"0" * 8 + b"\r")
    assert (chunks.take(), chunks.plain) == (b"one", True)
    assert (chunks.take(b"0"), chunks.plain, chunks.release()) == (b"", False, b"0" * 8 + b"\r0")
    chunks = Chunks()
    chunks.feed(HEAD + b"1" * 10)
    assert (chunks.take(), chunks.plain, chunks.release()) == (b"", False, b"1" * 10)


def test_pending_bytes_are_released_unchanged() -> None:
    chunks = Chunks()
    chunks.feed(HEAD + chunk(b"one"))
    assert (chunks.release(), chunks.plain) == (chunk(b"one"), False)
    assert chunks.feed(chunk(b"two")) == chunk(b"two")


@pytest.mark.parametrize("excess", [b"!", b"\r!", b"\n\r"])
@pytest.mark.parametrize("sizes", [[], [1, 1]])
def test_a_chunk_longer_than_its_size_raises_bad_chunk_error_after_its_beginning_was_returned(
    excess: bytes, sizes: list[int]
) -> None:
    chunks = Chunks()
    chunks.feed(HEAD + b"5\r\nhe")
    assert chunks.take() == b"he"
    assert chunks.take(b"llo") == b"llo"
    with pytest.raises(BadChunkError):
        for part in slice_bytes(excess, sizes):
            chunks.take(part)
    chunks = Chunks()
    chunks.feed(HEAD + b"5\r\nhe")
    # Everything before the error is returned first.
    assert chunks.take() + chunks.take(b"llo" + excess) == b"hello"
    with pytest.raises(BadChunkError):
        chunks.take()
