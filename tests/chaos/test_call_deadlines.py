"""When a backend says wait: every form of it, on a clock of the test's own; storms; and chains that leave the sick alone."""

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
from tests.support.chat_backends import BACKENDS as CHATTING
from tests.support.image_backends import BACKENDS as DRAWING
from tests.support.loopback import Handler, Loopback, Peer, always, chat, whole

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
NOW = 1_800_000_000.0
MOST = 120.0  # seconds that a wait may be, by default


class Time:
    """A clock that only a wait moves; the waits are kept."""

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
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(calls.anyio, "sleep", time.sleep)
    return time


def on(provider: Any, time: Time) -> Any:
    """The provider with the test's own clocks; its jitter is at its longest."""
    provider._client.clock = time
    provider._client.wall_clock = lambda: NOW + time.now
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


JITTER = None  # no word of the backend's: our own half a second
# headers, body, what is waited; above MOST: not at all, and the error says so
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
    "words": ({"retry-after": "tomorrow"}, b"", JITTER),
    "a date to come": ({"retry-after": formatdate(NOW + 30, usegmt=True)}, b"", 30),
    "a date that was": ({"retry-after": formatdate(NOW - 30, usegmt=True)}, b"", 0),
    "a date of long ago": ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, b"", 0),
    "a date far away": ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, b"", 1e9),
    "a date of another form": ({"retry-after": "Friday, 15-Jan-27 08:00:30 GMT"}, b"", 30),
    "a date in another zone": ({"retry-after": "Fri, 15 Jan 2027 09:00:30 +0100"}, b"", 30),
    "no date": ({"retry-after": "Fri, 99 Foo 2027 99:99:99 GMT"}, b"", JITTER),
    "year 0": ({"retry-after": "Sat, 01 Jan 0000 00:00:00 GMT"}, b"", 0),
    "milliseconds": ({"retry-after-ms": "1500"}, b"", 1.5),
    "milliseconds first": ({"retry-after-ms": "250", "retry-after": "100"}, b"", 0.25),
    "milliseconds that are none": ({"retry-after-ms": "soon", "retry-after": "3"}, b"", 3),
    "milliseconds below 0": ({"retry-after-ms": "-1"}, b"", JITTER),
    "RetryInfo": ({}, info("3.5s"), 3.5),
    "RetryInfo too long": ({}, info("900s"), 900),
    "RetryInfo of nothing": ({}, info("0s"), 0),
    "RetryInfo that is none": ({}, info("soon"), JITTER),
    "RetryInfo of a list": ({}, info([1]), JITTER),
    "RetryInfo below 0": ({}, info("-3s"), JITTER),
    "RetryInfo without end": ({}, info("9" * 400 + "s"), JITTER),
    "a header before RetryInfo": ({"retry-after": "2"}, info("50s"), 2),
}


@pytest.mark.parametrize("status", [429, 503])
async def test_every_form_of_a_wait_is_honored_or_the_call_fails_at_once(
    serve: Serve, time: Time, status: int
) -> None:
    wrong = []
    for name, (headers, body, wait) in WAITS.items():
        server = serve(always(whole(body, status, headers), whole(chat("fine"))))
        time.waits.clear()
        time.now = 0.0
        async with on(md.OpenAICompatible(server.url + "/v1"), time) as provider:
            try:
                found: Any = (await provider.model("m").generate("hi")).text
            except md.MajordomoError as error:
                found = error.retry_after
        waited = [] if wait == 0 else [0.5 if wait is None else wait]
        expected = (wait, [], 1) if wait is not None and wait > MOST else ("fine", waited, 2)
        got = (found, time.waits, len(server.seen))
        if not (
            got == expected
            or (
                isinstance(found, float)
                and got[1:] == expected[1:]
                and math.isclose(found, expected[0], rel_tol=0.9)
            )
        ):
            wrong.append(f"{name}: {got}, not {expected}")
    assert wrong == []


@pytest.mark.parametrize("wish", ["true", "false", "TRUE", " False ", "maybe", "", "1", "no"])
async def test_a_wish_about_trying_again_counts_for_what_may_be_tried_again(
    serve: Serve, time: Time, wish: str
) -> None:
    tries = {}
    for status in (400, 401, 404, 500, 503):
        server = serve(always(whole(b"{}", status, {"x-should-retry": wish, "retry-after": "0"})))
        async with on(md.OpenAICompatible(server.url + "/v1"), time) as provider:
            with pytest.raises(md.MajordomoError):
                await provider.model("m").generate("hi")
        tries[status] = len(server.seen)
    again = wish.strip().lower() != "false"
    assert tries == {400: 1, 401: 1, 404: 1, 500: 3 if again else 1, 503: 3 if again else 1}


async def test_a_wait_that_outlasts_the_deadline_is_not_begun(serve: Serve, time: Time) -> None:
    server = serve(always(whole(b"{}", 503, {"retry-after": "60"})))
    async with on(md.OpenAICompatible(server.url + "/v1", timeout=100), time) as provider:
        with pytest.raises(md.OverloadedError) as caught:
            await provider.model("m").generate("hi")
    assert (time.waits, len(server.seen), caught.value.retry_after) == ([60], 2, 60)


EVERYBODY = [*CHATTING, *DRAWING]


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    EVERYBODY,
    ids=lambda backend: f"{'draw' if backend in DRAWING else 'chat'} {backend.name}",
)
async def test_a_storm_on_a_dead_server_stays_within_the_budget(
    backend: Any, serve: Serve, time: Time
) -> None:
    """40 calls at once, three times: 120 calls and 40 repeats, whatever is asked beside them."""
    server = serve(always(whole(b"{}", 503)))
    async with on(backend.connect(server.url, max_concurrency=50), time) as provider:
        model: Any = (
            provider.image_model(backend.model)
            if backend in DRAWING
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
    assert len(server.seen) <= 120 + 40 + 40, "the questions of some backends before an image"


# Chains


async def test_a_chain_leaves_a_sick_member_alone_and_tries_it_with_one_call(serve: Serve) -> None:
    """Over real sockets: five failures open, then it is not even connected to; its rest over, one call of twenty asks."""
    time = Time()
    healthy = [False]

    def sick(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(whole(chat("well again")) if healthy[0] else whole(b"{}", 503))

    first, second = serve(sick), serve(always(whole(chat("the other"))))
    health = ChainHealth(30, clock=time, fraction=lambda: 0.0)
    once = md.Retries(attempts=1)
    async with (
        md.OpenAICompatible(first.url + "/v1", retries=once) as one,
        md.OpenAICompatible(second.url + "/v1", retries=once) as other,
    ):
        chain = Chain([one.model("a"), other.model("b")], health=health)
        for _ in range(12):
            assert (await chain.generate("hi")).text == "the other"
        assert len(first.seen) == 5

        time.now += 29.9
        await chain.generate("hi")
        assert len(first.seen) == 5
        time.now += 0.2
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(chain.generate, "hi")
        assert len(first.seen) == 6, "one call tries"
        time.now += 59.9
        await chain.generate("hi")
        assert len(first.seen) == 6, "it rests twice as long"
        time.now += 0.2
        healthy[0] = True
        assert (await chain.generate("hi")).text == "well again"
        assert (await chain.generate("hi")).text == "well again"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 451])
async def test_no_answer_of_the_callers_making_opens(serve: Serve, status: int) -> None:
    time = Time()
    server = serve(always(whole(b"{}", status)))
    health = ChainHealth(30, clock=time)
    async with md.OpenAICompatible(server.url + "/v1") as provider:
        chain = Chain([provider.model("a")], health=health)
        for _ in range(8):
            with pytest.raises(md.MajordomoError):
                await chain.generate("hi")
    assert len(server.seen) == 8
