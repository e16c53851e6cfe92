"""Tests of fault injection: an injected fault has the effect of the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import llm
from majordomo.testing import (
    BadGateway,
    BadJSON,
    CutAfter,
    Fault,
    Faults,
    Garbage,
    ModelLoading,
    Pause,
    RateLimited,
    Refused,
    Slow,
    Status,
    WrongContentType,
)
from tests.servers.llamaswap import LlamaSwap
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    reply_with,
)

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
ONCE = md.Retries(attempts=1)


def provider(server: Loopback, faults: Faults, **settings: Any) -> md.OpenAICompatible:
    return md.OpenAICompatible(
        server.url + "/v1", transport=faults, **{"retries": ONCE, **settings}
    )


@pytest.fixture
def server(serve: Serve) -> Loopback:
    return serve(reply_with(http_response(chat_completion("hi"))))


FAULTS: list[tuple[Fault, type[md.MajordomoError], dict[str, Any]]] = [
    (Refused(), md.ConnectionFailedError, {"retryable": True}),
    (BadGateway(), md.BackendError, {"status": 502}),
    (BadJSON(), md.BadResponseError, {}),
    (WrongContentType(), md.BadResponseError, {}),
    (Garbage(), md.BadResponseError, {}),
    (RateLimited(retry_after=7), md.RateLimitError, {"retry_after": 7.0, "status": 429}),
    (RateLimited(retry_after=None), md.RateLimitError, {"retry_after": None}),
    (CutAfter(20), md.ConnectionFailedError, {"code": "REPLY_CUT"}),
    (CutAfter(0), md.ConnectionFailedError, {}),
    (Status(401, '{"error": {"message": "no"}}'), md.AuthenticationError, {"status": 401}),
]


@pytest.mark.parametrize(("fault", "kind", "expected"), FAULTS, ids=lambda value: repr(value)[:30])
async def test_injected_fault_raises_the_error_of_a_real_fault(
    server: Loopback, fault: Fault, kind: Any, expected: dict[str, Any]
) -> None:
    faults = Faults([fault])
    async with provider(server, faults) as backend:
        with pytest.raises(kind) as caught:
            await backend.model("m").generate("hi")
        assert {name: getattr(caught.value, name) for name in expected} == expected
        assert (await backend.model("m").generate("hi")).text == "hi"
    assert (faults.count(), faults.count(type(fault)), faults.calls) == (1, 1, 1)
    assert len(server.requests) == (2 if isinstance(fault, CutAfter) else 1)
    assert [(one.number, one.method, one.path, one.fault) for one in faults.history] == [
        (1, "POST", "/chat/completions", fault),
        (2, "POST", "/chat/completions", None),
    ]


async def test_cut_after_breaks_the_stream_at_its_size(serve: Serve) -> None:
    event = delta("Good ")

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            peer.chunk(event + delta("evening") + delta({}, "stop") + DONE)
            peer.end()

    server = serve(handler)
    async with provider(server, Faults({2: CutAfter(len(event) + 10)})) as backend:
        async with backend.model("m").stream("hi") as stream:
            assert [e async for e in stream][-1].reply.text == "Good evening"
        with pytest.raises(md.StreamBrokenError) as caught:
            async with backend.model("m").stream("hi") as stream:
                async for one in stream:
                    assert one == llm.TextDelta("Good ")
        assert caught.value.partial.text == "Good "


async def test_model_loading_fault_makes_the_call_wait(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("majordomo.models.retries.LOADING_RETRY_SECONDS", 0.0)
    faults = Faults([ModelLoading(times=3)])
    async with provider(server, faults) as backend, backend.model("m").stream("hi") as stream:
        events = [event async for event in stream]
    assert [type(event) for event in events[:3]] == [llm.Loading] * 3
    assert stream.reply.text == "hi"
    assert (faults.count(ModelLoading), faults.calls) == (3, 1)


async def test_retries_are_counted_as_requests(server: Loopback) -> None:
    faults = Faults([BadGateway(), Refused(), None, Refused()])
    async with provider(server, faults, retries=md.Retries(attempts=3, initial_delay=0)) as backend:
        assert (await backend.model("m").generate("hi")).text == "hi"
    assert [type(one.fault) for one in faults.history] == [BadGateway, Refused, type(None)]
    with provider(
        server, Faults([Refused()]), retries=md.Retries(attempts=2, initial_delay=0)
    ) as backend:
        assert backend.model("m").generate_sync("hi").text == "hi"


async def test_plan_may_be_a_function(server: Loopback) -> None:
    def choose(request: Any, number: int) -> Fault | None:
        return Refused() if request.method == "GET" else None

    async with provider(server, Faults(choose)) as backend:
        assert (await backend.model("m").generate("hi")).text == "hi"
        assert not (await backend.health()).ok


async def test_slow_waits_for_its_pause(server: Loopback) -> None:
    pause = Pause()
    replies = []

    async def generate() -> None:
        replies.append((await backend.model("m").generate("hi")).text)

    async with (
        provider(server, Faults([Slow(until=pause)])) as backend,
        anyio.create_task_group() as group,
    ):
        group.start_soon(generate)
        await pause.reached()
        assert (replies, server.requests) == ([], [])
        pause.release()
    assert replies == ["hi"]


async def test_slow_uses_the_given_sleep(server: Loopback) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with provider(server, Faults([Slow(300, sleep=sleep)])) as backend:
        assert (await backend.model("m").generate("hi")).text == "hi"
    assert slept == [300]


async def test_time_limits_apply_during_slow(server: Loopback) -> None:
    async with provider(
        server, Faults([Slow(3600)]), timeout=md.Timeout(first_byte=0.05)
    ) as backend:
        with pytest.raises(md.DeadlineExceededError) as caught:
            await backend.model("m").generate("hi")
    assert caught.value.phase == "first_byte"
    assert server.requests == []


async def test_provider_checks_for_loading_during_slow(serve: Serve) -> None:
    """llama-swap reports that nothing is loading, so the first-byte limit applies."""
    server = serve(LlamaSwap({"tiny": StableDiffusion(size=(64, 64))}))
    faults = Faults(lambda request, number: Slow(3600) if "images" in request.path else None)
    async with md.LlamaSwap(
        server.url, transport=faults, timeout=md.Timeout(first_byte=0.05)
    ) as backend:
        with pytest.raises(md.DeadlineExceededError):
            await backend.image_model("tiny").generate("a fox", size="64x64")
    assert [one.path for one in faults.history if one.fault is None] == ["/running"]


def test_garbage_depends_on_its_seed() -> None:
    assert Garbage(10, seed=1) != Garbage(10, seed=2)


@pytest.mark.parametrize("plan", [[Refused], {"1": Refused()}, {0: Refused()}, ["502"], {1: None}])
def test_invalid_plan_raises_configuration_error(plan: Any) -> None:
    with pytest.raises(md.ConfigurationError):
        Faults(plan)


def test_invalid_times_raises_configuration_error() -> None:
    for times in (0, True, 1.5):
        with pytest.raises(md.ConfigurationError):
            Refused(times=times)  # type: ignore[arg-type]


async def test_a_closed_provider_stays_closed(server: Loopback) -> None:
    backend = provider(server, Faults([Refused()]))
    await backend.aclose()
    with pytest.raises(md.ConfigurationError, match="closed"):
        await backend.model("m").generate("hi")


def test_fault_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Fault()  # type: ignore[abstract]
