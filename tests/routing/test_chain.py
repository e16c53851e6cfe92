"""Chat chains: which member is called after which error, and what callers receive."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import llm
from majordomo.errors import FailedAttempt
from majordomo.llm import (
    Done,
    Loading,
    Queued,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallPart,
    ToolCallStarted,
)
from majordomo.routing.chain import Chain, ImageChain
from majordomo.routing.health import ChainHealth
from tests.support.scripted_members import FakeChatModel, FakeProvider

pytestmark = pytest.mark.anyio
Image = Callable[..., md.ImagePart]
FAILOVER_ERRORS = [
    md.ConnectionFailedError("refused"),
    md.OverloadedError("busy", status=503),
    md.RateLimitError("slowly", status=429),
    md.DeadlineExceededError("too long", phase="first_byte"),
    md.BackendError("crashed", status=500),
    md.BadResponseError("gibberish"),
    md.StreamBrokenError("cut"),
    md.JobLostError("gone"),
    md.UnsupportedError("no such field", field="seed"),
]
FINAL_ERRORS = [
    md.ContentRefusedError("no"),
    md.ContentRefusedError("no, but ask again", retryable=True),
    md.InvalidRequestError("bad", status=400),
    md.UnsupportedError("no such route", status=501),
    md.AuthenticationError("who?", status=401),
    md.PermissionDeniedError("not you", status=403),
    md.NotFoundError("no such model", status=404),
    md.RateLimitError("pay", code="QUOTA_EXHAUSTED", status=429, retryable=False),
    md.ConfigurationError("closed", code="CLOSED"),
]


def down() -> md.ConnectionFailedError:
    return md.ConnectionFailedError("refused")


def describe(error: md.MajordomoError) -> str:
    return f"{type(error).__name__}-{error.message}"


@pytest.mark.parametrize("error", FAILOVER_ERRORS, ids=describe)
async def test_the_next_member_is_called_after_a_retryable_error(error: md.MajordomoError) -> None:
    first, second, third = (
        FakeChatModel("a", error),
        FakeChatModel("b", "hello"),
        FakeChatModel("c"),
    )
    chain = Chain([first, second, third])
    reply = await chain.generate("hi")
    assert (reply.text, reply.provider, reply.model) == ("hello", "own", "b")
    assert reply.failed_attempts == (
        FailedAttempt(
            "own", "a", error.code, error.message, isinstance(error, md.UnsupportedError)
        ),
    )
    async with chain.stream("hi") as stream:
        assert [event async for event in stream] == [TextDelta("hello"), Done(stream.reply)]
    assert stream.reply.failed_attempts == reply.failed_attempts
    assert len(third.requests) == 0


@pytest.mark.parametrize("error", FINAL_ERRORS, ids=describe)
async def test_a_final_error_is_raised_unless_fallback_on_names_it(
    error: md.MajordomoError,
) -> None:
    second = FakeChatModel("b")
    with pytest.raises(type(error)) as caught:
        await Chain([FakeChatModel("a", error), second]).generate("hi")
    assert caught.value is error
    with pytest.raises(type(error)):
        async with Chain([FakeChatModel("a", error), second]).stream("hi") as stream:
            await anext(aiter(stream))
    assert second.requests == []
    for fallback_on in ([type(error)], (error.code,), type(error), error.code):
        assert (
            await Chain(
                [FakeChatModel("a", error), FakeChatModel("b")], fallback_on=fallback_on
            ).generate("hi")
        ).model == "b"


async def test_failed_attempts_is_empty_when_the_first_member_answers() -> None:
    assert (
        await Chain([FakeChatModel("a"), FakeChatModel("b")]).generate("hi")
    ).failed_attempts == ()


def call(name: str = "f") -> ToolCallPart:
    return ToolCallPart("c1", name, "{}")


@pytest.mark.parametrize(
    "part",
    [
        TextDelta("Good"),
        ThinkingDelta("hm"),
        ToolCallStarted(0, "c1", "f"),
        ToolCallDelta(0, "{"),
        ToolCall(0, call()),
        "image",
    ],
    ids=lambda part: type(part).__name__,
)
@pytest.mark.parametrize(
    "error", [md.ConnectionFailedError("refused"), md.ContentRefusedError("no")], ids=describe
)
async def test_an_error_after_the_first_part_raises_stream_broken_error(
    part: Any, error: md.MajordomoError, image: Image
) -> None:
    part = llm.ImageReady(image()) if part == "image" else part
    second = FakeChatModel("b")
    async with Chain(
        [
            FakeChatModel("z", down()),
            FakeChatModel("a", [Queued(1), Loading("warming"), part, error]),
            second,
        ]
    ).stream("hi") as stream:
        events, broken = await read_stream(stream)
    assert events == [Queued(1), Loading("warming"), part]
    assert second.requests == []
    assert isinstance(broken, md.StreamBrokenError)
    assert broken.__cause__ is error
    assert (broken.provider, broken.model, broken.details["cause"]) == ("own", "a", error.code)
    assert broken.retryable is error.retryable
    assert broken.partial.text == ("Good" if isinstance(part, TextDelta) else "")
    assert broken.partial.tool_calls == ((call(),) if isinstance(part, ToolCall) else ())
    assert [attempt.model for attempt in broken.partial.failed_attempts] == ["z"]
    assert stream.reply.text == broken.partial.text
    assert pickle.loads(pickle.dumps(broken)).partial == broken.partial


async def read_stream(stream: Any) -> tuple[list[Any], md.MajordomoError | None]:
    """Return the events of a stream, and the error that ended it."""
    events = []
    try:
        async for event in stream:
            events.append(event)
    except md.MajordomoError as error:
        return events, error
    return events, None


async def test_a_stream_broken_error_of_a_member_is_raised_unchanged() -> None:
    error = md.StreamBrokenError("cut", details={"replied": True})
    async with Chain([FakeChatModel("a", ["Good", error]), FakeChatModel("b")]).stream(
        "hi"
    ) as stream:
        _, broken = await read_stream(stream)
    assert broken is error
    assert error.__cause__ is None
    assert error.partial.text == "Good"


async def test_loading_and_queued_events_do_not_prevent_failover() -> None:
    chain = Chain(
        [FakeChatModel("a", [Queued(2), Loading("warming"), down()]), FakeChatModel("b", "hello")]
    )
    async with chain.stream("hi") as stream:
        assert [event async for event in stream] == [
            Queued(2),
            Loading("warming"),
            TextDelta("hello"),
            Done(stream.reply),
        ]


async def test_a_stream_without_done_fails_over() -> None:
    class SilentModel(FakeChatModel):
        def _stream(self, request: llm.Request, call: Any) -> Any:
            source = super()._stream(request, call)
            source._done = True
            return source

    async with Chain([SilentModel("a", []), FakeChatModel("b")]).stream("hi") as stream:
        _, error = await read_stream(stream)
    assert error is None
    assert stream.reply.failed_attempts[0].code == "NO_END"


async def test_chain_exhausted_error_has_all_errors_in_order() -> None:
    errors = [
        down(),
        md.UnsupportedError("no images"),
        md.RateLimitError("slowly", status=429, retry_after=7.0),
    ]
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain(
            [FakeChatModel(str(index), error) for index, error in enumerate(errors)]
        ).generate("hi")
    error = caught.value
    assert error.failures == tuple(errors)
    assert error.retryable
    assert error.retry_after == 7.0
    assert [failure["code"] for failure in error.details["failures"]] == [
        "CONNECTION_FAILED",
        "UNSUPPORTED",
        "RATE_LIMITED",
    ]
    assert "own/0: refused; own/1: no images; own/2: slowly" in error.message
    assert pickle.loads(pickle.dumps(error)).failures[0].message == "refused"
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain([FakeChatModel("a", md.UnsupportedError("no"))]).generate("hi")
    assert not caught.value.retryable


async def test_the_message_of_chain_exhausted_error_is_bounded() -> None:
    members = [
        FakeChatModel(str(index), md.BackendError("x" * 2000, status=500)) for index in range(100)
    ]
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain(members).generate("hi")
    assert len(caught.value.failures) == 100
    assert len(caught.value.message) <= 2048
    assert caught.value.message.endswith("and 92 more")


async def test_an_unexpected_exception_is_raised_unchanged() -> None:
    second = FakeChatModel("b")
    with pytest.raises(ZeroDivisionError):
        await Chain([FakeChatModel("a", ZeroDivisionError()), second]).generate("hi")
    assert second.requests == []


# Precedence


async def sent_request(
    member: FakeChatModel,
    options: tuple[llm.Option, ...] = (),
    request: Any = "hi",
    *call: llm.Option,
    **keywords: Any,
) -> llm.Request:
    await Chain([member], *options).generate(request, *call, **keywords)
    request = member.requests[-1]
    async with Chain([member], *options).stream(
        "hi" if isinstance(request, str) else request, *call, **keywords
    ) as stream:
        await read_stream(stream)
    return request


async def test_member_options_have_the_lowest_and_keywords_the_highest_precedence() -> None:
    def member() -> FakeChatModel:
        return FakeChatModel(
            "a", options=[md.with_temperature(0.1), md.with_top_k(1), md.with_seed(1)]
        )

    chain = (md.with_temperature(0.2), md.with_max_tokens(2))
    request = llm.Request(
        llm.load_messages(llm.dump_messages([md.user("hi")])), temperature=0.3, stop=("x",)
    )
    assert (await sent_request(member())).temperature == 0.1
    request_sent = await sent_request(member(), chain)
    assert (request_sent.temperature, request_sent.max_tokens, request_sent.top_k) == (0.2, 2, 1)
    assert (await sent_request(member(), chain, request)).temperature == 0.3
    assert (
        await sent_request(member(), chain, request, md.with_temperature(0.4))
    ).temperature == 0.4
    request_sent = await sent_request(
        member(), chain, request, md.with_temperature(0.4), temperature=0.0, user_id="user-42"
    )
    assert (
        request_sent.temperature,
        request_sent.seed,
        request_sent.stop,
        request_sent.user_id,
    ) == (0.0, 1, ("x",), "user-42")


async def test_none_unsets_an_option_of_a_member() -> None:
    def member() -> FakeChatModel:
        return FakeChatModel("a", options=[md.with_temperature(0.1), md.with_stop("x")])

    assert (await sent_request(member(), (), "hi", temperature=None)).temperature is None
    assert (await sent_request(member(), (), "hi", md.with_temperature(None))).temperature is None
    assert (await sent_request(member(), (md.with_temperature(None),), "hi")).temperature is None
    assert (
        await sent_request(
            member(), (md.with_temperature(None),), llm.Request((md.user("hi"),), temperature=0.5)
        )
    ).temperature == 0.5
    request_sent = await sent_request(
        member(), (), "hi", md.with_temperature(None), temperature=0.7
    )
    assert (request_sent.temperature, request_sent.stop) == (0.7, ("x",))
    nested = member()
    await Chain([Chain([nested])]).generate("hi", temperature=None)
    assert nested.requests[0].temperature is None


async def test_all_members_get_the_same_random_seed() -> None:
    first, second = FakeChatModel("a", down()), FakeChatModel("b")
    await Chain([first, second], md.with_random_seed()).generate("hi")
    assert first.requests[0].seed == second.requests[0].seed is not None


async def test_an_unknown_keyword_is_a_type_error() -> None:
    for name in ("temprature", "touched"):
        with pytest.raises(TypeError):
            await Chain([FakeChatModel("a")]).generate("hi", **{name: 1})


async def test_an_invalid_request_is_rejected_before_a_member_is_called() -> None:
    member = FakeChatModel("a")
    with pytest.raises(md.InvalidRequestError) as caught:
        await Chain([member]).generate("hi", temperature=9)
    assert (caught.value.field, caught.value.provider) == ("temperature", "chain")
    with pytest.raises(md.InvalidRequestError):
        Chain([member]).stream("hi", temperature=9)
    assert member.requests == []


# Construction


def test_invalid_members_are_rejected() -> None:
    image_model = md.Offline().image_model("x")
    for members in (
        [],
        "offline",
        b"x",
        None,
        7,
        [image_model],
        [md.Offline()],
        [None],
        ["unknown/x"],
        ["ollama"],
        [""],
    ):
        with pytest.raises(md.ConfigurationError):
            Chain(members)  # type: ignore[arg-type]
    with pytest.raises(md.ConfigurationError):
        ImageChain([md.Offline().model("x")])  # type: ignore[list-item]


def test_a_chain_must_not_contain_itself() -> None:
    chain = Chain([FakeChatModel("a")])
    outer = Chain([Chain([chain])])
    with pytest.raises(md.ConfigurationError, match="must not contain itself"):
        chain.__init__([outer])  # type: ignore[misc]


@pytest.mark.parametrize(
    "settings",
    [
        {"cooldown": 0},
        {"cooldown": float("nan")},
        {"cooldown": "30"},
        {"fallback_on": 7},
        {"fallback_on": [ValueError]},
        {"fallback_on": [""]},
        {"cooldown": 30, "health": ChainHealth()},
        {"capabilities": {"own/b": {"vision"}}},
        {"capabilities": {"own/a": {"smell"}}},
        {"capabilities": {"own/a": "vision"}},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_invalid_settings_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(md.ConfigurationError):
        Chain([FakeChatModel("a")], **settings)


async def test_only_members_from_model_strings_are_closed() -> None:
    provider = FakeProvider()
    model = provider.model("a")
    model._owned_provider = provider
    async with Chain([model, "offline/rules", Chain(["offline/rules"])]) as chain:
        assert [member.provider for member in chain.members] == ["fake", "offline", "chain"]
        assert chain.id == "fake/a,offline/rules,chain/offline/rules"
        assert (await chain.generate("hi")).provider == "fake"
    assert provider.close_calls == 0
    with pytest.raises(md.ConfigurationError, match="closed"):
        await chain.members[1].generate("hi")
    assert (await chain.members[2].generate("hi")).provider == "offline"


async def test_all_members_are_closed_when_closing_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = Chain(["offline/a", "offline/b"])

    async def fail() -> None:
        raise OSError("stuck")

    monkeypatch.setattr(chain.members[0], "aclose", fail)
    with pytest.raises(OSError, match="stuck"):
        await chain.aclose()
    with pytest.raises(md.ConfigurationError, match="closed"):
        await chain.members[1].generate("hi")


# Nested chains


async def test_members_of_a_nested_chain_are_called_in_order() -> None:
    inner = Chain(
        [
            FakeChatModel("b", down()),
            FakeChatModel("c", "hello", md.BackendError("crashed", status=500)),
        ]
    )
    chain = Chain([FakeChatModel("a", down()), inner, FakeChatModel("d")])
    reply = await chain.generate("hi")
    assert (reply.model, [attempt.model for attempt in reply.failed_attempts]) == ("c", ["a", "b"])
    reply = await chain.generate("hi")
    assert (reply.model, [attempt.model for attempt in reply.failed_attempts]) == (
        "d",
        ["a", "b", "c"],
    )
    assert [(status.model, status.failures) for status in chain.status()] == [
        ("a", 2),
        ("b", 2),
        ("c", 0),
        ("d", 0),
    ]


async def test_fallback_on_of_a_nested_chain_does_not_apply_outside() -> None:
    refusal = md.ContentRefusedError("no")
    inner = Chain([FakeChatModel("a", refusal)], fallback_on=md.ContentRefusedError)
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain([inner, FakeChatModel("b")]).generate("hi")
    assert caught.value.failures == (refusal,)


async def test_a_broken_stream_of_a_nested_chain_is_raised() -> None:
    async with Chain([Chain([FakeChatModel("a", ["Good", down()])]), FakeChatModel("b")]).stream(
        "hi"
    ) as stream:
        events, broken = await read_stream(stream)
    assert events == [TextDelta("Good")]
    assert isinstance(broken, md.StreamBrokenError)
    assert broken.partial.text == "Good"
    assert isinstance(broken.__cause__, md.ConnectionFailedError)


# Tools


async def test_a_tool_loop_fails_over_between_two_replies() -> None:
    first = FakeChatModel(
        "a", llm.ToolCall(0, call("add")), down(), options=[md.with_tool_choice("required")]
    )
    second = FakeChatModel("b", "five")
    chain = Chain([first, second])

    def add() -> int:
        """Add."""
        return 5

    reply = await md.run_tools(chain, "2 + 3?", tools=[add], tool_choice="required")
    assert (reply.text, reply.model) == ("five", "b")
    assert [attempt.model for attempt in reply.failed_attempts] == ["a"]
    assert [request.tool_choice for request in first.requests] == ["required", None]
    async with md.stream_tools(
        Chain([FakeChatModel("a", llm.ToolCall(0, call("add"))), FakeChatModel("b")]),
        "2 + 3?",
        tools=[add],
        max_turns=2,
    ) as stream:
        events, error = await read_stream(stream)
    assert error is None
    assert isinstance(events[-1], Done)


# Blocking API


def test_the_blocking_api_works() -> None:
    chain = Chain(
        [FakeChatModel("a", down(), [TextDelta("Good"), down()]), FakeChatModel("b", "hello")]
    )
    reply = chain.generate_sync("hi")
    assert (reply.text, reply.failed_attempts[0].model) == ("hello", "a")
    with pytest.raises(md.StreamBrokenError) as caught, chain.stream_sync("hi") as stream:
        assert next(stream) == TextDelta("Good")
        next(stream)
    assert caught.value.partial.text == "Good"
    with Chain([FakeChatModel("a", down()), FakeChatModel("b", "hello")]).stream_sync(
        "hi"
    ) as stream:
        assert list(stream) == [TextDelta("hello"), Done(stream.reply)]


async def test_a_custom_stream_with_a_task_group_works() -> None:
    """A generator with a cancel scope must be left in the task that entered it."""
    from contextlib import asynccontextmanager

    class TaskGroupModel(FakeChatModel):
        @asynccontextmanager
        async def stream(self, messages: Any, *options: Any, **overrides: Any) -> Any:  # type: ignore[override]
            async with (
                anyio.create_task_group(),
                super().stream(messages, *options, **overrides) as stream,
            ):
                yield stream

    chain = Chain([TaskGroupModel("a", down()), TaskGroupModel("b", "hello")])

    def read_blocking() -> list[Any]:
        with chain.stream_sync("hi") as stream:
            return list(stream)

    assert len(await anyio.to_thread.run_sync(read_blocking)) == 2


# Cancellation


async def test_cancellation_at_any_point_closes_the_member() -> None:
    for position in range(3):
        reached, never = anyio.Event(), anyio.Event()

        async def wait_forever(reached: anyio.Event = reached, never: anyio.Event = never) -> None:
            reached.set()
            await never.wait()

        steps: list[Any] = [Loading("warming"), TextDelta("Good")]
        steps.insert(position, wait_forever)
        first, second = FakeChatModel("a", steps), FakeChatModel("b")
        chain = Chain([first, second])

        async def read(chain: Chain = chain) -> None:
            async with chain.stream("hi") as stream:
                await read_stream(stream)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await reached.wait()
            group.cancel_scope.cancel()
        assert (first.close_calls, second.requests) == (1, [])
        async with anyio.create_task_group() as group:
            group.start_soon(chain.generate, "hi")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert (first.close_calls, second.requests) == (2, [])
        async with chain.stream("hi"):
            pass
        (status, _) = chain.status()
        assert (status.failures, status.errors, status.attempts) == (0, 0, 2)


async def test_leaving_the_block_early_closes_the_member() -> None:
    first = FakeChatModel("a", ["Good", anyio.sleep_forever])
    async with Chain([first]).stream("hi") as stream:
        assert await anext(aiter(stream)) == TextDelta("Good")
    assert first.close_calls == 1
    with pytest.raises(ZeroDivisionError):
        async with Chain([first]).stream("hi") as stream:
            await anext(aiter(stream))
            raise ZeroDivisionError
    assert first.close_calls == 2


async def test_a_broken_nested_chain_names_all_failed_attempts() -> None:
    inner = Chain([FakeChatModel("b", down()), FakeChatModel("c", ["Good", down()])])
    async with Chain([FakeChatModel("a", down()), inner]).stream("hi") as stream:
        _, broken = await read_stream(stream)
    assert isinstance(broken, md.StreamBrokenError)
    assert [attempt.model for attempt in broken.partial.failed_attempts] == ["a", "b"]
    assert (broken.partial.provider, broken.partial.model) == ("own", "c")


async def test_the_last_resort_is_called_after_a_skipped_nested_chain() -> None:
    health = ChainHealth(failures=1)
    inner, outer = (
        FakeChatModel("a", down(), [anyio.sleep_forever]),
        FakeChatModel("b", down(), "here"),
    )
    nested = Chain([inner], health=health)
    chain = Chain([nested, outer], health=ChainHealth(failures=1))
    with pytest.raises(md.ChainExhaustedError):
        await chain.generate("hi")
    async with anyio.create_task_group() as group:
        group.start_soon(nested.generate, "hi")
        await anyio.wait_all_tasks_blocked()
        reply = await chain.generate("hi")
        group.cancel_scope.cancel()
    assert (reply.text, reply.failed_attempts[0].skipped) == ("here", True)
