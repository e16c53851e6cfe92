"""Image chains: failover, streams, previews and options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import imagegen
from majordomo.errors import FailedAttempt
from majordomo.imagegen import Done, Loading, Preview, Queued, Step
from majordomo.routing.chain import ImageChain
from tests.support.loopback import Handler, Loopback, http_response, images_reply, reply_with
from tests.support.scripted_members import PIXEL, FakeImageModel

Serve = Callable[[Handler], Loopback]
Image = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio
QUICK = md.Retries(attempts=1)


def failing(serve: Serve, status: int = 500) -> md.ImageModel:
    return md.LlamaSwap(
        serve(reply_with(http_response({"error": "no"}, status))).url, retries=QUICK
    ).image_model("bad")


def down() -> md.ConnectionFailedError:
    return md.ConnectionFailedError("refused")


async def test_the_next_member_is_called_after_a_failure(serve: Serve, image: Image) -> None:
    good = md.LlamaSwap(
        serve(reply_with(http_response(images_reply(image().data)))).url
    ).image_model("good")
    chain = ImageChain([failing(serve), failing(serve, 429), good])
    result = await chain.generate("a", seed=3)
    assert (result.provider, result.model) == ("llamaswap", "good")
    assert [(attempt.model, attempt.code) for attempt in result.failed_attempts] == [
        ("bad", "BACKEND_FAILED"),
        ("bad", "RATE_LIMITED"),
    ]
    async with chain.stream("a") as stream:
        assert [type(event).__name__ async for event in stream] == ["Done"]
    assert stream.result.failed_attempts == result.failed_attempts
    assert chain.generate_sync("a").model == "good"


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_client_error_is_raised_without_failover(
    serve: Serve, image: Image, status: int
) -> None:
    server = serve(reply_with(http_response(images_reply(image().data))))
    chain = ImageChain([failing(serve, status), md.LlamaSwap(server.url).image_model("good")])
    with pytest.raises(md.MajordomoError) as caught:
        await chain.generate("a")
    assert caught.value.status == status
    assert server.requests == []


async def test_chain_exhausted_error_has_all_errors(serve: Serve) -> None:
    with pytest.raises(md.ChainExhaustedError) as caught:
        await ImageChain([failing(serve), failing(serve, 503)]).generate("a")
    assert [error.status for error in caught.value.failures] == [500, 503]


async def read_stream(stream: Any) -> tuple[list[Any], md.MajordomoError | None]:
    events = []
    try:
        async for event in stream:
            events.append(event)
    except md.MajordomoError as error:
        return events, error
    return events, None


async def test_no_member_is_called_after_a_delivered_step(image: Image) -> None:
    class FailsHalfWay(md.Offline):
        async def run_in_thread(self, job: Callable[[], Any], deadline: Any) -> Any:
            self.done = getattr(self, "done", 0) + 1
            if self.done > 2:
                raise md.BackendError("died")
            return await super().run_in_thread(job, deadline)

    chain = ImageChain([FailsHalfWay().image_model("a"), md.Offline().image_model("b")])
    async with chain.stream("a", size="32x32") as stream:
        events, error = await read_stream(stream)
    assert [type(event).__name__ for event in events] == ["Step", "Step"]
    assert isinstance(error, md.StreamBrokenError)
    assert isinstance(error.__cause__, md.BackendError)
    assert error.partial is None
    with pytest.raises(md.StreamBrokenError):
        _ = stream.result
    assert (
        await ImageChain([FailsHalfWay().image_model("a"), md.Offline().image_model("b")]).generate(
            "a", size="32x32"
        )
    ).model == "b"


async def test_a_broken_stream_keeps_the_previews(image: Image) -> None:
    early, late, other = image(color="red"), image(color="green"), image(color="blue")
    first = FakeImageModel(
        "a",
        [Queued(1), Loading("warming"), Preview(early), Preview(other, 1), Preview(late), down()],
    )
    second = FakeImageModel("b")
    async with ImageChain([first, second]).stream("a") as stream:
        events, error = await read_stream(stream)
    assert len(events) == 5
    assert isinstance(error, md.StreamBrokenError)
    assert error.partial.images == (late, other)
    assert [warning.code for warning in error.partial.warnings] == ["UNFINISHED"]
    assert (error.partial.provider, error.partial.model) == ("own", "a")
    assert second.requests == []


async def test_queued_and_loading_events_do_not_prevent_failover() -> None:
    async with ImageChain(
        [
            FakeImageModel("a", [Queued(1), Loading("warming"), down()]),
            FakeImageModel("b", [Step(1, 1)]),
        ]
    ).stream("a") as stream:
        events, error = await read_stream(stream)
    assert error is None
    assert events == [Queued(1), Loading("warming"), Step(1, 1), Done(stream.result)]
    assert stream.result.failed_attempts == (
        FailedAttempt("own", "a", "CONNECTION_FAILED", "refused"),
    )


async def test_a_refusal_is_raised_unless_fallback_on_names_it() -> None:
    refusal = md.ContentRefusedError("no")
    second = FakeImageModel("b")
    with pytest.raises(md.ContentRefusedError):
        await ImageChain([FakeImageModel("a", refusal), second]).generate("a")
    assert second.requests == []
    assert (
        await ImageChain(
            [FakeImageModel("a", refusal), second], fallback_on="CONTENT_REFUSED"
        ).generate("a")
    ).model == "b"


async def test_member_options_have_the_lowest_precedence_and_none_unsets_them() -> None:
    member = FakeImageModel(
        "a", options=[md.with_steps(1), md.with_image_size("64x64"), md.with_image_count(2)]
    )
    chain = ImageChain([member], md.with_steps(2), md.with_cfg_scale(2.0))

    async def sent_request(
        request: Any = "a", *options: md.ImageOption, **keywords: Any
    ) -> imagegen.Request:
        await chain.generate(request, *options, **keywords)
        last: imagegen.Request = member.requests[-1]
        return last

    request = await sent_request()
    assert (request.steps, request.size, request.n, request.cfg_scale) == (2, "64x64", 2, 2.0)
    assert (await sent_request(imagegen.Request("a", steps=3))).steps == 3
    assert (await sent_request(imagegen.Request("a", steps=3), md.with_steps(4))).steps == 4
    request = await sent_request(
        imagegen.Request("a", steps=3), md.with_steps(4), steps=5, aspect="2:1", user_id="user-42"
    )
    assert (request.steps, request.size, request.aspect, request.user_id) == (
        5,
        "",
        "2:1",
        "user-42",
    )
    request = await sent_request("a", md.with_image_count(None), steps=None, size=None)
    assert (request.steps, request.size, request.n) == (None, "", 0)
    with pytest.raises(TypeError):
        await sent_request(stepps=1)
    with pytest.raises(md.InvalidRequestError, match="prompt must not be empty"):
        await sent_request("")


async def test_image_chains_can_be_nested_and_contain_model_strings() -> None:
    async with ImageChain([ImageChain([FakeImageModel("a", down())]), "offline"]) as chain:
        result = await chain.generate("a lamp", size="32x32")
    assert (result.provider, result.model, result.failed_attempts[0].model) == (
        "offline",
        "renderer",
        "a",
    )
    assert chain.id == "chain/own/a,offline/renderer"
    with pytest.raises(md.ConfigurationError, match="closed"):
        await chain.members[1].generate("a lamp")
    with pytest.raises(md.ConfigurationError):
        ImageChain(["anthropic/claude"])
    with pytest.raises(md.ConfigurationError):
        ImageChain([])


def test_the_blocking_stream_works() -> None:
    chain = ImageChain(
        [FakeImageModel("a", down(), [Step(1, 2), down()]), FakeImageModel("b", [Step(1, 1)])]
    )
    with chain.stream_sync("a") as stream:
        assert list(stream) == [Step(1, 1), Done(stream.result)]
    with pytest.raises(md.StreamBrokenError), chain.stream_sync("a") as stream:
        assert next(stream) == Step(1, 2)
        next(stream)


async def test_leaving_a_stream_closes_the_member_without_failover() -> None:
    first, second = FakeImageModel("a", [Step(1, 2), anyio.sleep_forever]), FakeImageModel("b")
    chain = ImageChain([first, second])
    async with chain.stream("a") as stream:
        assert await anext(aiter(stream)) == Step(1, 2)
    assert first.close_calls == 1
    async with anyio.create_task_group() as group:
        group.start_soon(chain.generate, "a")
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert (first.close_calls, second.requests) == (2, [])
    assert [status.errors for status in chain.status()] == [0, 0]


async def test_a_request_that_a_member_does_not_support_fails_over(
    serve: Serve, image: Image
) -> None:
    server, other = (
        serve(reply_with(http_response(images_reply(image().data)))),
        serve(reply_with(http_response({"error": "never asked"}, 500))),
    )
    async with (
        md.LlamaSwap(server.url) as good,
        md.LlamaSwap(other.url, strict=True, retries=QUICK) as strict,
    ):
        chain = ImageChain(
            [
                md.Gemini(api_key="k", base_url=other.url, retries=QUICK).image_model("imagen-4"),
                strict.image_model("m"),
                good.image_model("good"),
            ]
        )
        result = await chain.generate("a", images=[PIXEL], background="transparent")
    assert [(attempt.code, attempt.skipped) for attempt in result.failed_attempts] == [
        ("UNSUPPORTED", True)
    ] * 2
    assert result.model == "good"
    # Both were asked only for their model lists.
    assert [request.method for request in other.requests] == ["GET", "GET"]
    assert [(status.attempts, status.errors, status.successes) for status in chain.status()] == [
        (0, 0, 0),
        (0, 0, 0),
        (1, 0, 1),
    ]
