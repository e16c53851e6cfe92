from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import pytest

import majordomo as md
from majordomo import llm
from majordomo.models.retries import RetryBudget, RetryState, may_retry
from majordomo.settings import Retries, Timeout
from majordomo.transport_types import Deadline
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    images_reply,
    reply_with,
)

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
QUICK = md.Retries(initial_delay=0.01)


def retry_state(
    retries: Retries = QUICK, *, image: bool = False, timeout: Timeout | None = None
) -> RetryState:
    deadline = Deadline(timeout or Timeout(total=1000), clock=lambda: 100.0)
    return RetryState(
        retries, RetryBudget(retries.budget), deadline, image_job=image, fraction=lambda: 1.0
    )


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
async def test_a_transient_failure_is_retried(serve: Serve, status: int) -> None:
    server = serve(
        reply_with(
            http_response({"error": "x"}, status),
            http_response({"error": "x"}, status),
            http_response(chat_completion("fine")),
        )
    )
    async with md.OpenAICompatible(server.url + "/v1", retries=QUICK) as provider:
        assert (await provider.model("m").generate("hi")).text == "fine"
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 413, 422, 451, 501])
async def test_a_permanent_failure_is_not_retried(serve: Serve, status: int) -> None:
    server = serve(reply_with(http_response({"error": "x"}, status)))
    async with md.OpenAICompatible(server.url + "/v1", retries=QUICK) as provider:
        with pytest.raises(md.MajordomoError):
            await provider.model("m").generate("hi")
        with pytest.raises(md.MajordomoError):
            async with provider.model("m").stream("hi") as stream:
                await anext(aiter(stream))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        http_response("<html>"),
        http_response({"choices": []}),
        http_response({"error": {"code": "insufficient_quota", "message": "pay"}}, 429),
    ],
)
async def test_invalid_replies_and_exhausted_quotas_are_not_retried(
    serve: Serve, answer: bytes
) -> None:
    server = serve(reply_with(answer))
    async with md.OpenAICompatible(server.url + "/v1", retries=QUICK) as provider:
        with pytest.raises(md.MajordomoError):
            await provider.model("m").generate("hi")
    assert len(server.requests) == 1


async def test_attempts_include_the_first_request(serve: Serve) -> None:
    server = serve(reply_with(http_response({"error": "x"}, 500)))
    async with md.OpenAICompatible(
        server.url + "/v1", retries=md.Retries(attempts=2, initial_delay=0.01)
    ) as provider:
        with pytest.raises(md.BackendError):
            await provider.model("m").generate("hi")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "requests"), [(429, 3), (503, 3), (500, 1), (502, 1), (504, 1), (408, 1)]
)
async def test_an_image_job_is_retried_only_when_it_was_refused(
    serve: Serve, status: int, requests: int, image: Callable[[], md.ImagePart]
) -> None:
    server = serve(
        reply_with(
            http_response({"error": "x"}, status),
            http_response({"error": "x"}, status),
            http_response(images_reply(image().data)),
        )
    )
    async with md.LlamaSwap(server.url, retries=QUICK) as provider:
        try:
            await provider.image_model("m").generate("a")
        except md.MajordomoError as error:
            assert error.status == status
    assert len(server.requests) == requests


async def test_an_image_job_is_not_retried_after_a_broken_connection(serve: Serve) -> None:
    server = serve(lambda peer: (peer.request(), peer.reset()))
    async with md.LlamaSwap(server.url, retries=QUICK) as provider:
        with pytest.raises(md.ConnectionFailedError) as caught:
            await provider.image_model("m").generate("a")
    assert caught.value.details["sent"] is True
    assert len(server.requests) == 1


async def test_a_stale_connection_does_not_count_as_an_attempt(serve: Serve) -> None:
    """llama.cpp's router closes 2 or 3 of 60 requests on a kept connection without a byte."""

    def handler(peer: Peer) -> None:
        if peer.request() is not None:
            peer.reply(chat_completion(f"from {peer.number}"))
            peer.request()  # the second one on this connection is read and never answered

    server = serve(handler)
    async with md.OpenAICompatible(server.url + "/v1", retries=md.Retries(attempts=1)) as provider:
        model = provider.model("m")
        assert [(await model.generate("hi")).text for _ in range(3)] == [
            "from 0",
            "from 1",
            "from 2",
        ]
    assert len(server.requests) == 5


async def test_retry_after_is_honored_or_the_call_fails_at_once(serve: Serve) -> None:
    limited = {"error": {"message": "slow"}}
    server = serve(
        reply_with(
            http_response(limited, 429, {"retry-after-ms": "200"}),
            http_response(chat_completion("fine")),
            http_response(limited, 429, {"retry-after": "121"}),
        )
    )
    async with md.OpenAICompatible(server.url + "/v1") as provider:
        started_at = time.monotonic()
        assert (await provider.model("m").generate("hi")).text == "fine"
        assert time.monotonic() - started_at >= 0.2
        started_at = time.monotonic()
        with pytest.raises(md.RateLimitError) as caught:
            await provider.model("m").generate("hi")
        assert time.monotonic() - started_at < 1
    assert caught.value.retry_after == 121


def test_the_delay_doubles_up_to_its_maximum_with_jitter() -> None:
    state = retry_state(Retries(attempts=9, initial_delay=0.5, max_delay=3))
    assert [state.next_delay(md.BackendError("x")) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    state = retry_state(Retries(attempts=3))
    state.fraction = lambda: 0.0
    assert state.next_delay(md.BackendError("x")) == 0.0


def test_a_delay_longer_than_the_deadline_raises_at_once() -> None:
    with pytest.raises(md.RateLimitError):
        retry_state(timeout=Timeout(total=5)).next_delay(
            md.RateLimitError("x", retry_after=6, status=429)
        )


def test_a_crashed_upstream_is_retried_once() -> None:
    state = retry_state(Retries(attempts=5))
    state.next_delay(md.BackendError("x", code="UPSTREAM_DIED"))
    with pytest.raises(md.BackendError):
        state.next_delay(md.BackendError("x", code="UPSTREAM_DIED"))


def test_the_budget_limits_the_retries_of_all_calls() -> None:
    retries = Retries(attempts=100, budget=5)
    budget = RetryBudget(retries.budget)
    retries_used = 0
    for _ in range(40):
        state = RetryState(retries, budget, Deadline(Timeout(total=100)), fraction=lambda: 0.0)
        try:
            for _ in range(3):
                state.next_delay(md.BackendError("x"))
                retries_used += 1
        except md.BackendError:
            pass
    assert retries_used == 5


def test_successes_refill_the_budget_slowly() -> None:
    budget = RetryBudget(2)
    assert (budget.spend(), budget.spend(), budget.spend()) == (True, True, False)
    for _ in range(11):
        budget.record_success()
    assert (budget.spend(), budget.spend()) == (True, False)


def test_of_all_timeouts_only_connect_is_retried() -> None:
    assert may_retry(md.DeadlineExceededError("x", phase="connect"))
    for phase in ("queue", "load", "first_byte", "idle", "total"):
        assert not may_retry(md.DeadlineExceededError("x", phase=phase))  # type: ignore[arg-type]


LOADING = http_response(
    {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
    503,
    {"retry-after-ms": "50"},
)


async def test_a_loading_server_is_retried_without_counting_attempts(
    serve: Serve, image: Callable[[], md.ImagePart]
) -> None:
    server = serve(reply_with(*[LOADING] * 6, http_response(chat_completion("loaded"))))
    async with md.OpenAICompatible(server.url + "/v1", retries=md.Retries(attempts=1)) as provider:
        assert (await provider.model("m").generate("hi")).text == "loaded"
    server = serve(reply_with(*[LOADING] * 3, http_response(images_reply(image().data))))
    async with (
        md.LlamaSwap(server.url, retries=md.Retries(attempts=1)) as provider,
        provider.image_model("m").stream("a") as stream,
    ):
        events = [type(event).__name__ async for event in stream]
    assert events == ["Loading"] * 3 + ["Done"]


async def test_loading_is_an_event_of_a_chat_stream(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            if len(peer.server.requests) < 3:
                peer.send(LOADING)
            else:
                peer.begin()
                peer.chunk(delta("hi") + delta({}, "stop") + DONE)
                peer.end()

    async with (
        md.OpenAICompatible(serve(handler).url + "/v1") as provider,
        provider.model("m").stream("x") as stream,
    ):
        events = [event async for event in stream]
    assert [type(event) for event in events] == [llm.Loading, llm.Loading, llm.TextDelta, llm.Done]
    assert isinstance(events[0], llm.Loading)
    assert events[0].message.startswith("Loading model")


async def test_a_load_that_exceeds_its_limit_names_the_load_phase(serve: Serve) -> None:
    async with md.OpenAICompatible(
        serve(reply_with(LOADING)).url + "/v1", timeout=md.Timeout(load=0.3)
    ) as provider:
        with pytest.raises(md.DeadlineExceededError) as caught:
            await provider.model("m").generate("hi")
    assert caught.value.phase == "load"
    assert caught.value.model == "m"


async def test_nothing_is_sent_after_a_cancellation(serve: Serve) -> None:
    server = serve(reply_with(http_response({"error": "x"}, 503)))
    async with md.OpenAICompatible(
        server.url + "/v1", retries=md.Retries(attempts=5, initial_delay=0.2, max_delay=0.2)
    ) as provider:
        with anyio.move_on_after(0.05) as scope:
            await provider.model("m").generate("hi")
        assert scope.cancelled_caught
        request_count = len(server.requests)
        await anyio.sleep(0.4)
        assert len(server.requests) == request_count
