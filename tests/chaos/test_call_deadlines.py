"""Waits that a backend asks for, retry storms, and chains that skip failing members.

The tests use a clock of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo.models import client as calls
from majordomo.routing.chain import Chain
from majordomo.routing.health import ChainHealth
from tests.support.chat_backends import BACKENDS as CHAT_BACKENDS
from tests.support.image_backends import BACKENDS as IMAGE_BACKENDS
from tests.support.loopback import (
    Handler,
    Loopback,
    Peer,
    chat_completion,
    http_response,
    reply_with,
)

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
NOW = 1_800_000_000.0
# The default limit for a wait.
MAX_WAIT_SECONDS = 120.0


class FakeClock:
    """A clock that only waits move; it records them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(calls.anyio, "sleep", clock.sleep)
    return clock


def with_clock(provider: Any, clock: FakeClock) -> Any:
    """Give the provider the test's clock and the longest jitter."""
    provider._client.clock = clock
    provider._client.wall_clock = lambda: NOW + clock.now
    provider._client.fraction = lambda: 1.0
    return provider


def info(delay: Any) -> bytes:
    return json.dumps(
        {
            "error": {
                "code": 429,
                "message": "x",
                "details": [{"@type": "x.RetryInfo", "retryDelay": delay}],
            }
        }
    ).encode()


# The backend asks for no wait: our own half a second.
JITTER = None
# Headers, body and expected wait in seconds. Above MAX_WAIT_SECONDS there is no wait, and the error
# has the value.
WAITS: dict[str, tuple[dict[str, str], bytes, float | None]] = {
    "nothing": ({}, b"", JITTER),
    "0": ({"retry-after": "0"}, b"", 0),
    "7": ({"retry-after": "7"}, b"", 7),
    "7 with space": ({"retry-after": "  7 "}, b"", 7),
    "07": ({"retry-after": "07"}, b"", 7),
    "1.5": ({"retry-after": "1.5"}, b"", 1.5),
    "120": ({"retry-after": "120"}, b"", 120),
    "120.5": ({"retry-after": "120.5"}, b"", 120.5),
    "121": ({"retry-after": "121"}, b"", 121),
    "a year": ({"retry-after": "31536000"}, b"", 31536000),
    "999999999999999": ({"retry-after": "999999999999999"}, b"", 1e9),
    "forty digits": ({"retry-after": "9" * 40}, b"", JITTER),
    "a thousand digits": ({"retry-after": "9" * 1000}, b"", JITTER),
    "-5": ({"retry-after": "-5"}, b"", JITTER),
    "+5": ({"retry-after": "+5"}, b"", JITTER),
    "1e3": ({"retry-after": "1e3"}, b"", JITTER),
    "0x10": ({"retry-after": "0x10"}, b"", JITTER),
    "NaN": ({"retry-after": "NaN"}, b"", JITTER),
    "inf": ({"retry-after": "inf"}, b"", JITTER),
    "7s": ({"retry-after": "7s"}, b"", JITTER),
    "7, 8": ({"retry-after": "7, 8"}, b"", JITTER),
    "other digits": ({"retry-after": "\xb2"}, b"", JITTER),
    "empty": ({"retry-after": ""}, b"", JITTER),
    "a word": ({"retry-after": "tomorrow"}, b"", JITTER),
    "a future date": ({"retry-after": formatdate(NOW + 30, usegmt=True)}, b"", 30),
    "a past date": ({"retry-after": formatdate(NOW - 30, usegmt=True)}, b"", 0),
    "a date long ago": ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, b"", 0),
    "a date far in the future": ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, b"", 1e9),
    "a date in another format": ({"retry-after": "Friday, 15-Jan-27 08:00:30 GMT"}, b"", 30),
    "a date in another zone": ({"retry-after": "Fri, 15 Jan 2027 09:00:30 +0100"}, b"", 30),
    "an invalid date": ({"retry-after": "Fri, 99 Foo 2027 99:99:99 GMT"}, b"", JITTER),
    "year 0": ({"retry-after": "Sat, 01 Jan 0000 00:00:00 GMT"}, b"", 0),
    "milliseconds": ({"retry-after-ms": "1500"}, b"", 1.5),
    "milliseconds first": ({"retry-after-ms": "250", "retry-after": "100"}, b"", 0.25),
    "invalid milliseconds": ({"retry-after-ms": "soon", "retry-after": "3"}, b"", 3),
    "milliseconds below 0": ({"retry-after-ms": "-1"}, b"", JITTER),
    "RetryInfo": ({}, info("3.5s"), 3.5),
    "RetryInfo too long": ({}, info("900s"), 900),
    "RetryInfo of zero": ({}, info("0s"), 0),
    "invalid RetryInfo": ({}, info("soon"), JITTER),
    "RetryInfo of a list": ({}, info([1]), JITTER),
    "RetryInfo below 0": ({}, info("-3s"), JITTER),
    "RetryInfo of 400 digits": ({}, info("9" * 400 + "s"), JITTER),
    "a header before RetryInfo": ({"retry-after": "2"}, info("50s"), 2),
}


@pytest.mark.parametrize("status", [429, 503])
async def test_requested_wait_is_honored_or_the_call_fails_at_once(
    serve: Serve, clock: FakeClock, status: int
) -> None:
    wrong = []
    for name, (headers, body, wait) in WAITS.items():
        server = serve(
            reply_with(http_response(body, status, headers), http_response(chat_completion("fine")))
        )
        clock.waits.clear()
        clock.now = 0.0
        async with with_clock(md.OpenAICompatible(server.url + "/v1"), clock) as provider:
            try:
                outcome: Any = (await provider.model("m").generate("hi")).text
            except md.MajordomoError as error:
                outcome = error.retry_after
        waited = [] if wait == 0 else [0.5 if wait is None else wait]
        expected = (
            (wait, [], 1) if wait is not None and wait > MAX_WAIT_SECONDS else ("fine", waited, 2)
        )
        actual = (outcome, clock.waits, len(server.requests))
        if not (
            actual == expected
            or (
                isinstance(outcome, float)
                and actual[1:] == expected[1:]
                and math.isclose(outcome, expected[0], rel_tol=0.9)
            )
        ):
            wrong.append(f"{name}: {actual}, not {expected}")
    assert wrong == []


@pytest.mark.parametrize(
    "should_retry", ["true", "false", "TRUE", " False ", "maybe", "", "1", "no"]
)
async def test_x_should_retry_only_affects_retryable_errors(
    serve: Serve, clock: FakeClock, should_retry: str
) -> None:
    attempts = {}
    for status in (400, 401, 404, 500, 503):
        server = serve(
            reply_with(
                http_response(b"{}", status, {"x-should-retry": should_retry, "retry-after": "0"})
            )
        )
        async with with_clock(md.OpenAICompatible(server.url + "/v1"), clock) as provider:
            with pytest.raises(md.MajordomoError):
                await provider.model("m").generate("hi")
        attempts[status] = len(server.requests)
    retries = should_retry.strip().lower() != "false"
    assert attempts == {400: 1, 401: 1, 404: 1, 500: 3 if retries else 1, 503: 3 if retries else 1}


async def test_wait_beyond_the_deadline_is_not_started(serve: Serve, clock: FakeClock) -> None:
    server = serve(reply_with(http_response(b"{}", 503, {"retry-after": "60"})))
    async with with_clock(md.OpenAICompatible(server.url + "/v1", timeout=100), clock) as provider:
        with pytest.raises(md.OverloadedError) as caught:
            await provider.model("m").generate("hi")
    assert (clock.waits, len(server.requests), caught.value.retry_after) == ([60], 2, 60)


ALL_BACKENDS = [*CHAT_BACKENDS, *IMAGE_BACKENDS]


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    ALL_BACKENDS,
    ids=lambda backend: f"{'draw' if backend in IMAGE_BACKENDS else 'chat'} {backend.name}",
)
async def test_retries_of_many_calls_stay_within_the_budget(
    backend: Any, serve: Serve, clock: FakeClock
) -> None:
    """Three times 40 calls at once: 120 calls and 40 retries, plus additional requests."""
    server = serve(reply_with(http_response(b"{}", 503)))
    async with with_clock(backend.connect(server.url, max_concurrency=50), clock) as provider:
        model: Any = (
            provider.image_model(backend.model)
            if backend in IMAGE_BACKENDS
            else provider.model(backend.model)
        )

        async def ask() -> None:
            with pytest.raises(md.MajordomoError):
                await model.generate("hi")

        for _ in range(3):
            async with anyio.create_task_group() as group:
                for _ in range(40):
                    group.start_soon(ask)
        assert provider._client.budget.remaining < 1
    assert len(server.requests) <= 120 + 40 + 40, "some backends send a request before an image"


# Chains


async def test_chain_skips_a_failing_member_and_probes_it_with_one_call(serve: Serve) -> None:
    """Five failures open the breaker; after the pause, one of twenty calls probes the member."""
    clock = FakeClock()
    healthy = [False]

    def failing(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(
                http_response(chat_completion("recovered"))
                if healthy[0]
                else http_response(b"{}", 503)
            )

    first, second = serve(failing), serve(reply_with(http_response(chat_completion("the other"))))
    health = ChainHealth(30, clock=clock, fraction=lambda: 0.0)
    once = md.Retries(attempts=1)
    async with (
        md.OpenAICompatible(first.url + "/v1", retries=once) as one,
        md.OpenAICompatible(second.url + "/v1", retries=once) as other,
    ):
        chain = Chain([one.model("a"), other.model("b")], health=health)
        for _ in range(12):
            assert (await chain.generate("hi")).text == "the other"
        assert len(first.requests) == 5

        clock.now += 29.9
        await chain.generate("hi")
        assert len(first.requests) == 5
        clock.now += 0.2
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(chain.generate, "hi")
        assert len(first.requests) == 6, "one call probes"
        clock.now += 59.9
        await chain.generate("hi")
        assert len(first.requests) == 6, "the second pause is twice as long"
        clock.now += 0.2
        healthy[0] = True
        assert (await chain.generate("hi")).text == "recovered"
        assert (await chain.generate("hi")).text == "recovered"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 451])
async def test_errors_caused_by_the_request_do_not_open_the_breaker(
    serve: Serve, status: int
) -> None:
    clock = FakeClock()
    server = serve(reply_with(http_response(b"{}", status)))
    health = ChainHealth(30, clock=clock)
    async with md.OpenAICompatible(server.url + "/v1") as provider:
        chain = Chain([provider.model("a")], health=health)
        for _ in range(8):
            with pytest.raises(md.MajordomoError):
                await chain.generate("hi")
    assert len(server.requests) == 8
