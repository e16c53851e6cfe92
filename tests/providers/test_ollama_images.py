"""Ollama's images against a server that behaves like each of its versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import imagegen
from tests.servers.hashed_images import fingerprint
from tests.servers.ollama import BUSY, CRASHED, MEMORY, Ollama, color
from tests.support.loopback import Handler, Loopback, Peer
from tests.support.sample_images import rgb_pixel

Serve = Callable[[Handler], Loopback]
Image = Callable[..., md.ImagePart]
MODEL = "x/z-image-turbo"
FLUX = "x/flux2-klein"
SMALL: dict[str, Any] = {"size": "64x48", "steps": 3, "seed": 7}
EXPECTED_JOB = {"prompt": "a red fox", "width": 64, "height": 48, "steps": 3, "seed": 7}
ONCE = md.Retries(attempts=1)
UNSUPPORTED: dict[str, Any] = {
    "cfg_scale": 4.0,
    "negative_prompt": "dogs",
    "sampler": "euler",
    "scheduler": "karras",
    "strength": 0.5,
    "quality": "high",
    "background": "transparent",
    "previews": 2,
    "output_format": "jpeg",
}

pytestmark = pytest.mark.anyio


@pytest.fixture
def server() -> Ollama:
    return Ollama()


@pytest.fixture
def loopback(server: Ollama, serve: Serve) -> Loopback:
    return serve(server)


@pytest.fixture
def url(loopback: Loopback) -> str:
    return loopback.url


def warning_fields(result: imagegen.Result) -> list[tuple[str, str | None]]:
    return [(warning.code, warning.field) for warning in result.warnings]


class TestGeneration:
    async def test_an_image_is_generated(self, url: str, loopback: Loopback) -> None:
        async with md.Ollama(url) as provider:
            result = await provider.image_model(MODEL).generate("a red fox", **SMALL)
        assert rgb_pixel(result.image) == color(EXPECTED_JOB)
        [detail] = result.details
        assert (detail.seed, detail.requested_size, detail.sent_size, detail.actual_size) == (
            7,
            (64, 48),
            (64, 48),
            (64, 48),
        )
        assert result.usage == imagegen.Usage(
            seconds=15.0, load_seconds=2.0, images=1, pixels=64 * 48
        )
        assert (result.provider, result.model, result.warnings) == ("ollama", MODEL, ())
        assert result.raw["image"] == f"<image/png, {len(result.image.data)} bytes>"
        assert [(request.method, request.path) for request in loopback.requests] == [
            ("GET", "/api/version"),
            ("POST", "/api/show"),
            ("POST", "/api/generate"),
        ]
        assert loopback.requests[-1].json == {
            "model": MODEL,
            "prompt": "a red fox",
            "width": 64,
            "height": 48,
            "steps": 3,
            "options": {"seed": 7},
            "stream": True,
        }

    def test_sync_methods_work_like_async_ones(self, url: str) -> None:
        with md.Ollama(url) as provider:
            model = provider.image_model(MODEL)
            assert rgb_pixel(model.generate_sync("a red fox", **SMALL).image) == color(EXPECTED_JOB)
            with model.stream_sync("a red fox", **SMALL) as stream:
                events = list(stream)
        assert [type(event) for event in events] == [imagegen.Step] * 3 + [imagegen.Done]
        assert events[-1] == imagegen.Done(stream.result)

    async def test_steps_are_events(self, url: str) -> None:
        async with (
            md.Ollama(url) as provider,
            provider.image_model(MODEL).stream("a red fox", **SMALL) as stream,
        ):
            events = [event async for event in stream]
        assert events[:-1] == [imagegen.Step(1, 3), imagegen.Step(2, 3), imagegen.Step(3, 3)]
        assert isinstance(events[-1], imagegen.Done)
        assert rgb_pixel(events[-1].result.image) == color(EXPECTED_JOB)

    async def test_several_images_are_sequential_calls(self, url: str, server: Ollama) -> None:
        async with (
            md.Ollama(url) as provider,
            provider.image_model(MODEL).stream("a red fox", **SMALL, n=3) as stream,
        ):
            events = [event async for event in stream]
        assert sorted(job["seed"] for job in server.jobs) == [7, 8, 9]
        result = stream.result
        assert [detail.seed for detail in result.details] == [7, 8, 9]
        assert [rgb_pixel(image) for image in result.images] == [
            color(EXPECTED_JOB | {"seed": seed}) for seed in (7, 8, 9)
        ]
        assert result.usage == imagegen.Usage(
            seconds=45.0, load_seconds=6.0, images=3, pixels=3 * 64 * 48
        )
        assert [event.step for event in events if isinstance(event, imagegen.Step)] == list(
            range(1, 10)
        )
        assert imagegen.Step(9, 9) in events

    async def test_an_unset_field_is_not_sent(self, url: str, loopback: Loopback) -> None:
        async with md.Ollama(url) as provider:
            result = await provider.image_model(MODEL).generate("a")
        assert loopback.requests[-1].json == {"model": MODEL, "prompt": "a", "stream": True}
        assert result.details[0].seed is None

    async def test_aspect_and_megapixels_are_resolved_to_a_size(
        self, url: str, server: Ollama
    ) -> None:
        async with md.Ollama(url) as provider:
            model = provider.image_model(MODEL)
            await model.generate("a", aspect="16:9", steps=1)
            await model.generate("a", megapixels=0.25, steps=1)
        assert [(job["width"], job["height"]) for job in server.jobs] == [(1360, 768), (496, 496)]

    async def test_a_size_the_engine_rounds_is_a_warning(self, url: str) -> None:
        async with md.Ollama(url) as provider:
            result = await provider.image_model(FLUX).generate("a", size="100x70", steps=1)
        assert warning_fields(result) == [("SIZE_DIFFERS", "size")]
        assert result.details[0].actual_size == (96, 64)

    async def test_extra_fields_are_sent_to_this_provider_only(
        self, url: str, loopback: Loopback
    ) -> None:
        async with md.Ollama(url) as provider:
            await provider.image_model(MODEL).generate(
                "a",
                **SMALL,
                extra={"ollama": {"keep_alive": "1m", "options": {"x": 1}}, "gemini": {"y": 1}},
            )
        sent = loopback.requests[-1].json
        assert (sent["keep_alive"], sent["options"], "y" in sent) == (
            "1m",
            {"seed": 7, "x": 1},
            False,
        )

    async def test_a_model_is_queried_once(self, url: str, loopback: Loopback) -> None:
        async with md.Ollama(url) as provider:
            for model in (MODEL, MODEL, FLUX):
                await provider.image_model(model).generate("a", steps=1)
        assert [request.path for request in loopback.requests].count("/api/show") == 2

    async def test_a_key_is_sent_for_a_proxy(
        self, url: str, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with md.Ollama(url) as provider:
            await provider.health()
        monkeypatch.setenv("OLLAMA_API_KEY", "from-the-environment")
        async with md.Ollama(url) as provider:
            await provider.health()
        async with md.Ollama(url, api_key="mine") as provider:
            await provider.health()
        keys = [request.headers.get("authorization") for request in loopback.requests]
        assert keys == [None, "Bearer from-the-environment", "Bearer mine"]

    async def test_a_model_string_sets_address_model_and_steps(self, url: str) -> None:
        async with md.image_model(
            f"ollama://{url.removeprefix('http://')}/{MODEL}?steps=3"
        ) as model:
            result = await model.generate("a red fox", size="64x48", seed=7)
        assert rgb_pixel(result.image) == color(EXPECTED_JOB)


class TestUnsupportedFields:
    async def test_each_unsupported_field_is_a_warning(self, url: str, loopback: Loopback) -> None:
        async with md.Ollama(url) as provider:
            result = await provider.image_model(MODEL).generate("a red fox", **SMALL, **UNSUPPORTED)
        assert sorted(warning_fields(result)) == sorted(
            ("UNSUPPORTED_FIELD", name) for name in UNSUPPORTED
        )
        assert set(loopback.requests[-1].json) == {
            "model",
            "prompt",
            "width",
            "height",
            "steps",
            "options",
            "stream",
        }

    async def test_png_output_needs_no_warning(self, url: str) -> None:
        async with md.Ollama(url) as provider:
            result = await provider.image_model(MODEL).generate(
                "a red fox", **SMALL, output_format="png"
            )
        assert result.warnings == ()

    async def test_an_unsupported_field_is_an_error_when_strict(
        self, url: str, server: Ollama
    ) -> None:
        async with md.Ollama(url, strict=True) as provider:
            with pytest.raises(md.UnsupportedError) as caught:
                await provider.image_model(MODEL).generate("a", cfg_scale=4.0)
        assert caught.value.field == "cfg_scale"
        assert server.jobs == []

    async def test_a_seed_of_zero_is_a_warning(self, url: str, server: Ollama) -> None:
        async with md.Ollama(url) as provider:
            result = await provider.image_model(MODEL).generate("a", seed=0, steps=1)
        assert warning_fields(result) == [("UNSUPPORTED_FIELD", "seed")]
        assert result.details[0].seed is None
        assert server.jobs[0]["seed"] != 0

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"size": "4097x64"}, "size"),
            ({"seed": 2**53 + 1}, "seed"),
            ({"seed": 2**53, "n": 2}, "seed"),
        ],
    )
    async def test_invalid_values_are_refused_before_sending(
        self, url: str, server: Ollama, fields: dict[str, Any], field: str
    ) -> None:
        async with md.Ollama(url) as provider:
            with pytest.raises(md.InvalidRequestError) as caught:
                await provider.image_model(MODEL).generate("a", **fields)
        assert caught.value.field == field
        assert (caught.value.provider, caught.value.model) == ("ollama", MODEL)
        assert server.jobs == []

    async def test_the_largest_seed_is_sent_exactly(self, url: str, server: Ollama) -> None:
        async with md.Ollama(url) as provider:
            result = await provider.image_model(MODEL).generate("a", seed=2**53, steps=1)
        assert server.jobs[0]["seed"] == result.details[0].seed == 2**53


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "message"),
        [
            ("0.33.0", "this server is 0.33.0; image generation needs Ollama 0.14.3 to 0.32.5"),
            ("0.32.6", "this server is 0.32.6; image generation needs Ollama 0.14.3 to 0.32.5"),
            ("1.0.0", "this server is 1.0.0; image generation needs Ollama 0.14.3 to 0.32.5"),
            ("0.14.2", "this server is 0.14.2; image generation needs Ollama 0.14.3 to 0.32.5"),
            ("0.9.1", "this server is 0.9.1; image generation needs Ollama 0.14.3 to 0.32.5"),
        ],
    )
    async def test_an_unsupported_version_is_named_in_the_error(
        self, url: str, server: Ollama, loopback: Loopback, version: str, message: str
    ) -> None:
        server.version = version
        async with md.Ollama(url) as provider:
            with pytest.raises(md.UnsupportedError) as caught:
                await provider.image_model(MODEL).generate("a")
        assert caught.value.message == message
        assert (caught.value.field, caught.value.provider, caught.value.model) == (
            "model",
            "ollama",
            MODEL,
        )
        assert [request.path for request in loopback.requests] == ["/api/version"]

    @pytest.mark.parametrize(
        "version", ["0.14.3", "0.15.0", "0.15.4", "0.15.5", "0.30.0", "0.32.5"]
    )
    async def test_supported_versions_generate_images(
        self, url: str, server: Ollama, version: str
    ) -> None:
        server.version = version
        async with md.Ollama(url) as provider:
            result = await provider.image_model(MODEL).generate("a red fox", **SMALL)
        assert rgb_pixel(result.image) == color(EXPECTED_JOB)

    async def test_a_server_upgrade_between_two_images_is_detected(
        self, url: str, server: Ollama
    ) -> None:
        async with md.Ollama(url) as provider:
            model = provider.image_model(MODEL)
            await model.generate("a", steps=1)
            server.version = "0.33.0"
            for _ in range(2):
                with pytest.raises(md.UnsupportedError) as caught:
                    await model.generate("a", steps=1)
                assert (
                    caught.value.message
                    == "this server is 0.33.0; image generation needs Ollama 0.14.3 to 0.32.5"
                )

    async def test_a_model_deleted_between_two_images_raises_not_found_error(
        self, url: str, server: Ollama
    ) -> None:
        async with md.Ollama(url) as provider:
            model = provider.image_model(MODEL)
            await model.generate("a", steps=1)
            del server.models[MODEL]
            with pytest.raises(md.NotFoundError, match=f"model '{MODEL}' not found"):
                await model.generate("a", steps=1)

    @pytest.mark.parametrize("answer", [{"version": "0.0.0"}, {"version": 5}, {}, None])
    @pytest.mark.parametrize(
        ("status", "body", "message"),
        [
            (
                400,
                {"error": "image generation models are not currently supported"},
                "of unknown version and answers: image generation",
            ),
            (404, "404 page not found", "of unknown version and has no /api/generate"),
        ],
    )
    async def test_an_unknown_version_is_tried(
        self, serve: Serve, answer: Any, status: int, body: Any, message: str
    ) -> None:
        def handler(peer: Peer) -> None:
            while (request := peer.request()) is not None:
                if request.path == "/api/version":
                    peer.reply(
                        answer if answer is not None else "404 page not found",
                        404 if answer is None else 200,
                    )
                elif request.path == "/api/show":
                    peer.reply({"capabilities": ["image"]})
                else:
                    peer.reply(body, status)

        async with md.Ollama(serve(handler).url) as provider:
            with pytest.raises(md.UnsupportedError) as caught:
                await provider.image_model(MODEL).generate("a")
            assert message in caught.value.message
            assert "0.14.3 to 0.32.5" in caught.value.message

    async def test_an_unrelated_refusal_keeps_its_error(self, url: str, server: Ollama) -> None:
        async with md.Ollama(url) as provider:
            with pytest.raises(md.InvalidRequestError, match="cannot unmarshal str") as caught:
                await provider.image_model(MODEL).generate("a", extra={"width": "x"})
        assert type(caught.value) is md.InvalidRequestError

    async def test_a_text_model_raises_unsupported_error(self, url: str, server: Ollama) -> None:
        async with md.Ollama(url) as provider:
            with pytest.raises(md.UnsupportedError, match="completion") as caught:
                await provider.image_model("llama3.2").generate("a")
            assert caught.value.model == "llama3.2"
            with pytest.raises(md.NotFoundError, match="'unknown' not found"):
                await provider.image_model("unknown").generate("a")
        assert server.jobs == []

    async def test_queries_before_an_image_share_the_calls_timeout(self, serve: Serve) -> None:
        server = serve(lambda peer: (peer.request(), peer.wait_for_close()))
        async with md.Ollama(server.url, timeout=0.2) as provider:
            with anyio.fail_after(5), pytest.raises(md.DeadlineExceededError):
                await provider.image_model(MODEL).generate("a")


class TestEdits:
    async def test_edits_are_sent_to_a_version_that_supports_them(
        self, url: str, server: Ollama, image: Image
    ) -> None:
        server.version = "0.15.4"
        first, second = image(80, 48), image(32, 32, "red", "JPEG")
        async with md.Ollama(url) as provider:
            result = await provider.image_model(FLUX).generate(
                "a red fox", steps=3, seed=7, images=[first, second]
            )
        [job] = server.jobs
        assert job["images"] == [fingerprint(first.data), fingerprint(second.data)]
        assert (result.image.width, result.image.height) == (80, 48)
        assert rgb_pixel(result.image) == color(
            EXPECTED_JOB
            | {
                "model": FLUX,
                "width": 80,
                "images": [fingerprint(first.data), fingerprint(second.data)],
            }
        )
        assert result.warnings == ()

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"size": "64x64"}, ["size"]),
            ({"aspect": "1:1", "megapixels": 1}, ["aspect", "megapixels"]),
        ],
    )
    async def test_the_first_image_determines_the_size(
        self, url: str, server: Ollama, image: Image, fields: dict[str, Any], named: list[str]
    ) -> None:
        server.version = "0.15.0"
        async with md.Ollama(url) as provider:
            result = await provider.image_model(FLUX).generate(
                "a", steps=1, images=[image(80, 48)], **fields
            )
        assert (result.image.width, result.image.height) == (80, 48)
        assert sorted(warning_fields(result)) == [("UNSUPPORTED_FIELD", name) for name in named]

    @pytest.mark.parametrize("version", ["0.14.3", "0.15.5", "0.32.5"])
    async def test_edits_are_refused_for_a_version_that_ignores_images(
        self, url: str, server: Ollama, image: Image, version: str
    ) -> None:
        server.version = version
        async with md.Ollama(url) as provider:
            with pytest.raises(
                md.UnsupportedError, match="silently ignored by the engine"
            ) as caught:
                await provider.image_model(FLUX).generate("a", images=[image()])
        assert caught.value.field == "images"
        assert server.jobs == []

    @pytest.mark.parametrize(
        ("model", "count", "masked", "field"),
        [(FLUX, 3, False, "images"), (FLUX, 1, True, "mask"), (MODEL, 1, False, "images")],
    )
    async def test_unsupported_edits_are_refused(
        self,
        url: str,
        server: Ollama,
        image: Image,
        model: str,
        count: int,
        masked: bool,
        field: str,
    ) -> None:
        server.version = "0.15.4"
        async with md.Ollama(url) as provider:
            with pytest.raises(md.UnsupportedError) as caught:
                mask = image(mode="L", color="white") if masked else None
                await provider.image_model(model).generate("a", images=[image()] * count, mask=mask)
        assert caught.value.field == field
        assert server.jobs == []


class TestFailures:
    async def test_done_without_an_image_raises_no_image_error(
        self, url: str, server: Ollama
    ) -> None:
        server.outcome = "no_image"
        async with md.Ollama(url) as provider:
            model = provider.image_model(MODEL)
            with pytest.raises(md.NoImageError, match="failed to generate the image") as caught:
                await model.generate("a red fox", **SMALL)
            assert caught.value.retryable
            assert (caught.value.provider, caught.value.model) == ("ollama", MODEL)
            server.outcome = "success"
            assert rgb_pixel((await model.generate("a red fox", **SMALL)).image) == color(
                EXPECTED_JOB
            )
        assert len(server.jobs) == 2, "a job that has begun is never sent twice"

    @pytest.mark.parametrize("listening", [True, False])
    @pytest.mark.parametrize(
        ("outcome", "kind", "message"),
        [
            ("crash", md.BackendError, CRASHED),
            ("cut", md.StreamBrokenError, "ended before the image"),
            ("dropped", md.StreamBrokenError, "broke off"),
        ],
    )
    async def test_a_failed_stream_raises_a_typed_error(
        self,
        url: str,
        server: Ollama,
        listening: bool,
        outcome: str,
        kind: type[md.MajordomoError],
        message: str,
    ) -> None:
        server.outcome = outcome
        events: list[Any] = []
        async with md.Ollama(url) as provider:
            model = provider.image_model(MODEL)
            with pytest.raises(kind, match=message) as caught:
                if listening:
                    async with model.stream("a red fox", **SMALL) as stream:
                        async for event in stream:
                            events.append(event)
                else:
                    await model.generate("a red fox", **SMALL)
            server.outcome = "success"
            assert rgb_pixel((await model.generate("a red fox", **SMALL)).image) == color(
                EXPECTED_JOB
            )
        assert type(caught.value) is kind
        assert (caught.value.provider, caught.value.model) == ("ollama", MODEL)
        assert events == ([imagegen.Step(1, 3)] if listening else [])
        assert len(server.jobs) == 2

    async def test_an_out_of_memory_error_is_retryable(self, url: str, server: Ollama) -> None:
        server.outcome = "memory"
        async with md.Ollama(url) as provider:
            with pytest.raises(md.BackendError) as caught:
                await provider.image_model(MODEL).generate("a")
        assert MEMORY in caught.value.message
        assert (caught.value.status, caught.value.retryable) == (500, True)

    async def test_a_full_queue_raises_overloaded_error(self, url: str, server: Ollama) -> None:
        server.busy = True
        async with md.Ollama(url, retries=ONCE) as provider:
            with pytest.raises(md.OverloadedError) as caught:
                await provider.image_model(MODEL).generate("a")
        assert caught.value.status == 503
        assert " ".join(BUSY.split()) in caught.value.message

    async def test_a_full_queue_is_retried(self, url: str, server: Ollama) -> None:
        server.busy = True

        def relieve() -> float:
            server.busy = False
            return 0.0

        provider = md.Ollama(url)
        provider._client.fraction = relieve
        async with provider:
            result = await provider.image_model(MODEL).generate("a red fox", **SMALL)
        assert rgb_pixel(result.image) == color(EXPECTED_JOB)

    async def test_cancelling_stops_the_generation_and_releases_the_slot(
        self, url: str, server: Ollama
    ) -> None:
        server.hold()
        async with md.Ollama(url) as provider:
            model = provider.image_model(MODEL)
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: model.generate("a", **SMALL))
                assert await anyio.to_thread.run_sync(server.holding)
                group.cancel_scope.cancel()
            assert await anyio.to_thread.run_sync(server.left)
            server.release()
            with anyio.fail_after(5):
                assert rgb_pixel((await model.generate("a red fox", **SMALL)).image) == color(
                    EXPECTED_JOB
                )

    async def test_a_queued_stream_reports_its_position(self, url: str, server: Ollama) -> None:
        server.hold()
        async with md.Ollama(url) as provider:
            model = provider.image_model(MODEL)
            events: list[Any] = []
            queued = anyio.Event()

            async def second() -> None:
                async with model.stream("a red fox", **SMALL) as stream:
                    async for event in stream:
                        events.append(event)
                        queued.set()

            async with anyio.create_task_group() as group:
                group.start_soon(lambda: model.generate("a", **SMALL))
                assert await anyio.to_thread.run_sync(server.holding)
                group.start_soon(second)
                await queued.wait()
                server.release()
        assert events[0] == imagegen.Queued(1)
        assert isinstance(events[-1], imagegen.Done)

    @pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "text/plain"])
    async def test_the_content_type_of_the_reply_is_ignored(
        self, serve: Serve, image: Image, kind: str
    ) -> None:
        def handler(peer: Peer) -> None:
            while (request := peer.request()) is not None:
                if request.path == "/api/version":
                    peer.reply({"version": "0.20.0"})
                elif request.path == "/api/show":
                    peer.reply({"capabilities": ["image"]})
                else:
                    peer.reply(
                        {"done": True, "image": image().to_base64()}, headers={"content-type": kind}
                    )

        async with md.Ollama(serve(handler).url) as provider:
            model = provider.image_model(MODEL)
            assert (await model.generate("a", seed=5)).details[0].seed == 5
            async with model.stream("a", seed=5) as stream:
                assert [type(event) async for event in stream] == [imagegen.Done]
            assert stream.result.image == image()
            assert stream.result.details[0].seed == 5


class TestModelList:
    async def test_models_are_listed_with_capabilities(self, url: str, server: Ollama) -> None:
        async with md.Ollama(url) as provider:
            models = {model.id: model for model in await provider.models()}
        assert {name: set(model.capabilities) for name, model in models.items()} == {
            f"{MODEL}:latest": {"image"},
            f"{FLUX}:latest": {"image"},
            "llama3.2:latest": {"chat"},
        }
        assert {model.loaded for model in models.values()} == {None}

    @pytest.mark.parametrize(
        ("version", "flux"),
        [
            ("0.15.4", {"image", "edit"}),
            ("0.15.5", {"image"}),
            ("0.32.5", {"image"}),
            ("0.32.6", set()),
        ],
    )
    async def test_capabilities_depend_on_the_server_version(
        self, url: str, server: Ollama, version: str, flux: set[str]
    ) -> None:
        server.version = version
        async with md.Ollama(url) as provider:
            models = {model.id: model for model in await provider.models()}
        assert set(models[f"{FLUX}:latest"].capabilities) == flux

    def test_loaded_models_are_marked(self, serve: Serve) -> None:
        def handler(peer: Peer) -> None:
            while (request := peer.request()) is not None:
                if request.path == "/api/version":
                    peer.reply({"version": "0.40.0"})
                elif request.path == "/api/tags":
                    model_json = {
                        "model": "llava",
                        "capabilities": ["completion", "vision", "tools", "thinking", "insert"],
                    }
                    peer.reply({"models": [{"name": "a:latest"}, model_json, {"name": 5}, "x"]})
                else:
                    peer.reply({"models": [{"name": "llava"}]})

        with md.Ollama(serve(handler).url) as provider:
            first, second = provider.models_sync()
        assert (first.id, first.capabilities, first.loaded) == ("a:latest", frozenset(), False)
        assert (second.id, second.capabilities, second.loaded) == (
            "llava",
            {"chat", "vision", "tools", "thinking"},
            True,
        )

    async def test_health_is_one_request_and_reports_an_unreachable_server(
        self, url: str, loopback: Loopback
    ) -> None:
        async with md.Ollama(url) as provider:
            assert (await provider.health()).ok
            loopback.close()
            assert not (await provider.health()).ok
        assert [request.path for request in loopback.requests] == ["/api/version"]
