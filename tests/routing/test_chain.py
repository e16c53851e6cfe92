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
from tests.support.scripted_members import House, Voice

pytestmark = pytest.mark.anyio
Image = Callable[..., md.ImagePart]
PASSING = [
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
LASTING = [
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


def words(error: md.MajordomoError) -> str:
    return f"{type(error).__name__}-{error.message}"


@pytest.mark.parametrize("error", PASSING, ids=words)
async def test_it_asks_the_next_after_a_passing_failure(error: md.MajordomoError) -> None:
    first, second, third = Voice("a", error), Voice("b", "hello"), Voice("c")
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
    assert len(third.asked) == 0


@pytest.mark.parametrize("error", LASTING, ids=words)
async def test_it_asks_nobody_else_after_a_lasting_one_unless_told_to(
    error: md.MajordomoError,
) -> None:
    second = Voice("b")
    with pytest.raises(type(error)) as caught:
        await Chain([Voice("a", error), second]).generate("hi")
    assert caught.value is error
    with pytest.raises(type(error)):
        async with Chain([Voice("a", error), second]).stream("hi") as stream:
            await anext(aiter(stream))
    assert second.asked == []
    for on in ([type(error)], (error.code,), type(error), error.code):
        assert (
            await Chain([Voice("a", error), Voice("b")], fallback_on=on).generate("hi")
        ).model == "b"


async def test_it_says_nothing_was_tried_when_the_first_answers() -> None:
    assert (await Chain([Voice("a"), Voice("b")]).generate("hi")).failed_attempts == ()


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
    "error", [md.ConnectionFailedError("refused"), md.ContentRefusedError("no")], ids=words
)
async def test_it_breaks_once_a_part_was_given(
    part: Any, error: md.MajordomoError, image: Image
) -> None:
    part = llm.ImageReady(image()) if part == "image" else part
    second = Voice("b")
    async with Chain(
        [Voice("z", down()), Voice("a", [Queued(1), Loading("warming"), part, error]), second]
    ).stream("hi") as stream:
        seen, broken = await heard(stream)
    assert seen == [Queued(1), Loading("warming"), part]
    assert second.asked == []
    assert isinstance(broken, md.StreamBrokenError)
    assert broken.__cause__ is error
    assert (broken.provider, broken.model, broken.details["cause"]) == ("own", "a", error.code)
    assert broken.retryable is error.retryable
    assert broken.partial.text == ("Good" if isinstance(part, TextDelta) else "")
    assert broken.partial.tool_calls == ((call(),) if isinstance(part, ToolCall) else ())
    assert [tried.model for tried in broken.partial.failed_attempts] == ["z"]
    assert stream.reply.text == broken.partial.text
    assert pickle.loads(pickle.dumps(broken)).partial == broken.partial


async def heard(stream: Any) -> tuple[list[Any], md.MajordomoError | None]:
    """The events, and the error that ended them."""
    events = []
    try:
        async for event in stream:
            events.append(event)
    except md.MajordomoError as error:
        return events, error
    return events, None


async def test_it_leaves_a_broken_stream_as_the_member_told_it() -> None:
    error = md.StreamBrokenError("cut", details={"replied": True})
    async with Chain([Voice("a", ["Good", error]), Voice("b")]).stream("hi") as stream:
        _, broken = await heard(stream)
    assert broken is error
    assert error.__cause__ is None
    assert error.partial.text == "Good"


async def test_it_moves_on_while_a_member_only_loaded_or_queued() -> None:
    chain = Chain([Voice("a", [Queued(2), Loading("warming"), down()]), Voice("b", "hello")])
    async with chain.stream("hi") as stream:
        assert [event async for event in stream] == [
            Queued(2),
            Loading("warming"),
            TextDelta("hello"),
            Done(stream.reply),
        ]


async def test_it_moves_on_from_a_stream_that_ends_without_an_end() -> None:
    class Mute(Voice):
        def _stream(self, request: llm.Request) -> Any:
            saying = super()._stream(request)
            saying._done = True
            return saying

    async with Chain([Mute("a", []), Voice("b")]).stream("hi") as stream:
        _, error = await heard(stream)
    assert error is None
    assert stream.reply.failed_attempts[0].code == "NO_END"


async def test_it_tells_all_errors_in_order_when_nobody_answered() -> None:
    errors = [
        down(),
        md.UnsupportedError("no images"),
        md.RateLimitError("slowly", status=429, retry_after=7.0),
    ]
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain([Voice(str(place), error) for place, error in enumerate(errors)]).generate("hi")
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
        await Chain([Voice("a", md.UnsupportedError("no"))]).generate("hi")
    assert not caught.value.retryable


async def test_its_last_word_is_bounded_however_many_failed() -> None:
    members = [Voice(str(place), md.BackendError("x" * 2000, status=500)) for place in range(100)]
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain(members).generate("hi")
    assert len(caught.value.failures) == 100
    assert len(caught.value.message) <= 2048
    assert caught.value.message.endswith("and 92 more")


async def test_an_exception_that_is_none_of_ours_leaves_unchanged() -> None:
    second = Voice("b")
    with pytest.raises(ZeroDivisionError):
        await Chain([Voice("a", ZeroDivisionError()), second]).generate("hi")
    assert second.asked == []


# Precedence


async def sent(
    member: Voice,
    options: tuple[llm.Option, ...] = (),
    request: Any = "hi",
    *call: llm.Option,
    **keywords: Any,
) -> llm.Request:
    await Chain([member], *options).generate(request, *call, **keywords)
    request = member.asked[-1]
    async with Chain([member], *options).stream(
        "hi" if isinstance(request, str) else request, *call, **keywords
    ) as stream:
        await heard(stream)
    return request


async def test_options_of_the_member_lie_lowest_and_keywords_highest() -> None:
    def member() -> Voice:
        return Voice("a", options=[md.with_temperature(0.1), md.with_top_k(1), md.with_seed(1)])

    chain = (md.with_temperature(0.2), md.with_max_tokens(2))
    request = llm.Request(
        llm.load_messages(llm.dump_messages([md.user("hi")])), temperature=0.3, stop=("x",)
    )
    assert (await sent(member())).temperature == 0.1
    got = await sent(member(), chain)
    assert (got.temperature, got.max_tokens, got.top_k) == (0.2, 2, 1)
    assert (await sent(member(), chain, request)).temperature == 0.3
    assert (await sent(member(), chain, request, md.with_temperature(0.4))).temperature == 0.4
    got = await sent(
        member(), chain, request, md.with_temperature(0.4), temperature=0.0, user_id="user-42"
    )
    assert (got.temperature, got.seed, got.stop, got.user_id) == (0.0, 1, ("x",), "user-42")


async def test_none_unsets_what_a_member_was_made_with() -> None:
    def member() -> Voice:
        return Voice("a", options=[md.with_temperature(0.1), md.with_stop("x")])

    assert (await sent(member(), (), "hi", temperature=None)).temperature is None
    assert (await sent(member(), (), "hi", md.with_temperature(None))).temperature is None
    assert (await sent(member(), (md.with_temperature(None),), "hi")).temperature is None
    assert (
        await sent(
            member(), (md.with_temperature(None),), llm.Request((md.user("hi"),), temperature=0.5)
        )
    ).temperature == 0.5
    got = await sent(member(), (), "hi", md.with_temperature(None), temperature=0.7)
    assert (got.temperature, got.stop) == (0.7, ("x",))
    nested = member()
    await Chain([Chain([nested])]).generate("hi", temperature=None)
    assert nested.asked[0].temperature is None


async def test_every_member_starts_from_the_same_random_seed() -> None:
    first, second = Voice("a", down()), Voice("b")
    await Chain([first, second], md.with_random_seed()).generate("hi")
    assert first.asked[0].seed == second.asked[0].seed is not None


async def test_a_misspelt_keyword_is_a_type_error() -> None:
    for name in ("temprature", "noted"):
        with pytest.raises(TypeError):
            await Chain([Voice("a")]).generate("hi", **{name: 1})


async def test_a_request_that_cannot_be_is_said_before_anybody_is_asked() -> None:
    member = Voice("a")
    with pytest.raises(md.InvalidRequestError) as caught:
        await Chain([member]).generate("hi", temperature=9)
    assert (caught.value.field, caught.value.provider) == ("temperature", "chain")
    with pytest.raises(md.InvalidRequestError):
        Chain([member]).stream("hi", temperature=9)
    assert member.asked == []


# What a chain is made of


def test_it_refuses_what_is_no_member() -> None:
    brush = md.Offline().image_model("x")
    for members in (
        [],
        "offline",
        b"x",
        None,
        7,
        [brush],
        [md.Offline()],
        [None],
        ["nobody/x"],
        ["ollama"],
        [""],
    ):
        with pytest.raises(md.ConfigurationError):
            Chain(members)  # type: ignore[arg-type]
    with pytest.raises(md.ConfigurationError):
        ImageChain([md.Offline().model("x")])  # type: ignore[list-item]


def test_it_refuses_to_be_within_itself() -> None:
    chain = Chain([Voice("a")])
    outer = Chain([Chain([chain])])
    with pytest.raises(md.ConfigurationError, match="within itself"):
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
        {"capabilities": {"own/a": {"sight"}}},
        {"capabilities": {"own/a": "vision"}},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_it_refuses_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(md.ConfigurationError):
        Chain([Voice("a")], **settings)


async def test_it_closes_what_it_made_by_name_and_nothing_else() -> None:
    house = House()
    given = house.model("a")
    given._owned_provider = house
    async with Chain([given, "offline/rules", Chain(["offline/rules"])]) as chain:
        assert [member.provider for member in chain.members] == ["house", "offline", "chain"]
        assert chain.id == "house/a,offline/rules,chain/offline/rules"
        assert (await chain.generate("hi")).provider == "house"
    assert house.closed == 0
    with pytest.raises(md.ConfigurationError, match="closed"):
        await chain.members[1].generate("hi")
    assert (await chain.members[2].generate("hi")).provider == "offline"


async def test_it_closes_the_others_when_closing_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(["offline/a", "offline/b"])

    async def fail() -> None:
        raise OSError("stuck")

    monkeypatch.setattr(chain.members[0], "aclose", fail)
    with pytest.raises(OSError, match="stuck"):
        await chain.aclose()
    with pytest.raises(md.ConfigurationError, match="closed"):
        await chain.members[1].generate("hi")


# Chains within chains


async def test_it_asks_the_members_of_a_chain_within_in_its_place() -> None:
    inner = Chain([Voice("b", down()), Voice("c", "hello", md.BackendError("crashed", status=500))])
    chain = Chain([Voice("a", down()), inner, Voice("d")])
    reply = await chain.generate("hi")
    assert (reply.model, [tried.model for tried in reply.failed_attempts]) == ("c", ["a", "b"])
    reply = await chain.generate("hi")
    assert (reply.model, [tried.model for tried in reply.failed_attempts]) == ("d", ["a", "b", "c"])
    assert [(status.model, status.failures) for status in chain.status()] == [
        ("a", 2),
        ("b", 2),
        ("c", 0),
        ("d", 0),
    ]


async def test_a_chain_within_keeps_its_reasons_to_itself() -> None:
    refused = md.ContentRefusedError("no")
    inner = Chain([Voice("a", refused)], fallback_on=md.ContentRefusedError)
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain([inner, Voice("b")]).generate("hi")
    assert caught.value.failures == (refused,)


async def test_it_hands_on_the_end_of_a_stream_broken_within() -> None:
    async with Chain([Chain([Voice("a", ["Good", down()])]), Voice("b")]).stream("hi") as stream:
        events, broken = await heard(stream)
    assert events == [TextDelta("Good")]
    assert isinstance(broken, md.StreamBrokenError)
    assert broken.partial.text == "Good"
    assert isinstance(broken.__cause__, md.ConnectionFailedError)


# Tools


async def test_a_tool_loop_moves_on_between_two_answers() -> None:
    first = Voice(
        "a", llm.ToolCall(0, call("add")), down(), options=[md.with_tool_choice("required")]
    )
    second = Voice("b", "five")
    chain = Chain([first, second])

    def add() -> int:
        """Add."""
        return 5

    reply = await md.run_tools(chain, "2 + 3?", tools=[add], tool_choice="required")
    assert (reply.text, reply.model) == ("five", "b")
    assert [tried.model for tried in reply.failed_attempts] == ["a"]
    assert [request.tool_choice for request in first.asked] == ["required", None]
    async with md.stream_tools(
        Chain([Voice("a", llm.ToolCall(0, call("add"))), Voice("b")]),
        "2 + 3?",
        tools=[add],
        max_turns=2,
    ) as stream:
        events, error = await heard(stream)
    assert error is None
    assert isinstance(events[-1], Done)


# Blocking


def test_the_blocking_forms_do_the_same() -> None:
    chain = Chain([Voice("a", down(), [TextDelta("Good"), down()]), Voice("b", "hello")])
    reply = chain.generate_sync("hi")
    assert (reply.text, reply.failed_attempts[0].model) == ("hello", "a")
    with pytest.raises(md.StreamBrokenError) as caught, chain.stream_sync("hi") as stream:
        assert next(stream) == TextDelta("Good")
        next(stream)
    assert caught.value.partial.text == "Good"
    with Chain([Voice("a", down()), Voice("b", "hello")]).stream_sync("hi") as stream:
        assert list(stream) == [TextDelta("hello"), Done(stream.reply)]


async def test_it_works_with_a_model_that_has_its_own_way_of_streaming() -> None:
    """A generator with a cancel scope inside must be left in the task that entered it, whoever reads."""
    from contextlib import asynccontextmanager

    class Foreign(Voice):
        @asynccontextmanager
        async def stream(self, messages: Any, *options: Any, **overrides: Any) -> Any:  # type: ignore[override]
            async with (
                anyio.create_task_group(),
                super().stream(messages, *options, **overrides) as stream,
            ):
                yield stream

    chain = Chain([Foreign("a", down()), Foreign("b", "hello")])

    def blocking() -> list[Any]:
        with chain.stream_sync("hi") as stream:
            return list(stream)

    assert len(await anyio.to_thread.run_sync(blocking)) == 2


# Cancellation


async def test_leaving_at_any_point_leaves_nothing_behind() -> None:
    for position in range(3):
        reached, never = anyio.Event(), anyio.Event()

        async def hold(reached: anyio.Event = reached, never: anyio.Event = never) -> None:
            reached.set()
            await never.wait()

        steps: list[Any] = [Loading("warming"), TextDelta("Good")]
        steps.insert(position, hold)
        first, second = Voice("a", steps), Voice("b")
        chain = Chain([first, second])

        async def ask(chain: Chain = chain) -> None:
            async with chain.stream("hi") as stream:
                await heard(stream)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await reached.wait()
            group.cancel_scope.cancel()
        assert (first.left, second.asked) == (1, [])
        async with anyio.create_task_group() as group:
            group.start_soon(chain.generate, "hi")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert (first.left, second.asked) == (2, [])
        async with chain.stream("hi"):
            pass
        (status, _) = chain.status()
        assert (status.failures, status.errors, status.attempts) == (0, 0, 2)


async def test_leaving_the_body_early_stops_the_member() -> None:
    first = Voice("a", ["Good", anyio.sleep_forever])
    async with Chain([first]).stream("hi") as stream:
        assert await anext(aiter(stream)) == TextDelta("Good")
    assert first.left == 1
    with pytest.raises(ZeroDivisionError):
        async with Chain([first]).stream("hi") as stream:
            await anext(aiter(stream))
            raise ZeroDivisionError
    assert first.left == 2


async def test_it_names_everybody_who_was_tried_when_a_chain_within_breaks() -> None:
    inner = Chain([Voice("b", down()), Voice("c", ["Good", down()])])
    async with Chain([Voice("a", down()), inner]).stream("hi") as stream:
        _, broken = await heard(stream)
    assert isinstance(broken, md.StreamBrokenError)
    assert [tried.model for tried in broken.partial.failed_attempts] == ["a", "b"]
    assert (broken.partial.provider, broken.partial.model) == ("own", "c")


async def test_its_last_resort_comes_after_a_chain_within_that_could_ask_nobody() -> None:
    health = ChainHealth(failures=1)
    inner, outer = Voice("a", down(), [anyio.sleep_forever]), Voice("b", down(), "here")
    within = Chain([inner], health=health)
    chain = Chain([within, outer], health=ChainHealth(failures=1))
    with pytest.raises(md.ChainExhaustedError):
        await chain.generate("hi")
    async with anyio.create_task_group() as group:
        group.start_soon(within.generate, "hi")
        await anyio.wait_all_tasks_blocked()
        reply = await chain.generate("hi")
        group.cancel_scope.cancel()
    assert (reply.text, reply.failed_attempts[0].skipped) == ("here", True)
