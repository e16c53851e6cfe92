"""Tests of the offline renderer: what each field of a request does to the image."""

import struct
from functools import cache
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from majordomo.errors import InvalidRequestError
from majordomo.imagegen import Request
from majordomo.media.image_containers import png_text
from majordomo.media.image_part import ImagePart
from majordomo.offline.renderer.brushes import BRUSHES, SAMPLERS, brush_for
from majordomo.offline.renderer.canvas import Canvas
from majordomo.offline.renderer.palette import rng_for
from majordomo.offline.renderer.placement import Placement
from majordomo.offline.renderer.renderer import MODEL, Renderer
from majordomo.offline.renderer.scene import SUBJECTS, read_scene
from majordomo.offline.renderer.stage import Stage
from majordomo.offline.renderer.subjects import DRAWABLES

PROMPT = "a lighthouse at dusk"
SIZE = (96, 64)


def draw(
    prompt: str = PROMPT,
    *,
    seed: int = 7,
    size: tuple[int, int] = SIZE,
    steps: int = 6,
    **fields: Any,
) -> ImagePart:
    return Renderer(Request(prompt, **fields), seed=seed, size=size, steps=steps).finish()


def difference(one: ImagePart, other: ImagePart) -> float:
    """Return the mean absolute difference of two images per channel, 0 to 255."""
    return (
        sum(
            ImageStat.Stat(
                ImageChops.difference(one.to_pil().convert("RGB"), other.to_pil().convert("RGB"))
            ).mean
        )
        / 3
    )


def plain(
    color: str | tuple[int, ...], size: tuple[int, int] = SIZE, mode: str = "RGB"
) -> ImagePart:
    return ImagePart.from_pil(Image.new(mode, size, color))


def checkered(size: tuple[int, int] = SIZE) -> ImagePart:
    """Return an image in which every pixel differs from its neighbors."""
    width, height = size
    return ImagePart.from_pil(
        Image.frombytes(
            "RGB",
            size,
            bytes(
                (x * 37 + y * 11 + c * 80) % 256
                for y in range(height)
                for x in range(width)
                for c in range(3)
            ),
        )
    )


def left_half(size: tuple[int, int] = SIZE) -> ImagePart:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return ImagePart.from_pil(mask)


def test_equal_requests_give_equal_bytes() -> None:
    assert draw(sampler="euler_a", negative_prompt="boats") == draw(
        sampler="euler_a", negative_prompt="boats"
    )


def test_default_format_is_png_in_the_requested_size() -> None:
    image = draw(size=(120, 88))
    assert (image.mime, image.width, image.height) == ("image/png", 120, 88)


@cache
def unchanged_request() -> ImagePart:
    return draw()


CHANGES: dict[str, dict[str, Any]] = {
    "another prompt": {"prompt": "a castle in the mountains at noon"},
    "an unknown word": {"prompt": PROMPT + " zyzzyva"},
    "a color": {"prompt": PROMPT + ", green"},
    "another seed": {"seed": 8},
    "fewer steps": {"steps": 1},
    "more steps": {"steps": 40},
    "low cfg_scale": {"cfg_scale": 1.0},
    "zero cfg_scale": {"cfg_scale": 0.0},
    "high cfg_scale": {"cfg_scale": 14},
    "a negative prompt": {"negative_prompt": "blurry"},
    "a scheduler": {"scheduler": "karras"},
    "an unknown scheduler": {"scheduler": "no such scheduler"},
    "low quality": {"quality": "low"},
    "high quality": {"quality": "high"},
    "a background color": {"background": "mint"},
    "an unknown background": {"background": "studio"},
    "images": {"images": (plain("green"),)},
} | {
    f"sampler {name}": {"sampler": name}
    for name in ("heun", "euler_a", "lcm", "ddim", "dpm2", "dpmpp2m", "no such sampler")
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_field_changes_the_image(change: dict[str, Any]) -> None:
    assert difference(unchanged_request(), draw(**change)) > 0.8


@pytest.mark.parametrize(("strength", "other"), [(0.2, 0.5), (0.5, 0.8), (0.8, 1.0)])
def test_higher_strength_changes_more_of_the_input_image(strength: float, other: float) -> None:
    init = checkered()
    little, much = draw(images=(init,), strength=strength), draw(images=(init,), strength=other)
    assert difference(init, little) + 2 < difference(init, much)


def test_strength_0_returns_the_input_image() -> None:
    init = checkered()
    assert draw(images=(init,), strength=0.0).to_pil().tobytes() == init.to_pil().tobytes()


def test_strength_1_ignores_the_input_image() -> None:
    assert draw(images=(checkered(),), strength=1.0).to_pil().tobytes() == draw().to_pil().tobytes()


def test_further_images_change_the_colors() -> None:
    def green_share(image: ImagePart) -> float:
        red, green, blue = ImageStat.Stat(image.to_pil()).mean
        return green - (red + blue) / 2

    init = checkered()
    assert (
        green_share(draw(images=(init, plain("lime")), strength=1.0))
        > green_share(draw(images=(init,), strength=1.0)) + 30
    )


def test_black_mask_area_keeps_the_input_image() -> None:
    init = checkered()
    black_area, white_area = (48, 0, 96, 64), (0, 0, 48, 64)
    image = draw(images=(init,), mask=left_half()).to_pil()
    assert image.crop(black_area).tobytes() == init.to_pil().crop(black_area).tobytes()
    assert image.crop(white_area).tobytes() == draw().to_pil().crop(white_area).tobytes()


def test_mask_and_input_image_are_resized_to_the_output_size() -> None:
    init = plain((10, 200, 30), (300, 300))
    image = draw(images=(init,), mask=left_half((30, 10))).to_pil()
    assert image.size == SIZE
    assert image.getpixel((90, 30)) == (10, 200, 30)
    assert image.getpixel((5, 5)) != (10, 200, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_mask_may_have_any_pixel_mode(mode: str) -> None:
    mask = ImagePart.from_pil(left_half().to_pil().convert(mode))
    init = checkered()
    image = draw(images=(init,), mask=mask).to_pil()
    assert image.getpixel((90, 30)) == init.to_pil().getpixel((90, 30))
    assert difference(init, ImagePart.from_pil(image)) > 5


def test_sixteen_bit_mask_is_scaled() -> None:
    mask = Image.new("I;16", SIZE, 0)
    mask.paste(65535, (0, 0, 48, 64))
    init = checkered()
    image = draw(images=(init,), mask=ImagePart.from_pil(mask))
    assert image.to_pil().tobytes() == draw(images=(init,), mask=left_half()).to_pil().tobytes()


def test_previews_do_not_change_the_image() -> None:
    renderer = Renderer(Request(PROMPT, previews=5), seed=7, size=SIZE, steps=6)
    previews = [renderer.preview()]
    while renderer.step() < renderer.total:
        previews.append(renderer.preview())
    previews.append(renderer.preview())
    assert renderer.finish() == draw()
    assert len({image.sha256 for image in previews}) == len(previews)


def test_previews_converge_to_the_image() -> None:
    renderer = Renderer(Request(PROMPT), seed=7, size=SIZE, steps=8)
    previews = [renderer.preview()] + [renderer.preview() for _ in range(8) if renderer.step()]
    distances = [difference(image, renderer.finish()) for image in previews]
    assert distances[0] > distances[4] > distances[8]
    assert distances[8] == 0


def test_previews_are_limited_to_256_pixels_per_side() -> None:
    renderer = Renderer(Request(PROMPT), seed=7, size=(1000, 500), steps=8)
    renderer.step()
    assert (renderer.preview().width, renderer.preview().height) == (256, 128)


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 150])
def test_step_returns_the_step_number_and_stops_at_the_last(steps: int) -> None:
    renderer = Renderer(Request(PROMPT), seed=7, size=SIZE, steps=steps)
    assert [renderer.step() for _ in range(steps)] == list(range(1, steps + 1))
    assert renderer.step() == steps
    assert renderer.finish() == draw(steps=steps)


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_image_has_the_requested_format(name: str) -> None:
    image = draw(output_format=name)
    assert image.mime == f"image/{name}"
    assert difference(image, draw()) < 8


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_lower_quality_gives_fewer_bytes(name: str) -> None:
    low, high = (draw(output_format=name, quality=quality) for quality in ("low", "high"))
    assert len(low.data) < len(high.data)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_jpeg_and_webp_name_the_software_in_exif(name: str) -> None:
    assert "no neural network" in draw(output_format=name).to_pil().getexif()[0x0131]


@pytest.mark.parametrize("name", ["png", "webp"])
def test_transparent_background_removes_the_sky(name: str) -> None:
    alpha = draw(background="transparent", output_format=name, seed=7).to_pil().getchannel("A")
    assert alpha.getpixel((2, 2)) == 0
    assert alpha.getpixel((2, 62)) == 255


def test_jpeg_with_transparent_background_is_rgb() -> None:
    assert draw(background="transparent", output_format="jpeg").to_pil().mode == "RGB"


def test_transparency_of_the_input_image_is_kept() -> None:
    init = plain((200, 30, 30, 0), mode="RGBA")
    image = draw(images=(init,), mask=left_half()).to_pil()
    assert image.getpixel((90, 30)) == (200, 30, 30, 0)
    assert image.getchannel("A").getpixel((4, 4)) == 255


def test_png_stores_the_generation_parameters() -> None:
    texts = png_text(draw(negative_prompt="boats", sampler="euler_a", cfg_scale=4.5).data)
    assert texts["parameters"] == (
        "a lighthouse at dusk\nNegative prompt: boats\n"
        f"Steps: 6, Sampler: euler_a, CFG scale: 4.5, Seed: 7, Size: 96x64, Model: {MODEL}"
    )
    assert texts["Software"] == "majordomo offline sketch (no neural network)"


SIZES = [
    (1, 1),
    (8, 8),
    (2, 90),
    (64, 48),
    (3, 2000),
    pytest.param((16384, 16), marks=pytest.mark.slow),
    (511, 257),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT,
        "a cat and a tree in the snowy mountains",
        "abstract",
        "a city in a storm, balloon",
        "a planet in space",
    ],
)
def test_renderer_supports_any_size(prompt: str, size: tuple[int, int]) -> None:
    renderer = Renderer(Request(prompt), seed=3, size=size, steps=3)
    renderer.step()
    assert renderer.preview().to_pil().size[0] <= 256
    image = renderer.finish()
    assert image.to_pil().size == size


PROMPTS = {
    "nothing": "",
    "punctuation": "!?…—🙂",
    "other scripts": "夕暮れの灯台 маяк في الغسق",
    "control characters": "a\x00b\x1b[31m\r\n\ufeff",
    "a lone surrogate": "\ud800 lighthouse",
    "very long": "a lighthouse, " * 70_000,
    "every subject": " ".join(SUBJECTS),
    "every size of hash": "#fff #ffffff #gggggg #",
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_renderer_accepts_any_prompt(prompt: str) -> None:
    image = draw(
        prompt,
        negative_prompt=prompt[:50],
        sampler=prompt[:50],
        scheduler=prompt[:50],
        background=prompt[:50],
    )
    assert image.to_pil().size == SIZE
    assert len(image.data) < 200_000


@pytest.mark.parametrize("name", sorted(DRAWABLES))
def test_every_drawable_changes_the_canvas(name: str) -> None:
    stage = Stage(
        Canvas(96, 64, keep_opaque_mask=True),
        read_scene("hills at noon", "", 7),
        ("root",),
        detail=1.0,
        guidance=1.0,
    )
    stage.canvas.image.paste((230, 60, 190), (0, 0, 96, 64))
    before = stage.canvas.image.copy()
    DRAWABLES[name].draw(Placement(stage, 48, 56, 40, rng_for("placement"), None))
    changed = (
        ImageChops.difference(before, stage.canvas.image)
        .convert("L")
        .point(lambda level: 255 if level > 12 else 0)
    )
    assert ImageStat.Stat(changed).sum[0] / 255 > 60


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_every_subject_word_and_its_plural_are_recognized(name: str) -> None:
    assert read_scene(f"a {name}", "", 7).has(SUBJECTS[name])
    assert not read_scene(f"{name}s everywhere", name, 7).has(SUBJECTS[name])


def test_negative_prompt_excludes_a_subject() -> None:
    with_boat, without_boat = (
        read_scene("a lighthouse and a boat at dusk", "", 7),
        read_scene("a lighthouse and a boat at dusk", "boats", 7),
    )
    assert with_boat.has("boat")
    assert not without_boat.has("boat")
    assert without_boat.has("lighthouse")
    assert without_boat.hour == with_boat.hour
    assert without_boat.location == with_boat.location


def test_excluded_lighthouse_is_not_drawn() -> None:
    # Above the horizon of a moonless night nothing is as bright as the lamp.
    def white(image: ImagePart) -> int:
        sky = image.to_pil().crop((0, 20, 256, 130)).convert("L")
        return sum(sky.histogram()[235:])

    night = "a lighthouse on a cloudless night"
    with_it, without = (
        draw(night, size=(256, 256), negative_prompt=unwanted)
        for unwanted in ("moon, stars", "moon, stars, lighthouse")
    )
    assert white(with_it) > 25
    assert white(without) == 0


def test_negative_prompt_excludes_a_color() -> None:
    def red(image: ImagePart) -> float:
        mean = ImageStat.Stat(image.to_pil()).mean
        return mean[0] - (mean[1] + mean[2]) / 2

    assert (
        red(draw("the sea at sunset", negative_prompt="red"))
        < red(draw("the sea at sunset", negative_prompt="stone")) - 15
    )


def test_subject_gets_the_color_named_before_it() -> None:
    scene = read_scene("a blue boat and a lighthouse", "", 7)
    assert [(subject.name, subject.color is not None) for subject in scene.subjects] == [
        ("boat", True),
        ("lighthouse", False),
    ]


def test_truncated_input_image_raises_invalid_request_error() -> None:
    data = plain("red").data
    broken = ImagePart(data[: data.index(b"IDAT") + 6])
    with pytest.raises(InvalidRequestError) as caught:
        Renderer(Request(PROMPT, images=(broken,)), seed=1, size=SIZE, steps=1)
    assert caught.value.code == "NOT_AN_IMAGE"


def test_decompression_bomb_is_rejected_before_decoding() -> None:
    bomb = bytearray(plain("red").data)
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(InvalidRequestError) as caught:
        Renderer(Request(PROMPT, images=(ImagePart(bytes(bomb)),)), seed=1, size=SIZE, steps=1)
    assert caught.value.code == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize(("size", "steps"), [((0, 5), 1), ((5, 0), 1), ((5, 5), 0)])
def test_zero_size_or_steps_raises_invalid_request_error(size: tuple[int, int], steps: int) -> None:
    with pytest.raises(InvalidRequestError):
        Renderer(Request(PROMPT), seed=1, size=size, steps=steps)


def test_webp_above_its_maximum_size_raises_invalid_request_error() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Renderer(Request(PROMPT, output_format="webp"), seed=1, size=(16_384, 8), steps=1)
    assert caught.value.field == "output_format"


def test_canvas_of_a_large_image_is_bounded() -> None:
    renderer = Renderer(Request(PROMPT, quality="high"), seed=1, size=(8000, 5000), steps=1)
    assert renderer.preview().to_pil().size == (256, 160)
    assert renderer._stage.canvas.width * renderer._stage.canvas.height < 10_000_000


def test_every_brush_has_a_sampler() -> None:
    assert {brush_for(name) for name in SAMPLERS} == set(BRUSHES)
    assert brush_for("Euler A") == brush_for("euler_a")
    assert brush_for("") == "soft"


def test_every_subject_has_a_drawable() -> None:
    drawn_with_the_sky = {"sun", "moon", "star"}
    assert set(SUBJECTS.values()) - drawn_with_the_sky == set(DRAWABLES)
