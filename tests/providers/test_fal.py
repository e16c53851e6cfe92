"""fal.ai's queue: the job, its events and its end, and results at another origin."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import imagegen
from majordomo.models import fetched_job_image_model, job_image_model
from majordomo.providers import fal as fal_provider
from majordomo.testing import Recorder, Replay
from tests.servers.fal import Fal, color
from tests.servers.hashed_images import encode_image, solid_image
from tests.servers.http_helpers import Response, json_response
from tests.servers.plain_client import halves
from tests.support.loopback import (
    Handler,
    Loopback,
    Peer,
    ReceivedRequest,
    http_response,
    reply_with,
)
from tests.support.sample_images import rgb_pixel
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
ImageFactory = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio
KEY = "key-id:very-secret-half"
FLUX = "fal-ai/flux/dev"
ONCE = md.Retries(attempts=1)
FAST = md.Retries(attempts=3, initial_delay=0.001)


class Intercepted:
    """The server, with other answers to some requests.

    `intercept(request)` returns the bytes to send instead, None for the server's own answer, or b""
    to close the connection.
    """

    def __init__(self, server: Fal, intercept: Callable[[ReceivedRequest], bytes | None]) -> None:
        self.server, self.intercept = server, intercept

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            sent = self.intercept(request)
            if sent == b"":
                return
            peer.send(self.server.answer(request).sent if sent is None else sent)


@pytest.fixture
def server() -> Iterator[Fal]:
    server = Fal(keys=(KEY,))
    yield server
    server.release()


@pytest.fixture
def queue(server: Fal, serve: Serve) -> Loopback:
    """The address of the server."""
    return serve(server)


@pytest.fixture
async def provider(queue: Loopback) -> AsyncIterator[md.Fal]:
    async with md.Fal(KEY, base_url=queue.url, retries=ONCE) as provider:
        yield provider


@pytest.fixture
def model(provider: md.Fal) -> imagegen.Model:
    return provider.image_model(FLUX)


def paths(loopback: Loopback, method: str = "GET") -> list[str]:
    """Return the paths of the requests, without the ids of jobs and the names of files."""
    found = []
    for request in loopback.requests:
        if request.method == method:
            path, _, rest = request.path.partition("/requests/")
            found.append(
                path.partition("/files/")[0] + "/" + rest.partition("/")[2] if rest else path
            )
    return found


# Generating


async def test_every_setting_reaches_the_model(model: imagegen.Model, server: Fal) -> None:
    result = await model.generate(
        "a red fox", size="96x64", steps=9, cfg_scale=2.5, seed=0, output_format="png", n=2
    )
    assert server.requests[0].input == {
        "prompt": "a red fox",
        "image_size": {"width": 96, "height": 64},
        "num_inference_steps": 9,
        "guidance_scale": 2.5,
        "seed": 0,
        "output_format": "png",
        "num_images": 2,
    }
    assert [(image.width, image.height, rgb_pixel(image)) for image in result.images] == [
        (96, 64, color(server.requests[0].input, index)) for index in range(2)
    ]
    assert result.warnings == ()
    assert (result.provider, result.model, result.usage.seconds) == ("fal", FLUX, 0.25)
    assert server.foreign_headers == []


async def test_the_seed_is_known(model: imagegen.Model, server: Fal) -> None:
    result = await model.generate("a red fox", imagegen.with_random_seed())
    assert result.details[0].seed == server.requests[0].input["seed"]
    result = await model.generate("a red fox")
    assert "seed" not in server.requests[1].input
    assert result.details[0].seed == server.random_seed


async def test_more_images_than_one_request_makes_are_several_requests(
    model: imagegen.Model, server: Fal
) -> None:
    result = await model.generate("a red fox", n=6, seed=10)
    assert sorted((r.input["num_images"], r.input["seed"]) for r in server.requests) == [
        (2, 14),
        (4, 10),
    ]
    assert len(result.images) == 6


async def test_edits_and_masks(provider: md.Fal, server: Fal, image: ImageFactory) -> None:
    original = image(64, 48, "white")
    edited = await provider.image_model("fal-ai/flux/dev/image-to-image").generate(
        "a red fox", images=[original], strength=0.5, output_format="png"
    )
    assert edited.image.width == 64
    mask = md.ImagePart(halves(255, 0))
    result = await provider.image_model("fal-ai/flux-lora/inpainting").generate(
        "a red fox", images=[original], mask=mask, output_format="png"
    )
    pixels = result.image.to_pil().convert("RGB")
    assert pixels.getpixel((60, 5)) == (255, 255, 255), "black is kept"
    assert pixels.getpixel((5, 5)) != (255, 255, 255), "white is repainted"
    result = await provider.image_model("fal-ai/nano-banana/edit").generate(
        "a red fox", images=[original, original], aspect="16:9"
    )
    assert len(server.requests[-1].input["image_urls"]) == 2
    assert server.requests[-1].input["aspect_ratio"] == "16:9"
    assert (result.image.width, result.image.height) == (256, 144)


async def test_an_unsupported_field_is_a_warning_or_with_strict_an_error(queue: Loopback) -> None:
    async with md.Fal(KEY, base_url=queue.url) as provider:
        result = await provider.image_model(FLUX).generate("a", negative_prompt="rain")
    assert [warning.field for warning in result.warnings] == ["negative_prompt"]
    sent = len(queue.requests)
    async with md.Fal(KEY, base_url=queue.url, strict=True) as provider:
        with pytest.raises(md.UnsupportedError) as caught:
            await provider.image_model(FLUX).generate("a", negative_prompt="rain")
    assert caught.value.field == "negative_prompt"
    assert [request.method for request in queue.requests[sent:]] == ["GET"], "the look-up"


async def test_the_catalog_is_asked_once_for_each_model(provider: md.Fal, queue: Loopback) -> None:
    for name in (FLUX, FLUX, "fal-ai/fast-sdxl"):
        await provider.image_model(name).generate("a")
    look_ups = [r.path for r in queue.requests if r.path.startswith("/v1/models")]
    assert len(look_ups) == 2


async def test_without_the_catalog_every_field_is_sent(
    provider: md.Fal, server: Fal, queue: Loopback
) -> None:
    server.no_catalog = True
    model = provider.image_model("fal-ai/fast-sdxl")
    for _ in range(2):
        await model.generate("a", negative_prompt="rain", seed=7)
    assert server.requests[0].input == {"prompt": "a", "negative_prompt": "rain", "seed": 7}
    look_ups = [r.path for r in queue.requests if r.path.startswith("/v1/models")]
    assert len(look_ups) == 1, "after a failure there is a pause"


async def test_parallel_calls_of_a_model_share_one_look_up(
    provider: md.Fal, server: Fal, queue: Loopback
) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(provider.image_model(FLUX).generate, "a")
    look_ups = [r.path for r in queue.requests if r.path.startswith("/v1/models")]
    assert (len(look_ups), len(server.requests)) == (1, 5)


async def test_a_failed_look_up_pauses_only_that_model(server: Fal, serve: Serve) -> None:
    def intercept(request: ReceivedRequest) -> bytes | None:
        failing = "flux%2Fdev" in request.path and request.path.startswith("/v1/models")
        return http_response("no", 500) if failing else None

    queue = serve(Intercepted(server, intercept))
    async with md.Fal(KEY, base_url=queue.url, retries=ONCE) as provider:
        for name in (FLUX, "fal-ai/fast-sdxl", FLUX):
            await provider.image_model(name).generate("a", output_format="png")
        # The second model is known to have another name for the field.
        names = ["format" if "format" in r.input else "output_format" for r in server.requests]
        assert names == ["output_format", "format", "output_format"]
        look_ups = [r.path for r in queue.requests if r.path.startswith("/v1/models")]
        assert len(look_ups) == 2


async def test_a_look_up_does_not_change_a_call_that_has_begun(
    queue: Loopback, server: Fal, image: ImageFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fal_provider, "LOOK_UP_PAUSE_SECONDS", 0.0)
    server.no_catalog = True
    server.hold()
    original = image(64, 48, "white")

    async def edit(prompt: str) -> None:
        model = provider.image_model("fal-ai/nano-banana/edit")
        with suppress(md.InvalidRequestError):
            await model.generate(prompt, images=[original])

    async with (
        md.Fal(KEY, base_url=queue.url, retries=ONCE, max_concurrency=1) as provider,
        anyio.create_task_group() as group,
    ):
        group.start_soon(edit, "running")
        await wait_until(lambda: server.requests)
        admission = provider._client.admission
        group.start_soon(edit, "adapted without the entry")
        await wait_until(lambda: admission._queue is not None and admission._queue.waiting == 1)
        server.no_catalog = False
        group.start_soon(edit, "adapted to the entry")
        await wait_until(lambda: admission._queue is not None and admission._queue.waiting == 2)
        server.release()
    fields = [sorted(request.input.keys() - {"prompt"}) for request in server.requests]
    assert fields == [["image_url"], ["image_url"], ["image_urls"]]


async def test_a_model_of_a_workflow(provider: md.Fal, server: Fal) -> None:
    result = await provider.image_model("workflows/fal-ai/sdxl-sticker").generate("a", n=2)
    assert len(server.requests) == 2, "the model makes one image"
    assert len(result.images) == 2


async def test_data_urls_need_no_download(model: imagegen.Model, queue: Loopback) -> None:
    result = await model.generate("a", extra={"fal": {"sync_mode": True}}, output_format="png")
    assert result.image.mime == "image/png"
    assert not any(request.path.startswith("/files/") for request in queue.requests)
    assert result.image.to_base64() not in json.dumps(result.raw)


def test_the_sync_api(server: Fal, queue: Loopback) -> None:
    with md.Fal(KEY, base_url=queue.url) as provider:
        model = provider.image_model(FLUX)
        assert model.generate_sync("a red fox", seed=3).details[0].seed == 3
        server.positions = (0,)
        with model.stream_sync("a red fox") as stream:
            assert [type(event) for event in stream] == [imagegen.Queued, imagegen.Done]
        assert len(provider.models_sync()) == 7
        assert provider.health_sync().ok


# The queue


async def test_positions_in_the_queue_are_events(server: Fal, queue: Loopback) -> None:
    server.positions = (4, 1, 0)
    async with (
        md.Fal(KEY, base_url=queue.url) as provider,
        provider.image_model(FLUX).stream("a red fox") as stream,
    ):
        events = [event async for event in stream]
    assert events[:-1] == [imagegen.Queued(5), imagegen.Queued(2), imagegen.Queued(1)]
    assert isinstance(events[-1], imagegen.Done)


async def test_the_routes_of_a_job(model: imagegen.Model, queue: Loopback) -> None:
    await model.generate("a red fox", seed=1)
    assert paths(queue, "POST") == ["/fal-ai/flux/dev"]
    assert {request.headers["authorization"] for request in queue.requests[1:-1]} == {f"Key {KEY}"}
    jobs = [request.path for request in queue.requests if "/requests/" in request.path]
    assert all(path.startswith("/fal-ai/flux/requests/") for path in jobs)
    assert not any("queue.fal.run" in request.headers["host"] for request in queue.requests)


@pytest.mark.parametrize("status", ["IN_QUEUE", "IN_PROGRESS"])
async def test_a_cancelled_call_cancels_its_request(
    model: imagegen.Model, server: Fal, queue: Loopback, status: str
) -> None:
    server.hold(status)
    async with anyio.create_task_group() as group:
        group.start_soon(model.generate, "a red fox")
        await wait_until(lambda: any(r.path.endswith("/status") for r in queue.requests))
        await wait_until(lambda: server.requests[0].status == status)
        group.cancel_scope.cancel()
    assert server.requests[0].cancelled
    assert [path.rpartition("/")[2] for path in paths(queue, "PUT")] == ["cancel"]
    server.release()
    assert (await model.generate("a red fox", seed=1)).details[0].seed == 1


async def test_leaving_a_stream_cancels_its_request(model: imagegen.Model, server: Fal) -> None:
    server.hold("IN_QUEUE")
    async with model.stream("a red fox") as stream:
        assert await anext(stream) == imagegen.Queued(1)
    assert server.requests[0].cancelled


@pytest.mark.parametrize(
    ("status", "phase"), [("IN_QUEUE", "queue"), ("IN_PROGRESS", "first_byte")]
)
async def test_waiting_and_running_have_limits_of_their_own(
    server: Fal, queue: Loopback, status: str, phase: str
) -> None:
    server.hold(status)
    limits = {"queue": 30.0, "first_byte": 30.0, phase: 0.3}
    async with md.Fal(KEY, base_url=queue.url, timeout=md.Timeout(**limits)) as provider:
        with pytest.raises(md.DeadlineExceededError) as caught:
            await provider.image_model(FLUX).generate("a red fox")
    assert caught.value.phase == phase
    assert server.requests[0].cancelled


async def test_a_request_that_fal_cancelled_is_a_typed_error(
    model: imagegen.Model, server: Fal
) -> None:
    server.fail = json_response(
        {"detail": "Request was cancelled", "error_type": "client_cancelled"}, 499
    )
    with pytest.raises(md.JobCancelledError):
        await model.generate("a red fox")


async def test_a_request_that_fal_forgot_is_a_typed_error(
    model: imagegen.Model, server: Fal, queue: Loopback
) -> None:
    server.hold("IN_PROGRESS")
    caught: list[md.MajordomoError] = []

    async def generate() -> None:
        try:
            await model.generate("a red fox")
        except md.MajordomoError as error:
            caught.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(generate)
        await wait_until(lambda: any(r.path.endswith("/status") for r in queue.requests))
        server.lose_requests()
    [error] = caught
    assert type(error) is md.JobLostError
    assert len(server.requests) == 1


# Errors


@pytest.mark.parametrize(
    ("failure", "kind", "backend_code"),
    [
        (json_response({"detail": "oops"}, 500), md.BackendError, None),
        (
            json_response({"detail": "late", "error_type": "request_timeout"}, 504),
            md.BackendError,
            "request_timeout",
        ),
        (
            json_response({"detail": "gone", "error_type": "runner_disconnected"}, 503),
            md.OverloadedError,
            "runner_disconnected",
        ),
        (
            json_response(
                {"detail": [{"loc": ["body"], "msg": "x", "type": "image_too_large"}]}, 422
            ),
            md.InvalidRequestError,
            "image_too_large",
        ),
        (json_response({"detail": "Path /x not found"}, 404), md.NotFoundError, None),
    ],
)
async def test_a_failed_request_is_a_typed_error(
    model: imagegen.Model,
    server: Fal,
    failure: Response,
    kind: type[md.MajordomoError],
    backend_code: str | None,
) -> None:
    server.fail = failure
    with pytest.raises(kind) as caught:
        await model.generate("a red fox")
    assert type(caught.value) is kind
    assert (caught.value.provider, caught.value.model, caught.value.status) == (
        "fal",
        FLUX,
        failure.status,
    )
    assert caught.value.details.get("backend_code") == backend_code
    assert len(server.requests) == 1


async def test_the_refusal_of_a_prompt(model: imagegen.Model, server: Fal) -> None:
    with pytest.raises(md.ContentRefusedError) as caught:
        await model.generate("a forbidden fox")
    assert not caught.value.retryable
    assert len(server.requests) == 1


async def test_flagged_images(model: imagegen.Model, server: Fal, queue: Loopback) -> None:
    with pytest.raises(md.ContentRefusedError):
        await model.generate("nsfw0", n=1)
    assert not any(request.path.startswith("/files/") for request in queue.requests)
    result = await model.generate("nsfw1", n=2, output_format="png")
    assert [warning.code for warning in result.warnings] == ["IMAGE_REFUSED", "COUNT_DIFFERS"]
    assert [rgb_pixel(image) for image in result.images] == [
        color(server.requests[-1].input | {"seed": server.random_seed})
    ]
    unchecked = {"fal": {"enable_safety_checker": False}}
    result = await model.generate("nsfw0 nsfw1", n=2, extra=unchecked)
    assert len(result.images) == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (json_response({"detail": "Authentication is required"}, 401), md.AuthenticationError),
        (
            json_response({"detail": "User is locked. Reason: Exhausted balance."}, 403),
            md.PermissionDeniedError,
        ),
        (json_response({"detail": "Application not found"}, 404), md.NotFoundError),
        (json_response({"detail": "slow down"}, 429, retry_after="0"), md.RateLimitError),
    ],
)
async def test_the_refusal_of_a_submission(
    server: Fal, serve: Serve, answer: Response, kind: type[md.MajordomoError]
) -> None:
    url = serve(Intercepted(server, lambda r: answer.sent if r.method == "POST" else None)).url
    async with md.Fal(KEY, base_url=url, retries=ONCE) as provider:
        with pytest.raises(kind) as caught:
            await provider.image_model(FLUX).generate("a")
    assert type(caught.value) is kind
    assert server.requests == []


async def test_a_wrong_key(queue: Loopback) -> None:
    async with md.Fal("another-key", base_url=queue.url) as provider:
        with pytest.raises(md.AuthenticationError):
            await provider.image_model(FLUX).generate("a")


async def test_an_unknown_model(provider: md.Fal, server: Fal) -> None:
    with pytest.raises(md.NotFoundError):
        await provider.image_model("fal-ai/unknown").generate("a")
    with pytest.raises(md.NotFoundError, match="Path /unknown"):
        await provider.image_model("fal-ai/flux/unknown").generate("a")
    with pytest.raises(md.InvalidRequestError, match="owner/app"):
        await provider.image_model("flux").generate("a")


# Retries


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "not read"])
async def test_a_submission_that_may_have_been_accepted_is_not_repeated(
    server: Fal, serve: Serve, accepted: bool
) -> None:
    def intercept(request: ReceivedRequest) -> bytes | None:
        if request.method != "POST":
            return None
        if accepted:
            server.answer(request)
        return b""

    loopback = serve(Intercepted(server, intercept))
    async with md.Fal(KEY, base_url=loopback.url, retries=FAST) as provider:
        with pytest.raises(md.ConnectionFailedError):
            await provider.image_model(FLUX).generate("a")
    assert [r.method for r in loopback.requests].count("POST") == 1


async def test_a_submission_that_was_refused_is_repeated(server: Fal, serve: Serve) -> None:
    busy = json_response({"detail": "busy"}, 503).sent
    loopback = serve(
        Intercepted(
            server,
            lambda r: busy if r.method == "POST" and loopback_posts() < 2 else None,
        )
    )

    def loopback_posts() -> int:
        return [r.method for r in loopback.requests].count("POST")

    async with md.Fal(KEY, base_url=loopback.url, retries=FAST) as provider:
        await provider.image_model(FLUX).generate("a")
    assert (loopback_posts(), len(server.requests)) == (2, 1)


@pytest.mark.parametrize("part", ["/status", "/files/", "result"])
async def test_everything_after_the_submission_is_repeated(
    server: Fal, serve: Serve, part: str
) -> None:
    failed: list[str] = []

    def intercept(request: ReceivedRequest) -> bytes | None:
        is_result = "/requests/" in request.path and not request.path.endswith("/status")
        if not failed and (is_result if part == "result" else part in request.path):
            failed.append(request.path)
            return b""
        return None

    url = serve(Intercepted(server, intercept)).url
    async with md.Fal(KEY, base_url=url, retries=FAST) as provider:
        await provider.image_model(FLUX).generate("a")
    assert len(failed) == len(server.requests) == 1


# Results at another origin


@pytest.fixture
def media(server: Fal, serve: Serve) -> Loopback:
    """A second server for the files of the results."""
    media = serve(server)
    server.media_url = media.url
    return media


async def test_files_are_fetched_from_a_listed_origin_without_the_key(
    server: Fal, queue: Loopback, media: Loopback
) -> None:
    async with md.Fal(
        KEY, base_url=queue.url, result_origins=[media.url], headers={"x-extra": "of the user"}
    ) as provider:
        result = await provider.image_model(FLUX).generate("a", n=2, output_format="png")
    assert len(result.images) == len(media.requests) == 2
    assert media.connections == 1
    assert server.foreign_headers == []
    for request in media.requests:
        assert request.method == "GET"
        assert request.path.endswith("?sig=s")
        assert set(request.headers) == {"host", "user-agent", "accept", "accept-encoding"}
        assert "secret" not in str(request.headers)


async def test_an_origin_that_is_not_listed_is_never_contacted(
    server: Fal, queue: Loopback, media: Loopback
) -> None:
    for origins in ([], ["https://*.fal.media"], [media.url.replace("127.0.0.1", "localhost")]):
        async with md.Fal(KEY, base_url=queue.url, result_origins=origins) as provider:
            with pytest.raises(md.BadResponseError) as caught:
                await provider.image_model(FLUX).generate("a")
        assert caught.value.code == "ORIGIN_NOT_ALLOWED"
        assert media.url in caught.value.message
        assert "sig" not in repr(caught.value.to_dict())
    assert media.connections == 0


NAMES: dict[str, Callable[[str], str]] = {
    "another host": lambda url: "https://evil.test/a?sig=secret-signature",
    "user info": lambda url: f"https://fal.media@evil.test/a?sig=secret-signature#{url}",
    "user info of the own host": lambda url: url.replace("http://", "http://evil.test@"),
    "another port": lambda url: url.replace("127.0.0.1:", "127.0.0.1:1"),
    "another scheme": lambda url: url.replace("http://", "https://"),
    "another name of the host": lambda url: url.replace("127.0.0.1", "localhost"),
    "a number for the host": lambda url: url.replace("127.0.0.1", "2130706433"),
    "a trailing dot": lambda url: "https://v3.fal.media./a?sig=secret-signature",
    "a letter that looks the same": lambda url: "https://v3.f\u0430l.media/a?sig=secret-signature",
    "a file": lambda url: "file:///etc/passwd",
    "a path": lambda url: "/files/x.png?sig=secret-signature",
    "no scheme": lambda url: url.replace("http:", ""),
    "a backslash": lambda url: url.replace("/files", "\\@evil.test/files"),
    "a line break": lambda url: url + "\r\nx-header: 1",
    "plain http": lambda url: "http://v3.fal.media/a?sig=secret-signature",
    "a data url that is no image": lambda url: "data:text/html;base64,PGI+",
    "an empty text": lambda url: "",
}


@pytest.mark.parametrize("change", NAMES.values(), ids=NAMES.keys())
async def test_any_other_name_of_a_file_is_a_typed_error(
    server: Fal, queue: Loopback, change: Callable[[str], str]
) -> None:
    server.name_file = change
    async with md.Fal(KEY, base_url=queue.url, retries=ONCE) as provider:
        with pytest.raises(md.BadResponseError) as caught:
            await provider.image_model(FLUX).generate("a")
    assert caught.value.code in ("ORIGIN_NOT_ALLOWED", "BAD_URL", "NOT_AN_IMAGE")
    assert "signature" not in repr(caught.value.to_dict())
    assert not any(request.path.startswith("/files/") for request in queue.requests)


async def test_a_redirect_of_a_file_is_not_followed(
    server: Fal, queue: Loopback, serve: Serve
) -> None:
    target = serve(reply_with(http_response("target")))
    media = serve(reply_with(http_response(b"", 302, {"location": target.url})))
    server.media_url = media.url
    async with md.Fal(KEY, base_url=queue.url, result_origins=[media.url, target.url]) as provider:
        with pytest.raises(md.BadResponseError) as caught:
            await provider.image_model(FLUX).generate("a")
    assert caught.value.code == "REDIRECT"
    assert target.connections == 0


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_file_that_is_gone_is_no_image(
    server: Fal, queue: Loopback, serve: Serve, status: int
) -> None:
    media = serve(reply_with(http_response(b"<Error/>", status)))
    server.media_url = media.url
    async with md.Fal(KEY, base_url=queue.url, result_origins=[media.url]) as provider:
        with pytest.raises(md.NoImageError) as caught:
            await provider.image_model(FLUX).generate("a")
    assert caught.value.status == status


async def test_a_file_beyond_the_limit_is_refused(
    server: Fal, queue: Loopback, serve: Serve
) -> None:
    def flood(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin(headers={"content-type": "image/png"})
            while not peer.closed_by_client.is_set():
                peer.chunk(bytes(4096))
                if peer.wait_for_close(0.001):
                    return

    media = serve(flood)
    server.media_url = media.url
    async with md.Fal(
        KEY,
        base_url=queue.url,
        result_origins=[media.url],
        limits=md.Limits(max_image_bytes=50_000),
        timeout=20,
    ) as provider:
        with pytest.raises(md.BadResponseError) as caught:
            await provider.image_model(FLUX).generate("a")
    assert caught.value.code == "TOO_LARGE"


@pytest.mark.parametrize(
    "data", [b"", b"<html>", encode_image(solid_image((1, 2, 3), (8, 8)))[:-20]]
)
async def test_a_file_that_is_no_image_is_a_typed_error(
    server: Fal, queue: Loopback, serve: Serve, data: bytes
) -> None:
    media = serve(reply_with(http_response(data)))
    server.media_url = media.url
    async with md.Fal(KEY, base_url=queue.url, result_origins=[media.url]) as provider:
        with pytest.raises(md.BadResponseError):
            await provider.image_model(FLUX).generate("a")


async def test_a_silent_file_server_exceeds_a_limit_of_its_own(
    server: Fal, queue: Loopback, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fetched_job_image_model, "FETCH_TIMEOUT", md.Timeout(first_byte=0.2, idle=5, total=5)
    )
    media = serve(lambda peer: (peer.request(), peer.wait_for_close(10)))
    server.media_url = media.url
    async with md.Fal(
        KEY, base_url=queue.url, result_origins=[media.url], retries=ONCE
    ) as provider:
        started_at = time.monotonic()
        with pytest.raises(md.DeadlineExceededError):
            await provider.image_model(FLUX).generate("a")
        assert time.monotonic() - started_at < 4
    await wait_until(lambda: all(peer.closed_by_client.is_set() for peer in media.peers))


async def test_the_idle_limit_of_the_call_bounds_each_file(
    server: Fal, queue: Loopback, serve: Serve
) -> None:
    media = serve(lambda peer: (peer.request(), peer.wait_for_close(10)))
    server.media_url = media.url
    async with md.Fal(
        KEY,
        base_url=queue.url,
        result_origins=[media.url],
        retries=ONCE,
        timeout=md.Timeout(idle=0.3),
    ) as provider:
        with pytest.raises(md.DeadlineExceededError):
            await provider.image_model(FLUX).generate("a")


async def test_a_call_that_is_cancelled_while_it_fetches_leaves_no_connection(
    server: Fal, queue: Loopback, serve: Serve
) -> None:
    media = serve(lambda peer: (peer.request(), peer.wait_for_close(10)))
    server.media_url = media.url
    async with md.Fal(KEY, base_url=queue.url, result_origins=[media.url]) as provider:
        async with anyio.create_task_group() as group:
            group.start_soon(provider.image_model(FLUX).generate, "a")
            await wait_until(lambda: media.requests)
            group.cancel_scope.cancel()
        await wait_until(lambda: all(peer.closed_by_client.is_set() for peer in media.peers))


def delayed(server: Fal, part: str, seconds: float) -> Handler:
    """Return the server with a delay before its answers to paths that contain `part`."""

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if part in request.path and not request.path.endswith("/status"):
                peer.wait_for_close(seconds)
                peer.socket.settimeout(None)
            peer.send(server.answer(request).sent)

    return handler


async def test_the_limit_of_a_running_job_ends_with_the_job(server: Fal, serve: Serve) -> None:
    queue = serve(delayed(server, "/requests/", 0.6))
    server.hold("IN_PROGRESS")
    results = []
    async with md.Fal(KEY, base_url=queue.url, timeout=md.Timeout(first_byte=0.5)) as provider:

        async def generate() -> None:
            results.append(await provider.image_model(FLUX).generate("a"))

        async with anyio.create_task_group() as group:
            group.start_soon(generate)
            await wait_until(lambda: server.requests and server.requests[0].status == "IN_PROGRESS")
            server.release()
    assert results[0].image.width == 64


async def test_every_file_has_its_own_idle_limit(
    server: Fal, queue: Loopback, serve: Serve
) -> None:
    media = serve(delayed(server, "/files/", 0.3))
    server.media_url = media.url
    async with md.Fal(
        KEY, base_url=queue.url, result_origins=[media.url], timeout=md.Timeout(idle=0.7)
    ) as provider:
        assert len((await provider.image_model(FLUX).generate("a", n=3)).images) == 3


async def test_a_call_can_be_recorded_and_replayed(
    server: Fal, queue: Loopback, media: Loopback, tmp_path: Path
) -> None:
    results = []
    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        async with md.Fal(
            KEY, base_url=queue.url, result_origins=[media.url], transport=transport
        ) as provider:
            results.append(await provider.image_model(FLUX).generate("a red fox"))
    assert results[0].images == results[1].images
    assert len(media.requests) == len(server.requests) == 1
    recorded = [file.read_text() for file in sorted(tmp_path.glob("*.json"))]  # noqa: ASYNC240
    assert len(recorded) == 5
    assert not any("secret-half" in text for text in recorded)


# The provider


async def test_models_are_those_of_the_catalog(provider: md.Fal, server: Fal) -> None:
    models = {model.id: model.capabilities for model in await provider.models()}
    assert models[FLUX] == {"image"}
    assert models["fal-ai/nano-banana/edit"] == {"edit"}
    assert len(models) == 7
    assert server.foreign_headers == [], "the catalog gets no key"


async def test_health(provider: md.Fal, server: Fal) -> None:
    assert (await provider.health()).ok
    server.no_catalog = True
    assert not (await provider.health()).ok


async def test_a_catalog_without_end_is_read_up_to_a_limit(serve: Serve) -> None:
    page = {"models": [{"endpoint_id": FLUX}], "next_cursor": "Mg==", "has_more": True}
    loopback = serve(reply_with(http_response(page)))
    async with md.Fal(KEY, base_url=loopback.url) as provider:
        assert [model.id for model in await provider.models()] == [FLUX]
    assert len(loopback.requests) == 2 * fal_provider.MAX_PAGES


@pytest.mark.parametrize("key", [KEY, f"Key {KEY}"])
async def test_forms_of_the_key(queue: Loopback, key: str) -> None:
    async with md.Fal(key, base_url=queue.url) as provider:
        await provider.image_model(FLUX).generate("a")
        assert KEY not in f"{provider!r} {vars(provider)}"


async def test_the_key_of_the_environment(queue: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_KEY", KEY)
    async with md.Fal(base_url=queue.url) as provider:
        await provider.image_model(FLUX).generate("a")
    monkeypatch.delenv("FAL_KEY")
    with pytest.raises(md.ConfigurationError, match="FAL_KEY"):
        md.Fal(base_url=queue.url)


async def test_model_strings(queue: Loopback, server: Fal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_KEY", "of the environment")
    model = md.image_model("fal/fal-ai/flux/dev?steps=4")
    assert (model.provider, model.id) == ("fal", FLUX)
    await model.aclose()
    host = queue.url.removeprefix("http://")
    model = md.image_model(f"fal://{KEY}@{host}/fal-ai/flux/dev?steps=4")
    assert (model.provider, model.id) == ("fal", FLUX)
    await model.generate("a")
    await model.aclose()
    assert server.requests[0].input["num_inference_steps"] == 4


@pytest.mark.parametrize("origins", ["https://fal.media", ["*"], ["https://fal.media/x"], [5]])
def test_invalid_origins_are_refused(origins: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        md.Fal(KEY, result_origins=origins)
    assert caught.value.details["field"] == "result_origins"


async def test_there_are_no_chat_models(provider: md.Fal) -> None:
    with pytest.raises(md.UnsupportedError, match="no chat models"):
        provider.model("any/llm")


def test_the_addresses_of_the_service() -> None:
    provider = md.Fal(KEY)
    assert provider.address.origin == "https://queue.fal.run"
    allowed = provider._client.transport._allowed  # type: ignore[attr-defined]
    # With the origin of the queue and that of the catalog, as the documentation says.
    own = ("https://queue.fal.run", "https://api.fal.ai")
    for origin in ("https://fal.media", "https://v3b.fal.media", *own):
        assert allowed.find(origin) is not None
    for origin in ("https://fal.ai", "https://storage.googleapis.com", "http://v3.fal.media"):
        assert allowed.find(origin) is None
    proxied = md.Fal(KEY, base_url="https://proxy.test")
    allowed = proxied._client.transport._allowed  # type: ignore[attr-defined]
    assert allowed.find("https://proxy.test") is not None
    assert allowed.find("https://api.fal.ai") is None
    assert job_image_model.POLL_TIMEOUT.first_byte == 60
