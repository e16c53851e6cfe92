"""Images of stable-diffusion.cpp through the gateway: settings arrive, untrusted tags do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from PIL import Image

import majordomo as md
from majordomo import imagegen

pytestmark = [pytest.mark.real, pytest.mark.anyio]

PROMPT = "a red fox in the snow"
HOSTILE = 'a fox <sd_cpp_extra_args>{"seed":99,"width":128}</sd_cpp_extra_args> in the snow'
NEUTRALIZED = 'a fox < sd_cpp_extra_args>{"seed":99,"width":128}< /sd_cpp_extra_args> in the snow'

# Our settings, and the engine's own settings for the same image.
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "seed": ({"seed": 5}, {"seed": 5}),
    "another seed": ({"seed": 6}, {"seed": 6}),
    "steps": ({"seed": 5, "steps": 4}, {"seed": 5, "sample_steps": 4}),
    "sampler": ({"seed": 5, "sampler": "heun"}, {"seed": 5, "sample_method": "heun"}),
    "cfg": ({"seed": 5, "cfg_scale": 3.5}, {"seed": 5, "cfg_scale": 3.5}),
    "negative prompt": (
        {"seed": 5, "cfg_scale": 3.5, "negative_prompt": "blurry <b>"},
        {"seed": 5, "cfg_scale": 3.5, "negative_prompt": "blurry <b>"},
    ),
    "scheduler": (
        {"seed": 5, "steps": 4, "scheduler": "karras"},
        {"seed": 5, "sample_steps": 4, "scheduler": "karras"},
    ),
    "size": ({"seed": 5, "size": "128x64"}, {"seed": 5, "width": 128}),
    "all of them": (
        {
            "seed": 7,
            "steps": 3,
            "sampler": "euler",
            "scheduler": "simple",
            "cfg_scale": 2.0,
            "negative_prompt": "rain",
            "size": "64x64",
        },
        {
            "seed": 7,
            "sample_steps": 3,
            "sample_method": "euler",
            "scheduler": "simple",
            "cfg_scale": 2.0,
            "negative_prompt": "rain",
        },
    ),
}


def pixels(image: md.ImagePart) -> bytes:
    """Return the pixels of an image in RGB."""
    return image.to_pil().convert("RGB").tobytes()


@pytest.mark.parametrize(("settings", "engine_settings"), SETTINGS.values(), ids=SETTINGS.keys())
async def test_a_setting_gives_exactly_the_pixels_of_the_engine(
    swap: md.LlamaSwap,
    drawn_directly: Callable[..., bytes],
    settings: dict[str, Any],
    engine_settings: dict[str, Any],
) -> None:
    result = await swap.image_model("tiny-image").generate(
        PROMPT, **{"size": "64x64", "steps": 2, **settings}
    )
    assert pixels(result.image) == drawn_directly(prompt=PROMPT, **engine_settings)
    assert result.details[0].seed == settings["seed"]
    assert result.warnings == ()


async def test_every_setting_changes_the_image(drawn_directly: Callable[..., bytes]) -> None:
    images = [
        drawn_directly(prompt=PROMPT, **engine_settings) for _, engine_settings in SETTINGS.values()
    ]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("images", ["openai+tag", "openai"])
async def test_only_the_tag_sends_the_seed(
    gateway: Any, drawn_directly: Callable[..., bytes], images: Any
) -> None:
    async with md.LlamaSwap(gateway.url, images=images) as provider:
        result = await provider.image_model("tiny-image").generate(
            PROMPT, size="64x64", steps=2, seed=5
        )
    # Without the tag the server uses its default seed.
    seed = 5 if images == "openai+tag" else 42
    assert pixels(result.image) == drawn_directly(prompt=PROMPT, seed=seed)
    assert result.details[0].seed == seed


async def test_an_unset_seed_is_the_default_of_the_server_with_a_warning(
    swap: md.LlamaSwap, drawn_directly: Callable[..., bytes]
) -> None:
    result = await swap.image_model("tiny-image").generate(PROMPT)
    assert pixels(result.image) == drawn_directly(prompt=PROMPT, seed=42)
    assert result.details[0].seed == 42
    assert [warning.code for warning in result.warnings] == ["SEED_DEFAULT"]


@pytest.mark.parametrize(
    ("settings", "seed"), [({"seed": 5, "steps": 2}, 5), ({}, 42)], ids=["with settings", "without"]
)
async def test_a_tag_in_the_prompt_sets_nothing(
    swap: md.LlamaSwap, drawn_directly: Callable[..., bytes], settings: dict[str, Any], seed: int
) -> None:
    result = await swap.image_model("tiny-image").generate(HOSTILE, size="64x64", **settings)
    assert (result.image.width, result.image.height) == (64, 64)
    assert result.details[0].seed == seed
    assert pixels(result.image) == drawn_directly(prompt=NEUTRALIZED, seed=seed)
    assert "TAG_NEUTRALIZED" in [warning.code for warning in result.warnings]


async def test_a_tag_in_the_negative_prompt_sets_nothing(
    swap: md.LlamaSwap, drawn_directly: Callable[..., bytes]
) -> None:
    hostile = 'rain</sd_cpp_extra_args><sd_cpp_extra_args>{"seed":99}</sd_cpp_extra_args>'
    result = await swap.image_model("tiny-image").generate(
        PROMPT, size="64x64", steps=2, seed=5, cfg_scale=3.5, negative_prompt=hostile
    )
    assert pixels(result.image) == drawn_directly(
        prompt=PROMPT, seed=5, cfg_scale=3.5, negative_prompt=hostile
    )


async def test_a_seed_in_the_prompt_text_is_not_reported_as_the_seed(
    swap: md.LlamaSwap,
) -> None:
    result = await swap.image_model("tiny-image").generate(
        "a fox, Seed: 99, in the snow", size="64x64", steps=2, seed=5
    )
    assert result.details[0].seed == 5


async def test_a_batch_counts_its_seeds_up(
    swap: md.LlamaSwap, drawn_directly: Callable[..., bytes]
) -> None:
    result = await swap.image_model("tiny-image").generate(
        PROMPT, size="64x64", steps=2, seed=5, n=2
    )
    assert [pixels(image) for image in result.images] == [
        drawn_directly(prompt=PROMPT, seed=seed) for seed in (5, 6)
    ]
    assert [details.seed for details in result.details] == [5, 6]


async def test_a_size_the_engine_rounds_up_is_reported(swap: md.LlamaSwap) -> None:
    result = await swap.image_model("tiny-image").generate(PROMPT, size="65x70", steps=2, seed=5)
    assert result.details[0].actual_size == (result.image.width, result.image.height) == (72, 72)
    assert [warning.code for warning in result.warnings] == ["SIZE_DIFFERS"]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_the_image_has_the_requested_format(swap: md.LlamaSwap, output_format: str) -> None:
    result = await swap.image_model("tiny-image").generate(
        PROMPT, size="64x64", steps=2, seed=5, output_format=output_format
    )
    assert result.image.mime == f"image/{output_format}"
    assert result.image.to_pil().size == (64, 64)


async def test_an_image_stream_ends_with_the_same_image(
    swap: md.LlamaSwap, drawn_directly: Callable[..., bytes]
) -> None:
    async with swap.image_model("tiny-image").stream(
        PROMPT, size="64x64", steps=2, seed=5
    ) as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], md.imagegen.Done)
    assert pixels(events[-1].result.image) == drawn_directly(prompt=PROMPT, seed=5)


async def test_a_setting_refused_by_the_server_is_an_invalid_request(swap: md.LlamaSwap) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await swap.image_model("tiny-image").generate(
            PROMPT, size="64x64", extra={"output_format": "tiff"}
        )
    assert caught.value.status == 400
    assert "invalid output_format" in caught.value.message


async def test_a_wrong_type_in_extra_is_a_backend_error(swap: md.LlamaSwap) -> None:
    with pytest.raises(md.BackendError) as caught:
        await swap.image_model("tiny-image").generate(PROMPT, size="64x64", extra={"n": "2"})
    assert caught.value.status == 500
    assert caught.value.details["backend_code"] == "server_error"


def test_the_sync_method_gives_the_same_image(
    gateway: Any, drawn_directly: Callable[..., bytes]
) -> None:
    with md.LlamaSwap(gateway.url) as provider:
        result = provider.image_model("tiny-image").generate_sync(
            PROMPT, size="64x64", steps=2, seed=5, cfg_scale=1.0, sampler="euler"
        )
    assert pixels(result.image) == drawn_directly(prompt=PROMPT, seed=5)


# Every route to the engine.
ROUTES: dict[str, Callable[[str, str], tuple[Any, str]]] = {
    "native": lambda sd, swap: (md.StableDiffusion(sd), "tiny"),
    "sdapi": lambda sd, swap: (md.StableDiffusion(sd, api="sdapi"), "tiny"),
    "openai": lambda sd, swap: (md.StableDiffusion(sd, api="openai"), "tiny"),
    "swap, tag": lambda sd, swap: (md.LlamaSwap(swap), "tiny-image"),
    "swap, sdapi": lambda sd, swap: (md.LlamaSwap(swap, images="sdapi"), "tiny-image"),
}


@pytest.fixture(params=ROUTES)
async def image_model(
    request: pytest.FixtureRequest, sd_url: str, gateway: Any
) -> AsyncIterator[imagegen.Model]:
    provider, model = ROUTES[request.param](sd_url, gateway.url)
    async with provider:
        yield provider.image_model(model)


@pytest.mark.parametrize(("settings", "engine_settings"), SETTINGS.values(), ids=SETTINGS.keys())
async def test_every_route_gives_the_pixels_of_the_engine(
    image_model: imagegen.Model,
    drawn_directly: Callable[..., bytes],
    settings: dict[str, Any],
    engine_settings: dict[str, Any],
) -> None:
    result = await image_model.generate(PROMPT, **{"size": "64x64", "steps": 2, **settings})
    assert pixels(result.image) == drawn_directly(prompt=PROMPT, **engine_settings)
    assert result.details[0].seed == settings["seed"]
    assert result.image.parameters["prompt"] == PROMPT


async def test_every_route_counts_the_seeds_of_a_batch_up(
    image_model: imagegen.Model, drawn_directly: Callable[..., bytes]
) -> None:
    result = await image_model.generate(PROMPT, size="64x64", steps=2, seed=5, n=2)
    assert [pixels(image) for image in result.images] == [
        drawn_directly(prompt=PROMPT, seed=seed) for seed in (5, 6)
    ]


async def test_every_route_accepts_an_initial_image(
    image_model: imagegen.Model, image: Callable[..., md.ImagePart]
) -> None:
    initial_image = image(64, 64, "white", kind="JPEG", mode="L")
    weak, strong = [
        (
            await image_model.generate(PROMPT, images=[initial_image], strength=s, steps=4, seed=5)
        ).image
        for s in (0.1, 1.0)
    ]
    assert pixels(weak) != pixels(strong)
    assert (weak.width, weak.height) == (64, 64)


async def test_every_route_gives_the_same_pixels_for_an_edit(
    sd_url: str, gateway: Any, image: Callable[..., md.ImagePart]
) -> None:
    half = Image.new("L", (64, 64), 0)
    half.paste(255, (32, 0, 64, 64))
    fields: dict[str, Any] = {
        "images": [image(64, 64, "red")],
        "mask": md.ImagePart.from_pil(half),
        "strength": 0.9,
        "steps": 4,
        "seed": 5,
    }
    images: dict[str, bytes] = {}
    # OpenAI's routes are left out: they make every upload a reference image as well.
    for name in ("native", "sdapi", "swap, sdapi"):
        provider, model = ROUTES[name](sd_url, gateway.url)
        async with provider:
            images[name] = pixels(
                (await provider.image_model(model).generate(PROMPT, **fields)).image
            )
            plain = pixels(
                (
                    await provider.image_model(model).generate(PROMPT, **{**fields, "mask": None})
                ).image
            )
    assert len(set(images.values())) == 1
    assert plain not in images.values(), "the mask matters"
