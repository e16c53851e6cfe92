"""How h11 alone decodes a response: the reference for `ResponseParser`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

import h11
import pytest

from majordomo.transport import response_head
from majordomo.transport.response_head import header_map
from majordomo.transport.response_parser import ResponseParser

PARSERS = ["h11"]
"""The libraries that can parse a head."""
with suppress(ImportError):
    importlib.import_module("httptools")
    PARSERS.append("httptools")


class Outcome(NamedTuple):
    """How a response was decoded."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    valid: bool
    reusable: bool


@contextmanager
def use_parser(name: str) -> Iterator[None]:
    """Parse heads with this library, whichever is installed."""
    library = None if name == "h11" else importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(response_head, "httptools", library)
        yield


def decode(slices: Iterable[bytes], method: str = "GET", *, parser: str = "h11") -> Outcome:
    """Return how `ResponseParser` decodes a response, after which the server disconnects."""
    with use_parser(parser):
        response = ResponseParser(method)
        body = b""
        for data in slices:
            body += response.feed(data)
        reusable = response.reusable
        response.feed_end()
        assert not response.reusable
        return Outcome(response.status, response.headers, body, not response.failed, reusable)


def decode_with_h11(slices: Iterable[bytes], method: str = "GET") -> Outcome:
    """Return how h11 decodes a response, after which the server disconnects."""
    # The limit is that of one event; h11 applies it only to what it has to wait for.
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    status, headers, body, ended = 0, {}, b"", False
    try:
        for data in [*slices, b""]:
            if not data and ended:
                break
            connection.receive_data(data)
            while not ended:
                event = connection.next_event()
                if isinstance(event, h11.Response):
                    status = event.status_code
                    headers = dict(header_map(event.headers.raw_items()))
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    ended = True
                elif not isinstance(event, h11.InformationalResponse):
                    break
        ended = ended and connection.their_state is not h11.ERROR
    except h11.RemoteProtocolError:
        return Outcome(status, headers, body, False, False)
    reusable = connection.their_state is h11.DONE and connection.trailing_data == (b"", False)
    return Outcome(status, headers, body, ended, reusable)
