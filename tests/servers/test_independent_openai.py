"""OpenAI's own SDK against the test server.

The server accepts what the SDK sends, and the SDK understands what the server returns.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.hashed_images import fingerprint
from tests.servers.openai_images import OpenAIImages, color
from tests.servers.plain_client import b64, halves, open_base64_image, pixel, png
from tests.support.loopback import Handler, Loopback

if os.environ.get("MAJORDOMO_REQUIRE_PEERS"):
    import openai
else:
    openai = pytest.importorskip(
        "openai", reason="the openai SDK is not installed: pip install openai"
    )


@pytest.fixture
def server() -> OpenAIImages:
    return OpenAIImages()


@pytest.fixture
def client(server: OpenAIImages, serve: Callable[[Handler], Loopback]) -> Iterator[Any]:
    with openai.OpenAI(
        api_key="k", base_url=serve(server).url + "/v1", max_retries=0
    ) as sdk_client:
        yield sdk_client


def upload(data: bytes, name: str = "one.png") -> io.BytesIO:
    """Return a file as a user of the SDK opens one; its name determines the content type."""
    file = io.BytesIO(data)
    file.name = name
    return file


class TestGenerate:
    def test_gpt_image_models(self, client: Any, server: OpenAIImages) -> None:
        response = client.images.generate(
            model="gpt-image-1.5",
            prompt="a red fox",
            n=2,
            size="1536x1024",
            quality="low",
            background="opaque",
            moderation="low",
            output_format="webp",
            output_compression=90,
            user="u",
        )
        settings = {
            "model": "gpt-image-1.5",
            "prompt": "a red fox",
            "size": "1536x1024",
            "quality": "low",
        }
        assert [open_base64_image(item.b64_json).format for item in response.data] == [
            "WEBP",
            "WEBP",
        ]
        assert color(server.jobs[0]) == color(settings)
        assert (response.size, response.quality, response.output_format, response.background) == (
            "1536x1024",
            "low",
            "webp",
            "opaque",
        )
        assert (response.usage.total_tokens, response.usage.input_tokens_details.text_tokens) == (
            103,
            3,
        )

    def test_dall_e_models(self, client: Any, server: OpenAIImages) -> None:
        response = client.images.generate(
            model="dall-e-3",
            prompt="a red fox",
            response_format="b64_json",
            style="natural",
            quality="hd",
        )
        assert response.data[0].revised_prompt == "In detail: a red fox"
        assert pixel(open_base64_image(response.data[0].b64_json)) == color(server.jobs[0])
        response = client.images.generate(model="dall-e-2", prompt="a red fox", size="256x256")
        assert str(response.data[0].url).startswith("http://127.0.0.1:") and response.usage is None

    def test_a_stream(self, client: Any, server: OpenAIImages) -> None:
        with client.images.generate(
            model="gpt-image-1", prompt="a red fox", stream=True, partial_images=2
        ) as stream:
            events = list(stream)
        assert [type(event).__name__ for event in events] == ["ImageGenPartialImageEvent"] * 2 + [
            "ImageGenCompletedEvent"
        ]
        assert [event.partial_image_index for event in events[:2]] == [0, 1]
        assert pixel(open_base64_image(events[1].b64_json)) == color(server.jobs[0], partial=1)
        assert pixel(open_base64_image(events[2].b64_json)) == color(server.jobs[0])
        assert events[2].usage.output_tokens == 250

    def test_a_stream_that_is_refused_midway(self, client: Any) -> None:
        stream = client.images.generate(
            model="gpt-image-1", prompt="refused midway", stream=True, partial_images=1
        )
        assert next(stream).type == "image_generation.partial_image"
        with pytest.raises(openai.APIError, match="rejected by the safety system"):
            next(stream)
        stream.close()


class TestEdit:
    def test_one_image_with_a_mask(self, client: Any, server: OpenAIImages) -> None:
        mask = upload(halves((0, 0, 0, 255), (0, 0, 0, 0), mode="RGBA"), "mask.png")
        response = client.images.edit(
            model="gpt-image-1.5",
            prompt="a hat",
            image=upload(png("red")),
            mask=mask,
            input_fidelity="high",
            size="1024x1024",
        )
        image = open_base64_image(response.data[0].b64_json)
        assert (pixel(image, 0), pixel(image, 1023)) == ((255, 0, 0), color(server.jobs[0]))
        assert server.jobs[0]["input_fidelity"] == "high"

    def test_several_images(self, client: Any, server: OpenAIImages) -> None:
        images = [png("red"), png("blue")]
        client.images.edit(
            model="gpt-image-1.5", prompt="a hat", image=[upload(data) for data in images], n=2
        )
        assert (server.jobs[0]["images"], server.jobs[0]["n"]) == (
            [fingerprint(data) for data in images],
            2,
        )

    def test_dall_e_models(self, client: Any, server: OpenAIImages) -> None:
        square = ("square.png", png(size=(64, 64)), "image/png")
        response = client.images.edit(
            model="dall-e-2",
            prompt="a hat",
            image=square,
            size="256x256",
            response_format="b64_json",
        )
        assert pixel(open_base64_image(response.data[0].b64_json)) == color(server.jobs[0])

    def test_a_stream(self, client: Any) -> None:
        with client.images.edit(
            model="gpt-image-1", prompt="a hat", image=upload(png()), stream=True, partial_images=1
        ) as stream:
            assert [event.type for event in stream] == [
                "image_edit.partial_image",
                "image_edit.completed",
            ]

    def test_a_json_edit_that_the_sdk_itself_never_sends(
        self, client: Any, server: OpenAIImages
    ) -> None:
        image = {"image_url": "data:image/png;base64," + b64(png("red"))}
        body = {"model": "gpt-image-1.5", "prompt": "a hat", "images": [image]}
        response: Any = client.post("/images/edits", body=body, cast_to=openai.types.ImagesResponse)
        assert server.jobs[0]["images"] == [fingerprint(png("red"))]
        assert base64.b64decode(str(response.data[0].b64_json)).startswith(b"\x89PNG")


class TestErrors:
    def test_unknown_parameters_are_refused(self, client: Any) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(model="gpt-image-1", prompt="x", response_format="b64_json")
        assert (caught.value.code, caught.value.param, caught.value.type) == (
            "unknown_parameter",
            "response_format",
            "invalid_request_error",
        )
        assert str(caught.value.request_id).startswith("req_")

    def test_invalid_values_models_and_keys_are_refused(self, client: Any) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(model="gpt-image-1", prompt="x", size="64x64")
        assert caught.value.code == "invalid_value"
        with pytest.raises(openai.NotFoundError):
            client.images.generate(model="gpt-image-9", prompt="x")
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").images.generate(model="gpt-image-1", prompt="x")

    def test_moderation_and_rate_limits(self, client: Any, server: OpenAIImages) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(model="gpt-image-1", prompt="forbidden")
        assert caught.value.code == "moderation_blocked"
        server.failures = [(429, "rate_limit_exceeded"), (500, "server_error")]
        with pytest.raises(openai.RateLimitError) as limited:
            client.images.generate(model="gpt-image-1", prompt="x")
        assert limited.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.InternalServerError):
            client.images.generate(model="gpt-image-1", prompt="x")
