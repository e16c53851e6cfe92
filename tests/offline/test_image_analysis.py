"""Tests of image analysis: measured properties, and parameters read from the file."""

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from majordomo.errors import InvalidRequestError
from majordomo.imagegen import Request
from majordomo.imaging import embed_parameters
from majordomo.media.image_part import ImagePart
from majordomo.offline.image_analysis import analyze
from majordomo.offline.renderer.palette import NAMED_COLORS
from majordomo.offline.renderer.renderer import Renderer


def plain(color: str | tuple[int, ...], mode: str = "RGB") -> ImagePart:
    return ImagePart.from_pil(Image.new(mode, (40, 30), color))


def png_with_parameters(parameters: str) -> ImagePart:
    """Return a PNG with this text in its "parameters" chunk."""
    chunks, buffer = PngInfo(), io.BytesIO()
    chunks.add_text("parameters", parameters)
    Image.new("RGB", (2, 2)).save(buffer, "PNG", pnginfo=chunks)
    return ImagePart(buffer.getvalue())


@pytest.mark.parametrize("name", sorted(NAMED_COLORS))
def test_analysis_names_a_uniform_color(name: str) -> None:
    analysis = analyze(plain(NAMED_COLORS[name]))
    assert analysis.palette == ((name, 1.0),)
    assert analysis.contrast == 0
    assert analysis.mood.endswith(f"all {name}")


def test_brightness_and_mood_of_black_and_white() -> None:
    black, white = analyze(plain("black")), analyze(plain("white"))
    assert (black.brightness, white.brightness) == (0.0, 1.0)
    assert black.mood == "calm and dark, all black"
    assert white.mood == "calm and bright, all white"


def test_warmth_is_positive_for_warm_and_negative_for_cold_colors() -> None:
    assert analyze(plain("orange")).warmth > 0.5
    assert analyze(plain("navy")).warmth < -0.5
    assert analyze(plain("gray")).warmth == 0


def test_palette_is_sorted_by_share() -> None:
    image = Image.new("RGB", (40, 40), NAMED_COLORS["navy"])
    image.paste(NAMED_COLORS["gold"], (0, 0, 10, 40))
    analysis = analyze(ImagePart.from_pil(image))
    assert analysis.palette == (("navy", 0.75), ("gold", 0.25))
    assert analysis.mood.endswith("mostly navy")
    assert analysis.contrast > 0.4


def test_palette_is_limited_to_five_colors() -> None:
    image = Image.new("RGB", (64, 32))
    for index, name in enumerate(
        ("red", "green", "navy", "gold", "white", "teal", "pink", "brown")
    ):
        image.paste(NAMED_COLORS[name], (8 * index, 0, 8 * index + 8, 32))
    assert len(analyze(ImagePart.from_pil(image)).palette) == 5


def test_palette_ignores_transparent_pixels() -> None:
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((*NAMED_COLORS["navy"], 255), (0, 0, 20, 40))
    analysis = analyze(ImagePart.from_pil(image))
    assert analysis.transparent
    assert analysis.palette == (("navy", 1.0),)


def test_fully_transparent_image_has_no_palette() -> None:
    analysis = analyze(plain((200, 20, 20, 0), "RGBA"))
    assert (analysis.transparent, analysis.palette, analysis.brightness) == (True, (), 0.0)
    assert analysis.mood == "nothing to see, wholly transparent"


def test_opaque_alpha_channel_is_not_transparent() -> None:
    assert not analyze(plain((200, 20, 20, 255), "RGBA")).transparent


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_analysis_reads_every_image_format(kind: str) -> None:
    analysis = analyze(ImagePart.from_pil(Image.new("RGB", (90, 20), NAMED_COLORS["teal"]), kind))
    assert (analysis.width, analysis.height, analysis.mime) == (90, 20, f"image/{kind.lower()}")
    assert analysis.palette[0][0] == "teal"
    assert analysis.prompt is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16"])
def test_analysis_reads_every_pixel_mode(mode: str) -> None:
    assert analyze(ImagePart.from_pil(Image.new(mode, (9, 9)))).brightness == 0


def test_analysis_reads_prompt_and_seed_of_a_rendered_image() -> None:
    request = Request(
        "a lighthouse\nat dusk",
        negative_prompt="boats,\nwhales",
        sampler='odd, "sampler": 1',
        cfg_scale=4.5,
    )
    analysis = analyze(Renderer(request, seed=2**63 - 1, size=(64, 48), steps=3).finish())
    assert (analysis.prompt, analysis.negative_prompt, analysis.seed) == (
        "a lighthouse\nat dusk",
        "boats,\nwhales",
        2**63 - 1,
    )
    assert analysis.parameters["Sampler"] == 'odd, "sampler": 1'
    assert analysis.parameters["CFG scale"] == "4.5"
    assert "no neural network" in analysis.texts["Software"]


def test_analysis_reads_prompts_in_any_script() -> None:
    image = Renderer(Request("夕暮れの灯台 🙂"), seed=1, size=(8, 8), steps=1).finish()
    assert analyze(image).prompt == "夕暮れの灯台 🙂"


def test_analysis_reads_parameters_of_other_programs() -> None:
    text = (
        "a cat,\n(masterpiece:1.2), <lora:x:1>\nNegative prompt: ugly, 3 hands\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, "
        'CFG scale: 7, Seed: 123, Size: 512x768, Lora hashes: "x: 0a1b, y: 2c3d", Version: v1.10.1'
    )
    analysis = analyze(png_with_parameters(text))
    assert analysis.prompt == "a cat,\n(masterpiece:1.2), <lora:x:1>"
    assert analysis.negative_prompt == "ugly, 3 hands"
    parameters = analysis.parameters
    assert parameters["Lora hashes"] == "x: 0a1b, y: 2c3d"
    assert parameters["Seed"] == "123"
    assert parameters["Sampler"] == "DPM++ 2M"
    assert parameters["Version"] == "v1.10.1"


GARBAGE = {
    "empty": ("", ""),
    "spaces": (" \n \t", ""),
    "one word": ("hello", "hello"),
    "only colons": (":::::", ":::::"),
    "a pair, but no settings": ("mood: calm", "mood: calm"),
    "an open quote": ('x\nSteps: 20, Sampler: "eul', "x"),
    "no prompt": ("Steps: 20, Seed: 5", ""),
    "only the negative": ("Negative prompt: boats", ""),
    "commas": (",,,,", ",,,,"),
    "long and malformed": ("a: b, " * 20_000 + "\x01", ("a: b, " * 20_000).strip() + " \x01"),
    "JSON": ('{"prompt": "x", "seed": 1}', '{"prompt": "x", "seed": 1}'),
}


@pytest.mark.parametrize(("text", "prompt"), GARBAGE.values(), ids=GARBAGE.keys())
def test_malformed_parameters_do_not_raise(text: str, prompt: str) -> None:
    assert analyze(png_with_parameters(text)).prompt == prompt


@pytest.mark.parametrize("seed", ["-1", "seven", "", "1e9", "9" * 400, "٧"])
def test_invalid_seed_is_none(seed: str) -> None:
    assert analyze(png_with_parameters(f"x\nSteps: 1, Seed: {seed}")).seed is None


def test_image_without_text_has_no_parameters() -> None:
    assert analyze(plain("red")).parameters == {}
    assert analyze(ImagePart.from_pil(Image.new("RGB", (3, 3)), "JPEG")).parameters == {}


def test_truncated_image_raises_invalid_request_error() -> None:
    data = plain("red").data
    with pytest.raises(InvalidRequestError):
        analyze(ImagePart(data[: data.index(b"IDAT") + 6]))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_analysis_reads_parameters_of_formats_without_text_chunks(kind: str) -> None:
    image = embed_parameters(
        ImagePart.from_pil(Image.new("RGB", (9, 9)), kind), {"prompt": "a fox", "seed": 5}
    )
    assert (analyze(image).prompt, analyze(image).seed) == ("a fox", 5)
    assert analyze(image).parameters["Seed"] == "5"
